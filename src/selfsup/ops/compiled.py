"""Functions that numba compiles, and threads for them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, TypeVar

import numba
import torch

Result = TypeVar("Result")
# Contraction and reordering let loops use vector units. Not "arcp": division by 255 has to stay exact.
FAST = {"contract", "reassoc", "nnan", "nsz"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled at its first call, to run without the interpreter lock; kept on disk where that can be."""
    try:
        return numba.njit(function, nogil=True, fastmath=FAST, error_model="numpy", cache=True)
    except RuntimeError:  # neither the folder of this file nor the user's cache folder can be written
        return numba.njit(function, nogil=True, fastmath=FAST, error_model="numpy")


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work until the process ends; a forked process has none of its parent's."""
    return ThreadPoolExecutor(threads)


def side_by_side(calls: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """What each call returns. This thread makes them with others; whoever is free takes the next.

    They have to be kernels, or hardly more, which drop the interpreter lock; none may come here again.
    """
    waiting, found = iter(range(len(calls))), dict[int, Result]()

    def work() -> None:
        for number in waiting:
            found[number] = calls[number]()

    pool = _pool(os.getpid(), max(threads - 1, 1))
    others = [pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()  # an error in a thread is raised here
    return [found[number] for number in range(len(calls))]


def over_rows(work: Callable[[int, int], object], rows: int) -> None:
    """Call `work(start, stop)` on slices of the rows, with as many threads as `torch.get_num_threads()` says.

    The threads run kernels that drop the interpreter lock. Numba's own `prange` is no choice: its OpenMP layer aborts
    in forked loader workers and its workqueue layer when two threads enter at once. Each row is computed by the same
    code from its own inputs, so the number of threads changes nothing.
    """
    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        work(0, rows)
        return
    step = math.ceil(rows / (4 * threads))  # more slices than threads: a busy core takes fewer
    side_by_side([partial(work, start, min(start + step, rows)) for start in range(0, rows, step)], threads)
