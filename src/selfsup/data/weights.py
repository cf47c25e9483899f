"""Weights of rows: a Parquet file that names its data, and a reader that adds them to every batch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from torch import Tensor

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.errors import UserError

WEIGHT = "weight"  # key of the batch
ABOUT = b"selfsup"  # in the file's metadata


class Weighted(Reader):
    """The rows of another reader, each with its weight.

    Batch keys: those of the other reader, and `weight` (B,) float32.
    """

    def __init__(self, reader: Reader, weights: Tensor) -> None:
        """Weights (N,) float32 of all rows."""
        self.reader, self.weights = reader, weights

    def __len__(self) -> int:
        return len(self.reader)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The drawn rows with their weights."""
        return {**self.reader.gather(draw, companions), WEIGHT: self.weights[draw.rows]}


def weights_table(weights: np.ndarray, content: str) -> pa.Table:
    """Columns `row` and `weight`, with the digest of the data in the metadata."""
    about = json.dumps({"content": content, "rows": len(weights)})
    table = pa.table({"row": np.arange(len(weights)), WEIGHT: weights.astype(np.float32)})
    return table.replace_schema_metadata({ABOUT: about.encode()})


def load_weights(path: str, content: str, rows: int) -> Tensor:
    """(N,) float32: the weights of all rows, from a file that was made for these data.

    Args:
        path: the file.
        content: digest of the data, as their facts have it.
        rows: N, of the reader.

    Raises:
        UserError: there is no such file, or it is for other data or rows, or a weight is below zero or no number.
    """
    if not Path(path).is_file():
        raise UserError(f"--weights {path}: no such file; make one with selfsup audit NAME --data ... --weights {path}")
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--weights {path}: it is no Parquet file that can be read") from error
    try:
        about = json.loads((table.schema.metadata or {}).get(ABOUT, b""))
        known, count = str(about["content"]), int(about["rows"])
        row, weight = table["row"].to_numpy(), table[WEIGHT].to_numpy().astype(np.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--weights {path}: needed are the columns row and weight, as selfsup audit writes them"
        ) from error
    if (known, count) != (content, rows):
        raise UserError(
            f"--weights {path} is for other data: {count:,} rows with the digest {known}, and these "
            f"are {rows:,} with {content}; audit these, with the same --pixels, --tokenizer and --context"
        )
    if not np.array_equal(np.sort(row), np.arange(rows)):
        raise UserError(f"--weights {path}: its column row has to name each of the {rows:,} rows once")
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
        raise UserError(f"--weights {path}: weights have to be 0 or more, and some of them more")
    found = torch.empty(rows)
    found[torch.from_numpy(row.copy())] = torch.from_numpy(weight)
    return found


def file_digest(path: str | None) -> str | None:
    """A short digest of a file, so that a resumed run notices another one; None for no file."""
    if path is None or not Path(path).is_file():
        return None
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=12).hexdigest()
