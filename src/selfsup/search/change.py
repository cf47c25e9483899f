"""What a change of an index did."""

from __future__ import annotations

from dataclasses import dataclass

from selfsup.search.faiss_index import Quality


@dataclass(frozen=True)
class Change:
    """What a change did.

    Attributes:
        added: documents that are new.
        renewed: documents that have another content now.
        kept: documents that were there as they are.
        removed: documents that are not there any more.
        passages: rows that were added.
        bad: (name, reason) of documents that could not be read.
        quality: recall and efSearch of the graph that was made; of several that with the least recall.
    """

    added: int = 0
    renewed: int = 0
    kept: int = 0
    removed: int = 0
    passages: int = 0
    bad: tuple[tuple[str, str], ...] = ()
    quality: Quality | None = None

    def __str__(self) -> str:
        """One line of what is not zero."""
        counts = [
            (self.added, "added"), (self.renewed, "renewed"), (self.kept, "as they were"), (self.removed, "removed"),
            (len(self.bad), "not read"),
        ]  # fmt: skip
        said = [f"{count:,} {what}" for count, what in counts if count]
        if not said:
            return "nothing changed"
        count, what = said[0].split(" ", 1)
        said[0] = f"{count} {'document' if count == '1' else 'documents'} {what}"
        line = ", ".join(said)
        if self.passages > self.added + self.renewed:
            line += f"; {self.passages:,} passages"
        return f"{line}; {self.quality}" if self.quality else line
