"""Vectors of everything that a source holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfsup.data.part import Part, cell_name
from selfsup.data.pixels import probe_sizes
from selfsup.data.source import Data, open_source
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.eval.labelled import texts_of
from selfsup.image_encoder import ImageEncoder
from selfsup.prepare import open_part, resolution_for
from selfsup.progress import Progress
from selfsup.recipes import ImageData
from selfsup.run import check_writable
from selfsup.runtime import fastest_device

EMBEDDINGS = (".npy", ".parquet")


def _vectors(encoder: Encoder, part: Part, name: str, progress: Progress) -> Tensor:
    """(N, D): a vector for each row of a part, not a number where there is nothing to encode."""
    if isinstance(encoder, ImageEncoder):
        resolution = resolution_for(encoder.about.size, probe_sizes(part.table))
        store = open_part(part, resolution, ImageData(source=name), progress)
        found = encoder.encode(store)
        found[torch.from_numpy(store.good != np.arange(len(store)))] = torch.nan  # not the next good one's vector
        return found
    texts, broken = texts_of(part)
    found = encoder.encode(texts)
    found[sorted(broken)] = torch.nan
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


def encode_source(encoder: Encoder, data: Data, columns: dict[str, str] | None, progress: Progress) -> Encoded:
    """Encode everything that a source holds."""
    source = open_source(data, columns)
    source.require(encoder.kind)
    vectors, names, parts = [], [], []
    for name, part in source.parts.items():
        vectors.append(_vectors(encoder, part, source.name, progress))
        names += [cell_name(part.table, row) for row in range(len(part))]
        parts += [name] * len(part)
    return Encoded(torch.cat(vectors), names, parts)


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
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def embed(
    place: str | os.PathLike,
    data: Data,
    out: str | os.PathLike,
    columns: dict[str, str] | None = None,
    quiet: bool = False,
) -> Path:
    """Write one vector for each row of the data, all parts in order: `.npy`, or `.parquet` with names and parts.

    What is empty or cannot be read gets a vector that is not a number, so that rows stay where they are.

    Args:
        place: a run, an exported folder, or a hub id.
        data: what to embed.
        out: file to write.
        columns: meaning -> name of the user's column.
        quiet: no progress on the terminal.
    """
    file = Path(out)
    if file.suffix not in EMBEDDINGS:
        raise UserError(f"--out {file}: allowed endings are {', '.join(EMBEDDINGS)}")
    check_writable(file)
    encoder, progress = load_encoder(place).to(fastest_device()), Progress(not quiet)
    found = encode_source(encoder, data, columns, progress)
    matrix = found.vectors.numpy()
    with fresh_file(file) as fresh:
        if file.suffix == ".npy":
            with open(fresh, "wb") as target:
                np.save(target, matrix)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            flat = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
            pq.write_table(pa.table({"name": found.names, "part": found.parts, "vector": flat}), fresh)
    return file
