"""A segment in the making: documents cut into passages, encoded, and written as they come.

What is made of the whole of it, its words and its graph, is added when it is known what it is merged with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.decode import BROKEN, cell_bytes
from selfsup.data.part import Part
from selfsup.data.pixels import PixelStore
from selfsup.data.source import Source
from selfsup.embedding import encode_pictures, pictures_of
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.progress import Progress
from selfsup.run import writing
from selfsup.search.passages import Cut, Document, about_of, documents, tokens_of
from selfsup.search.segment import VECTORS, Row, TableWriter, schema_of
from selfsup.search.thumbnails import thumbnail
from selfsup.text_encoder import TextEncoder

BLOCK = 4096  # rows that are encoded before they are written


@dataclass
class Written:
    """What has been written.

    Attributes:
        rows: number of passages or pictures.
        ids: of their documents.
        kept: number of documents that the index has already as they are.
        bad: (id, reason) of documents that could not be read.
    """

    rows: int = 0
    ids: set[str] = field(default_factory=set)
    kept: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Writer:
    """Writes a segment.

    Attributes:
        folder: to write.
        encoder: gives the vectors.
        cut: how documents are cut.
        width: numbers of a vector that are kept.
        progress: is told how far it is.
    """

    folder: Path
    encoder: Encoder
    cut: Cut
    width: int
    progress: Progress

    def write(self, source: Source, there: Mapping[str, str]) -> Written:
        """Everything in a source but what is there already, by id and stamp.

        Raises:
            UserError: an id stands twice, or the folder cannot be written.
        """
        done = Written()
        kind = self.encoder.kind
        pictures = _Pictures(self.encoder, source, self.progress) if isinstance(self.encoder, ImageEncoder) else None
        tokens = None if pictures else tokens_of(self.encoder)

        def rows() -> Iterator[tuple[str, int, Row]]:
            seen: set[str] = set()
            for part, document in documents(source, kind, done.bad):
                if document.id in seen:
                    raise UserError(f"{source.name}: the id {document.id!r} stands twice; each has to be different")
                seen.add(document.id)
                file = os.path.abspath(document.source) if document.source and file_stamp(document.source) else None
                stamp = stamp_of(document, source.parts[part])
                if there.get(document.id) == stamp:
                    done.kept += 1
                    continue
                whole, spans = document.text, [(0, 0)]
                if whole is not None and tokens is not None:
                    spans = self.cut.passages(whole, tokens(whole))
                for number, (start, stop) in enumerate(spans):
                    text = None if whole is None else whole[start:stop]
                    done.ids.add(document.id)
                    picture = None if file or text is not None else _small(document, source.parts[part])
                    row = Row(document.id, number, start, stop, text, file, stamp, picture, document.about)
                    yield part, document.row, row

        with writing(self.folder):
            self.folder.mkdir(parents=True)
            found, columns = rows(), schema_of(about_of(source))
            with open(self.folder / VECTORS, "wb") as target, TableWriter(self.folder, columns) as table:
                while block := list(islice(found, BLOCK)):
                    vectors = self._vectors(block, pictures)
                    if pictures is not None:
                        block, vectors = _readable(block, vectors, done)
                    target.write(np.ascontiguousarray(vectors.numpy(), "<f4").data)
                    table.write([row for _, _, row in block])
                    done.rows += len(block)
                    self.progress.say(f"{done.rows:,} indexed")
        return done

    def _vectors(self, block: list[tuple[str, int, Row]], pictures: _Pictures | None) -> Tensor:
        """(n, D) of length 1."""
        if pictures is not None:
            found = pictures.encode([(part, row) for part, row, _ in block])
        else:
            texts = [row.text or "" for _, _, row in block]
            encoder = self.encoder
            found = encoder.encode(texts, "document") if isinstance(encoder, TextEncoder) else encoder.encode(texts)
        return F.normalize(found[:, : self.width], dim=1)


def _readable(
    block: list[tuple[str, int, Row]], vectors: Tensor, done: Written
) -> tuple[list[tuple[str, int, Row]], Tensor]:
    """What of a block has a vector; the others are noted as bad."""
    good = torch.isfinite(vectors).all(1)
    for (_, _, row), there in zip(block, good.tolist(), strict=True):
        if not there:
            done.ids.discard(row.id)
            done.bad.append((row.id, "no picture that can be read"))
    return [one for one, there in zip(block, good.tolist(), strict=True) if there], vectors[good]


class _Pictures:
    """The pictures of a source, prepared a part at a time."""

    def __init__(self, encoder: ImageEncoder, source: Source, progress: Progress) -> None:
        self.encoder, self.source, self.progress = encoder, source, progress
        self._stores: dict[str, PixelStore] = {}

    def encode(self, places: Sequence[tuple[str, int]]) -> Tensor:
        """(n, D) of some rows, each by part and number; not a number where none can be read."""
        found = torch.empty(len(places), self.encoder.width)
        for name in dict.fromkeys(name for name, _ in places):
            which = [place for place, (part, _) in enumerate(places) if part == name]
            rows = np.array([places[place][1] for place in which])
            found[which] = encode_pictures(self.encoder, self._store(name), rows)
        return found

    def _store(self, name: str) -> PixelStore:
        if name not in self._stores:
            self._stores[name] = pictures_of(self.encoder, self.source.parts[name], self.source.name, self.progress)
        return self._stores[name]


def stamp_of(document: Document, part: Part) -> str:
    """What tells a document from another one of the same id: size and time of its file, and a digest of all else."""
    stamp = file_stamp(document.source) if document.source is not None else None
    if stamp is not None:
        content = b""
    elif document.text is None:
        content = part.table[document.row]["image"]["bytes"] or b""
    else:
        content = document.text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=12)
    digest.update(repr(sorted(document.about.items())).encode("utf-8", "surrogatepass"))
    return f"{stamp or ''} {digest.hexdigest()}"


def _small(document: Document, part: Part) -> bytes | None:
    """A picture's small copy; None where it cannot be read."""
    try:
        return thumbnail(cell_bytes(part.table[document.row]["image"]))
    except BROKEN:
        return None


def file_stamp(path: str) -> str | None:
    """Size and time of a file; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return f"{found.st_size}:{found.st_mtime_ns}"
