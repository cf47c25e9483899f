"""What a change leaves behind: few segments, each with all that belongs to it, on the disk.

Segments that stand side by side are merged as in a log-structured merge tree (O'Neil et al. 1996): until each has more
than twice the rows of the next one. So there are no more than log2 of the rows, and a row is copied about as often.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selfsup.progress import Progress
from selfsup.run import writing
from selfsup.search import faiss_index
from selfsup.search.faiss_index import Quality
from selfsup.search.segment import VECTORS, Segment, TableWriter
from selfsup.search.shelf import Contents, Named, Shelf, sync_all

FACTOR = 2  # a segment is merged with what follows it up to so many times as many rows
BLOCK = 4096  # vectors that are copied at once


@dataclass(frozen=True)
class Run:
    """Segments side by side that become one.

    Attributes:
        names: of each.
        segments: the same, opened.
        schema: columns of all of them.
    """

    names: tuple[Named, ...]
    segments: tuple[Segment, ...]
    schema: pa.Schema

    @property
    def count(self) -> int:
        """Rows that count."""
        return sum(one.count for one in self.segments)

    @property
    def stays(self) -> bool:
        """Whether it is one segment that can stay as it is: at least half of its rows count."""
        return len(self.names) == 1 and 2 * self.count >= self.names[0].rows

    def joined(self, following: Run) -> Run | None:
        """Both in one; None where a column has different types in the two."""
        try:
            schema = pa.unify_schemas([self.schema, following.schema])
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            return None
        return Run(self.names + following.names, self.segments + following.segments, schema)

    def write(self, folder: Path) -> None:
        """Write the rows that count as one segment."""
        folder.mkdir()
        with open(folder / VECTORS, "wb") as target, TableWriter(folder, self.schema) as table:
            for one in self.segments:
                rows = np.flatnonzero(one.there)
                for start in range(0, len(rows), BLOCK):
                    target.write(np.ascontiguousarray(one.vectors[rows[start : start + BLOCK]]).data)
                for some in one.tables():
                    table.write_table(some)


def runs_of(segments: Iterable[Run]) -> list[Run]:
    """Runs, each of which has more than twice the rows of the next one, where their columns allow it."""
    found: list[Run] = []
    for one in segments:
        last = one
        while found and found[-1].count <= FACTOR * last.count and (both := found[-1].joined(last)) is not None:
            found.pop()
            last = both
        found.append(last)
    return found


def completed(segment: Segment, about: dict[str, Any], progress: Progress) -> Quality | None:
    """Add to a segment what is made of the whole of it: its words, and its graph, of which the quality is told."""
    if about["kind"] == "text":
        progress.say("counting words") if segment.count > BLOCK else None
        segment.count_words()
    if about["index"] == "hnsw" and segment.count >= faiss_index.LEAST:
        return faiss_index.build(segment.folder, segment.vectors, progress)
    return None


def settled(
    shelf: Shelf, contents: Contents, fresh: Sequence[Named], progress: Progress
) -> tuple[Contents, Quality | None]:
    """The same rows in few segments, all of which are complete and on the disk; nothing is in force yet.

    Args:
        shelf: that they stand on.
        contents: of it, `fresh` among them.
        fresh: segments whose rows have just been written, without words and graph.
        progress: is told how far it is.

    Returns:
        What can be put in force, and the least quality of the graphs that were made, None where none was.
    """
    about, names, quality = contents.about, list[Named](), list[Quality]()
    opened = [Segment.of(shelf.folder, named, about) for named in contents.segments]
    alone = [Run((named,), (one,), one.schema) for named, one in zip(contents.segments, opened, strict=True)]
    written = [shelf.folder / named.name for named in fresh]
    try:
        for number, run in enumerate(runs_of(alone)):
            named = run.names[0]
            if not run.stays:
                named = Named(f"segment-{contents.serial + 1:06}-{number}", run.count)
                written.append(shelf.folder / named.name)
                with writing(written[-1]):
                    run.write(written[-1])
            names.append(named)
            if run.stays and named not in fresh:
                continue
            whole = Segment.of(shelf.folder, named, about)
            with writing(whole.folder):
                found = completed(whole, about, progress)
                sync_all(whole.folder)
            quality += [] if found is None else [found]
    except BaseException:
        for folder in written:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    worst = min(quality, key=lambda one: one.recall, default=None)
    return Contents(about, tuple(names), contents.serial, contents.format), worst
