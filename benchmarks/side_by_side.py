"""Two tools in turn on the same work: the median ratio of their times with its range, as one line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
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


def device_name() -> str:
    """The processor or the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def in_turn(ours: Side, theirs: Side, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round; who begins changes from round to round, and the first round only warms up."""
    mine, yours = [], []
    for number in range(rounds + 1):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        found = {id(side): side.seconds() for side in order}
        if number:
            mine.append(found[id(ours)])
            yours.append(found[id(theirs)])
            say(f"  round {number}: selfsup {mine[-1]:.3f} s, the other {yours[-1]:.3f} s")
    return mine, yours


def publish(
    benchmark: str,
    what: str,
    peer: str,
    seconds: tuple[list[float], list[float]],
    sides: tuple[Side, Side],
    differs: dict[str, str],
    floor: float | None = None,
    packages: tuple[str, ...] = (),
) -> None:
    """Print the line of JSON.

    Args:
        benchmark: name of the file.
        what: case of it.
        peer: the other tool.
        seconds: of each round, ours and theirs, for the same work.
        sides: ours and theirs, with all that is known of them.
        differs: where the two do not do the same.
        floor: seconds of the bare network steps for the work of one round.
        packages: whose versions matter, beside torch's.
    """
    ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
    versions = {}
    for name in ("selfsup", "torch", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    line = {
        "benchmark": benchmark, "what": what, "peer": peer,
        "ratio": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3),
        "floor_ratio": None if floor is None else round(statistics.median(seconds[0]) / floor, 3),
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
