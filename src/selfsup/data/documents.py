"""Documents of a text source as blocks of bounded size, so that a file of any length streams."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from datasets import Dataset

BLOCK = 1 << 16  # characters
TENTHS = 10  # one part in so many, its end, is held out from a lone document


@dataclass(frozen=True)
class Block:
    """A piece of a document.

    Attributes:
        row: the document's row in the table.
        text: the piece; a document's pieces joined are the document.
        last: whether the document ends here.
        held_out: whether it is not to be trained on; the document's content falls into the fixed 5 %, or see
            `split_documents`.
    """

    row: int
    text: str
    last: bool
    held_out: bool


def is_held_out(content: bytes) -> bool:
    """The fixed 5 % by content hash: equal content always falls on the same side."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "little") % 20 == 0


def _pieces(cell: object) -> Iterator[str]:
    """The text of a cell in pieces of at most about `BLOCK` characters.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8.
    """
    if isinstance(cell, Mapping):
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        with open(str(cell["path"]), "rb") as file:
            try:
                while content := file.read(BLOCK):
                    yield decoder.decode(content)
                yield decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                place = file.tell() - len(error.object) + error.start  # the object begins with what was kept back
                raise ValueError(f"not UTF-8: {error.reason} at byte {place}") from error
    elif cell is not None:
        text = str(cell)
        yield from (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))


def _cut(text: str) -> int:
    """Where to cut a block: after a line end or before a space, but not within white space, else at its end.

    A byte-pair tokenizer takes the white space before a word into the word: cut elsewhere, it would give other ids.
    """
    for mark, shift in (("\n", 1), (" ", 0)):
        place = text.rfind(mark, BLOCK // 2, len(text) - 1)
        while place > 0:
            if not text[place + 1].isspace() and (shift or not text[place - 1].isspace()):
                return place + shift
            place = text.rfind(mark, BLOCK // 2, place)
    return len(text) - text.endswith("\r")  # whose "\n" may be in the next piece


def _at_line_ends(pieces: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Pieces recut so that no word is torn where that can be helped, each with "is the last"."""
    waiting = ""
    for piece in pieces:
        waiting = (waiting + piece).replace("\r\n", "\n")
        if len(waiting) >= BLOCK:
            cut = _cut(waiting)
            yield waiting[:cut], False
            waiting = waiting[cut:]
    yield waiting, True


def documents(table: Dataset, bad: list[tuple[int, str, str]]) -> Iterator[Block]:
    """All blocks of all documents in order; the last block of each may be empty.

    A document that cannot be read is left out from where it breaks, and added to `bad` as (row, name, reason).
    """
    for row, cell in enumerate(table["text"]):
        held_out: bool | None = None
        try:
            for text, last in _at_line_ends(_pieces(cell)):
                if held_out is None:
                    held_out = is_held_out(_encoded(text))
                yield Block(row, text, last, held_out)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            bad.append((row, str(cell["path"]) if isinstance(cell, Mapping) else f"row {row}", reason))
            yield Block(row, "", True, bool(held_out))


def whole_documents(table: Dataset, bad: list[tuple[int, str, str]]) -> Iterator[str]:
    """The text of every row in order; what cannot be read ends where it breaks, see `documents`."""
    text = ""
    for block in documents(table, bad):
        text += block.text
        if block.last:
            yield text
            text = ""


def how_to_split(table: Dataset) -> str:
    """`documents` where both sides of the split by content get some, else `end`: a lone document, or very few."""
    sides = set()
    for block in documents(table, []) if len(table) > 1 else ():
        sides |= {block.held_out} if block.text else set()
        if len(sides) == 2:
            return "documents"
    return "end"


def split_documents(table: Dataset, how: str, bad: list[tuple[int, str, str]]) -> Iterator[Block]:
    """All blocks of all documents, told what is held out: by `documents`, the `end` (a tenth), or `nothing`."""
    if how == "documents":
        yield from documents(table, bad)
        return
    total = sum(len(_encoded(block.text)) for block in documents(table, [])) if how == "end" else 0
    left = total * (TENTHS - 1) // TENTHS
    for block in documents(table, bad):
        size = len(_encoded(block.text))
        if how == "nothing" or left >= size:
            left -= size
            yield replace(block, held_out=False)
            continue
        if left > 0:
            kept = _encoded(block.text)[:left].decode("utf-8", "ignore")
            kept = kept[: kept.rfind("\n", len(kept) - total // 100) + 1 or len(kept)]  # a line end that is near
            yield Block(block.row, kept, False, False)
            block = replace(block, text=block.text[len(kept) :])
        left = 0
        yield replace(block, held_out=True)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
