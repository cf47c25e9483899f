"""Documents, and the passages that they are cut into."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Value

from selfsup.data.documents import whole_documents
from selfsup.data.part import COLUMNS, Part, cell_names
from selfsup.data.source import Source
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.text_encoder import TextEncoder

NAMES = ("id", "_id")  # columns that name a document, the first that is there
SPAN = Callable[[str], list[tuple[int, int]]]


@dataclass(frozen=True)
class Document:
    """What is indexed under one id.

    Attributes:
        id: of the document.
        row: of the part that it comes from.
        text: None for a picture.
        source: file that it was read from; None where there is none.
        about: its further columns, numbers and strings.
    """

    id: str
    row: int
    text: str | None
    source: str | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Cut:
    """How documents are cut.

    Attributes:
        size: most tokens of a passage; words for an encoder of word vectors.
        overlap: tokens that a passage shares with the one before it.
    """

    size: int
    overlap: int

    @classmethod
    def of(cls, encoder: Encoder, size: int | None, overlap: int | None) -> Cut:
        """For an encoder: all that it reads where no size is given, and a quarter of that in common.

        Raises:
            UserError: nothing, or more than it reads, or more in common than a passage holds.
        """
        most = None
        if isinstance(encoder, TextEncoder):
            most = max(encoder.room("document"), 1)
        if size is not None and size < 1:
            raise UserError(f"--passage {size}: allowed is a number of tokens, 1 or more")
        if overlap is not None and overlap < 0:
            raise UserError(f"--overlap {overlap}: allowed is a number of tokens, 0 or more")
        if size is not None and most is not None and size > most:
            raise UserError(f"--passage {size}: the encoder reads {most} tokens at most; give that or fewer")
        size = size or min(most or 128, 256)
        overlap = size // 4 if overlap is None else overlap
        if overlap >= size:
            raise UserError(f"--overlap {overlap}: a passage has {size} tokens; give fewer than that")
        return cls(size, overlap)

    def passages(self, text: str, tokens: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """(start, stop) characters of each passage, without white space around; where that can be, of whole words.

        Args:
            text: the document.
            tokens: (start, stop) characters of its tokens.
        """
        found: list[tuple[int, int]] = []
        first, count = 0, len(tokens)
        while first < count:
            last = min(first + self.size, count)
            while last < count and last > first + max(self.size // 2, 1) and not _begins_word(text, tokens[last][0]):
                last -= 1  # a word that does not fit whole goes to the next passage
            start, stop = tokens[first][0], tokens[last - 1][1]
            inside = text[start:stop]
            start, stop = start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip())
            if found and found[-1][0] == start:  # but for white space it begins with what the last one was
                found.pop()
            if start < stop and (not found or stop > found[-1][1]):
                found.append((start, stop))
            if last == count:
                break
            after = max(last - self.overlap, first + 1)
            while after < last and not _begins_word(text, tokens[after][0]):
                after += 1
            first = after
        return found


def _begins_word(text: str, place: int) -> bool:
    """Whether a word can begin at a character: what stands there or before it is white space."""
    return place == 0 or text[place - 1].isspace() or text[place : place + 1].isspace()


def tokens_of(encoder: Encoder) -> SPAN:
    """What gives the (start, stop) characters of each token of a text: of an encoder, or its words."""
    if isinstance(encoder, TextEncoder):
        tokenizer = encoder.tokenizer

        def spans(text: str) -> list[tuple[int, int]]:
            found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return [(start, stop) for start, stop in found["offset_mapping"] if stop > start]

        return spans
    return lambda text: [match.span() for match in re.finditer(r"\S+", text)]


def _about(part: Part) -> list[str]:
    """Columns of a part that say something more about a document, which can be filtered by."""
    meaning = {*COLUMNS, *NAMES, "title"} - {"label"}
    return [
        name
        for name, feature in part.table.features.items()
        if name not in meaning
        and isinstance(feature, Value | ClassLabel)
        and feature.dtype not in ("binary", "large_binary")
    ]


def documents(source: Source, kind: str, bad: list[tuple[str, str]]) -> Iterator[tuple[str, Document]]:
    """Every document of a source with the name of its part; those that cannot be read are added to `bad` with why.

    A document's id is its column `id` or `_id`, or else its file, below the folder of its part, or the number of its
    row, both behind the name of the part where there are several.
    A title stands in front of its text.

    Args:
        source: with a column `text`, or `image`.
        kind: `text` or `image`.
        bad: gets (name, reason).
    """
    source.require(kind)
    for name, part in source.parts.items():
        yield from ((name, one) for one in _of_part(name, part, kind, len(source.parts) > 1, bad))


def _of_part(name: str, part: Part, kind: str, several: bool, bad: list[tuple[str, str]]) -> Iterator[Document]:
    table = part.table
    column = next((column for column in NAMES if column in table.column_names), None)
    ids = None if column is None else table[column]
    titles = table["title"] if kind == "text" and "title" in table.column_names else None
    about = {name: _cells(part, name) for name in _about(part)}
    broken: list[tuple[int, str, str]] = []
    texts = whole_documents(table, broken) if kind == "text" else (None for _ in range(len(table)))
    for row, (text, file) in enumerate(zip(texts, cell_names(table, 0, len(table)), strict=True)):
        source = None if file == f"row {row}" else file
        below = source and (
            Path(source).relative_to(part.folder) if Path(source).is_relative_to(part.folder) else source
        )
        own = str(ids[row]) if ids is not None else str(below or row)
        own = f"{name}/{own}" if several and ids is None else own
        if ids is not None and ids[row] is None:
            bad.append((f"row {row}", f"no {column}"))
            continue
        if broken and broken[-1][0] == row:
            bad.append((own, broken[-1][2]))
            continue
        if text is not None and titles is not None and titles[row]:
            text = f"{titles[row]}\n{text}"
        if text is not None and not text.strip():
            bad.append((own, "empty"))
            continue
        yield Document(own, row, text, source, {key: cells[row] for key, cells in about.items()})


def _cells(part: Part, name: str) -> Sequence[Any]:
    """A further column; the names of labels, not their numbers."""
    feature, cells = part.table.features[name], part.table[name]
    if not isinstance(feature, ClassLabel):
        return cells
    return [None if cell is None or cell < 0 else feature.int2str(cell) for cell in cells]


def about_of(source: Source) -> Mapping[str, pa.DataType]:
    """Name and type of the further columns of all parts.

    Raises:
        UserError: a column has different types in two of them.
    """
    found: dict[str, pa.DataType] = {}
    for part in source.parts.values():
        for name in _about(part):
            feature = part.table.features[name]
            kind = pa.string() if isinstance(feature, ClassLabel) else feature.pa_type
            if found.setdefault(name, kind) != kind and pa.types.is_null(found[name]):
                found[name] = kind
            if found[name] != kind and not pa.types.is_null(kind):
                raise UserError(
                    f"{source.name}: the column {name!r} holds {found[name]} in one part and {kind} in another; make "
                    "them one, or index the parts one after the other"
                )
    return found
