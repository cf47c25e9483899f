"""Two tools in turn on the same work: the median ratio of their times with its range, as one line of JSON."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@dataclass
class Side:
    """One of the two.

    Attributes:
        seconds: does its share of a round and says how long that took.
        about: speed, memory, quality and every setting; completed by who measures.
    """

    seconds: Callable[[], float]
    about: dict[str, Any] = field(default_factory=dict)


def say(line: str) -> None:
    """Progress, to standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def own_memory() -> float:
    """Memory of this process itself in MB, without mapped pages."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


@contextmanager
def highest(memory: Callable[[], float] = own_memory) -> Iterator[Callable[[], float]]:
    """Watches memory meanwhile; afterwards what it gives is the most, in MB, above what there was before."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would hide as much of what is taken next
    before, over = memory(), threading.Event()
    most = before

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, memory())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lambda: most - before
    finally:
        over.set()
        watching.join()


def device_name() -> str:
    """The processor or the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def in_turn(rounds: int, *sides: Side) -> list[list[float]]:
    """Seconds of each side in each round; who begins changes from round to round, the first round only warms up.

    The sides are selfsup, the peer, and where there is one the bare step of the peer.
    """
    found: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        order = list(range(len(sides)))
        for side in order if number % 2 else reversed(order):
            found[side].append(sides[side].seconds())
        said = ", ".join(f"{seconds[-1]:.3f} s" for seconds in found)
        say(f"  round {number}: selfsup, the other{', bare steps' if len(sides) > 2 else ''}: {said}")
    return [seconds[1:] for seconds in found]


def publish(
    benchmark: str,
    what: str,
    peer: str,
    seconds: Sequence[list[float]],
    sides: tuple[Side, Side],
    differs: dict[str, str],
    packages: tuple[str, ...] = (),
) -> None:
    """Print the line of JSON.

    Args:
        benchmark: name of the file.
        what: case of it.
        peer: the other tool.
        seconds: of each round, for the same work: ours, theirs, and of the bare network steps of it where measured.
        sides: ours and theirs, with all that is known of them.
        differs: where the two do not do the same.
        packages: whose versions matter, beside torch's.
    """
    ours, theirs, *bare = seconds
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    floor = [a / b for a, b in zip(ours, bare[0], strict=True)] if bare else []
    versions = {}
    for name in ("selfsup", "torch", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    line = {
        "benchmark": benchmark, "what": what, "peer": peer,
        "ratio": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3),
        "floor_ratio": round(statistics.median(floor), 3) if floor else None,
        "ours": sides[0].about, "theirs": sides[1].about, "differs": differs,
        "device": device_name(), "versions": versions,
    }  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    say(f"{benchmark} {what}: {line['ratio']} times as fast as {peer} ({line['low']} to {line['high']})")


def arguments(text: str | None) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    parser = argparse.ArgumentParser(description=(text or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="smaller work, within a minute")
    parser.add_argument("--data", help="what to work on, in place of a sample")
    parser.add_argument("--what", nargs="+", help="only these cases")
    return parser
