"""Vectors of everything that a source holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfsup.data.part import Part, cell_names
from selfsup.data.pixels import PixelStore, probe_sizes
from selfsup.data.source import Data, Source, open_source
from selfsup.data.store import fingerprint
from selfsup.encoder import Encoder
from selfsup.errors import UserError, system_reason
from selfsup.eval.labelled import texts_of
from selfsup.image_encoder import ImageEncoder
from selfsup.prepare import open_part, resolution_for
from selfsup.progress import Progress
from selfsup.recipes import ImageData
from selfsup.run import check_writable
from selfsup.runtime import Runtime
from selfsup.sides import Side, encoder_for
from selfsup.text_encoder import TextEncoder
from selfsup.text_reading import Role
from selfsup.vectors import Blocks, Span, write_npy, write_parquet
from selfsup.word_vectors import WordVectors

EMBEDDINGS = (".npy", ".parquet")
BLOCK = 8192  # rows that are encoded before they are written: as many as are sorted by length at once


class Rows:
    """The rows of a source, encoded some at a time.

    Attributes:
        source: where they are.
        spans: all of them, in order.
    """

    def __init__(self, encoder: Encoder, source: Source, role: Role | None, progress: Progress) -> None:
        source.require(encoder.kind)
        self.encoder, self.source, self.progress = encoder, source, progress
        self.role: Role | None = role
        self.spans = [
            Span(name, start, min(start + BLOCK, len(part)))
            for name, part in source.parts.items()
            for start in range(0, len(part), BLOCK)
        ]
        self._pictures: dict[str, PixelStore] = {}

    def names(self, span: Span) -> list[str]:
        """File of each row, or its number."""
        return cell_names(self.source.parts[span.part].table, span.start, span.stop)

    def vectors(self, span: Span) -> Tensor:
        """(n, D): a vector for each row, not a number where there is nothing to encode."""
        part = self.source.parts[span.part]
        if isinstance(self.encoder, ImageEncoder):
            if span.part not in self._pictures:
                self._pictures[span.part] = pictures_of(self.encoder, part, self.source.name, self.progress)
            return encode_pictures(self.encoder, self._pictures[span.part], np.arange(span.start, span.stop))
        texts, broken = texts_of(Part(part.table.select(range(span.start, span.stop)), part.identity, part.folder))
        found = (
            self.encoder.encode(texts, self.role)
            if isinstance(self.encoder, TextEncoder)
            else self.encoder.encode(texts)
        )
        found[sorted(broken)] = torch.nan
        return found


def pictures_of(encoder: ImageEncoder, part: Part, source: str, progress: Progress) -> PixelStore:
    """The pictures of a part, prepared for an encoder."""
    resolution = resolution_for(encoder.about.size, probe_sizes(part.table))
    return open_part(part, resolution, ImageData(source=source), progress)


def encode_pictures(encoder: ImageEncoder, store: PixelStore, rows: np.ndarray) -> Tensor:
    """(n, D): a vector for each of some rows, not a number where no picture can be read."""
    found = encoder.encode(store.subset(rows))
    found[torch.from_numpy(store.good[rows] != rows)] = torch.nan  # not the next good one's vector
    return found


@dataclass(frozen=True)
class Encoded:
    """Vectors of all rows of a source, all parts in order.

    Attributes:
        vectors: (N, D); not a number where a row is empty or cannot be read, so that rows stay where they are.
        names: file of each row, or its number.
        parts: part of each row.
    """

    vectors: Tensor
    names: list[str]
    parts: list[str]


def encode_source(encoder: Encoder, source: Source, progress: Progress) -> Encoded:
    """Encode everything that a source holds."""
    rows = Rows(encoder, source, None, progress)
    vectors, names, parts = [], [], []
    for span in rows.spans:
        vectors.append(rows.vectors(span))
        names += rows.names(span)
        parts += [span.part] * len(vectors[-1])
    return Encoded(torch.cat(vectors), names, parts)


def content_of(encoder: Encoder) -> str:
    """A fingerprint of all that decides what vectors an encoder gives."""
    digest = hashlib.blake2b(digest_size=12)
    for name, weight in sorted(encoder.module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\0".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    settings: list[object] = [type(encoder).__name__]
    if isinstance(encoder, ImageEncoder):
        settings.append(asdict(encoder.about))
    if isinstance(encoder, TextEncoder | WordVectors):
        settings += [encoder.context, encoder.tokenizer.backend_tokenizer.to_str()]  # type: ignore[attr-defined]
    if isinstance(encoder, TextEncoder):
        settings += [asdict(encoder.reading), encoder.model.config.to_json_string()]
    if isinstance(encoder, WordVectors):
        settings += [encoder.words, encoder.counts.tolist()]
    return fingerprint([digest.hexdigest(), *settings])


@contextmanager
def fresh_file(file: Path) -> Iterator[Path]:
    """A name to write to; what was written takes the place of `file` at the end, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    fresh = file.with_name(file.name + ".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        os.replace(fresh, file)
    except OSError as error:
        if fresh.exists():
            fresh.unlink()
        raise UserError(f"cannot write {file}: {system_reason(error)}") from error


def _check_role(role: Role | None, encoder: Encoder, place: str | os.PathLike) -> None:
    """Raise `UserError` where an encoder puts nothing in front of what it encodes."""
    if role is not None and not isinstance(encoder, TextEncoder):
        what = "pictures" if isinstance(encoder, ImageEncoder) else "words"
        raise UserError(f"--role {role}: {os.fspath(place)} encodes {what}, which have no role; drop --role")


def _encode(rows: Rows, blocks: Blocks, runtime: Runtime, progress: Progress) -> None:
    """Encode what is missing, in turn with the other processes."""
    missing = runtime.same(blocks.missing())
    if runtime.main and len(missing) < len(blocks.spans):
        done, count = len(blocks.spans) - len(missing), len(blocks.spans)
        progress.say(f"{blocks.folder}: {done} of {count} blocks are there already, going on")
    total = sum(span.stop - span.start for span in blocks.spans)
    for number in missing[runtime.rank :: runtime.world]:
        blocks.write(number, rows.vectors(blocks.spans[number]).numpy())
        if runtime.main:
            progress.part("rows encoded", blocks.done(), total)


def _help(rows: Rows, blocks: Blocks, runtime: Runtime, progress: Progress) -> None:
    """What another process than the main one does."""
    runtime.wait()
    _encode(rows, blocks, runtime, progress)
    blocks.wait_for_end()
    runtime.end()


def embed(
    place: str | os.PathLike,
    data: Data,
    out: str | os.PathLike,
    columns: dict[str, str] | None = None,
    quiet: bool = False,
    role: Role | None = None,
    side: Side | None = None,
) -> Path | None:
    """Write one vector for each row of the data, all parts in order: `.npy`, or `.parquet` with names and parts.

    What is empty or cannot be read gets a vector that is not a number, so that rows stay where they are. Vectors are
    kept in a folder beside the file, a block of rows at a time, until all are there: the same call goes on where an
    earlier one was stopped. Several processes, of `torchrun` or `accelerate launch`, share the blocks.

    Args:
        place: a run, an exported folder, or a hub id.
        data: what to embed.
        out: file to write.
        columns: meaning -> name of the user's column.
        quiet: no progress on the terminal.
        role: what texts are, for an encoder that puts something in front of queries or documents.
        side: of a run of `clip`, which tower; see `encoder_for`.

    Returns:
        The file; None in a process that only helped.

    Raises:
        UserError: the file cannot be written, the encoder has no roles, or the folder beside the file has vectors of
            other data or of another encoder.
    """
    file = Path(out)
    if file.suffix not in EMBEDDINGS:
        raise UserError(f"--out {file}: allowed endings are {', '.join(EMBEDDINGS)}")
    check_writable(file)
    source = open_source(data, columns)
    encoder, _, source = encoder_for(place, source, side)
    _check_role(role, encoder, place)
    runtime = Runtime("float32")
    progress = Progress(not quiet and runtime.main)
    rows = Rows(encoder.to(runtime.device), source, role, progress)
    identities = [(name, part.identity, len(part)) for name, part in rows.source.parts.items()]
    key = {"encoder": content_of(encoder), "data": fingerprint(identities), "role": role, "block": BLOCK}
    blocks = Blocks(file.with_name(file.name + ".part"), rows.spans, key)
    if not runtime.main:
        return _help(rows, blocks, runtime, progress)
    with blocks.held():
        runtime.wait()
        _encode(rows, blocks, runtime, progress)
        blocks.wait()
        with fresh_file(file) as fresh:
            if file.suffix == ".npy":
                write_npy(blocks, fresh)
            else:
                write_parquet(blocks, rows.names, fresh)
        blocks.remove()
    runtime.end()
    return file
