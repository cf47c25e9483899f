"""A row of a fused objective: one of each part."""

from __future__ import annotations

from collections.abc import Mapping

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Companions, Reader


def own(name: str, batch: Batch) -> Batch:
    """What is a part's own."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in batch.items() if key.startswith(start)}


class FusedReader(Reader):
    """A row is one of the first reader's, with one of each other: the same where both have as many.

    The rows of a shorter reader come again within an epoch, those of a longer one take several. Batch keys: those of
    each reader behind its name and a point.
    """

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self.readers = dict(readers)

    @property
    def same_rows(self) -> bool:
        """Whether all readers have as many rows, so that a row is the same for each."""
        return len({len(reader) for reader in self.readers.values()}) == 1

    def __len__(self) -> int:
        return len(next(iter(self.readers.values())))

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The batches of all readers; equal readers gather once."""
        found: Batch = {}
        done: dict[str, Reader] = {}
        for name, reader in self.readers.items():
            first = next((other for other, known in done.items() if alike(known, reader)), None)
            if first is None:
                done[name] = reader
                rows = (draw.rows + len(self) * max(draw.epoch, 0)) % len(reader)
                rows = draw.rows if len(reader) == len(self) else rows
                batch = reader.gather(Draw(draw.seed, draw.epoch, rows, draw.prefix).part(name))
            else:
                batch = own(first, found)
            found |= {f"{name}.{key}": value for key, value in batch.items()}
        return found


def alike(first: Reader, second: Reader) -> bool:
    """Whether two readers read the same: of one kind, over the same store, with the same settings."""
    plain = (int, float, str, bool, tuple, type(None))
    mine, other = vars(first), vars(second)
    return (
        type(first) is type(second)
        and mine.keys() == other.keys()
        and all(v is other[name] or (isinstance(v, plain) and v == other[name]) for name, v in mine.items())
    )
