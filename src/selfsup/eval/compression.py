"""What a general compressor makes of a text: a baseline that knows no language at all."""

from __future__ import annotations

import lzma
from concurrent.futures import ThreadPoolExecutor

from selfsup.errors import UserError

TRAIN_LIMIT = 4_000_000  # bytes
DICTIONARY_LIMIT = 128 << 20


def _size(data: bytes, dictionary: int) -> int:
    """Bytes of raw LZMA2: no header, no checksum, so that a difference of two sizes is about content only."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))


def xz_bits_per_byte(held_out: bytes, train: bytes) -> float:
    """Extra bits that xz needs for a byte of the held-out text once it has seen the training text.

    (size of train + held_out - size of train) * 8 / bytes of held_out, both as raw LZMA2. Only the last 4 MB of
    the training text are used, to bound time and memory; the dictionary reaches over all of it and the held-out
    text (128 MiB at most). Takes about a second a MiB.

    Args:
        held_out: the text that is scored, as bytes.
        train: the text that may be copied from; may be empty.

    Raises:
        UserError: nothing is held out.
    """
    if not held_out:
        raise UserError("the held-out text is empty: give at least one byte")
    train = train[-TRAIN_LIMIT:]
    dictionary = min(max(4096, len(train) + len(held_out)), DICTIONARY_LIMIT)
    with ThreadPoolExecutor(2) as pool:  # lzma lets go of the interpreter lock
        both, alone = pool.map(_size, (train + held_out, train), (dictionary, dictionary))
    return (both - alone) * 8 / len(held_out)
