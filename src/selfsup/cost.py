"""What a run costs: floating-point operations and energy, each with how it was found out."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CORE_WATTS = 5.0  # of a busy server core with its share of cache and memory: only for the estimate, and named as one
COUNTERS = Path("/sys/class/powercap")


def step_flops(objective: nn.Module, losses: Callable[[], Tensor]) -> int | None:
    """Operations of forward and backward for one batch: matrix products, convolutions and attention, as torch counts.

    A multiplication and an addition are two. The objective is left as it was.

    Args:
        objective: whose step it is.
        losses: gives its scalar loss for the batch.

    Returns:
        The number, or None where there was no memory for it any more.
    """
    buffers = {name: value.clone() for name, value in objective.named_buffers()}
    try:
        with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
            losses().backward()
        return int(counter.get_total_flops())
    except torch.OutOfMemoryError:
        return None
    finally:
        objective.zero_grad(set_to_none=True)
        for name, value in objective.named_buffers():
            value.copy_(buffers[name])


class _CoreCounter:
    """The energy counters of the processor's packages (RAPL), where this user may read them."""

    def __init__(self, root: Path = COUNTERS) -> None:
        self.places = sorted(root.glob("intel-rapl:[0-9]")) if root.exists() else []
        self.last = self._read()
        self.joules = 0.0

    def _read(self) -> list[int]:
        try:
            return [int((place / "energy_uj").read_text()) for place in self.places]
        except OSError:  # for root only, on most machines
            self.places = []
            return []

    def tick(self) -> None:
        """Add what was used since the last call; the counters start anew when full."""
        now = self._read()
        for place, before, after in zip(self.places, self.last, now, strict=False):
            full = int((place / "max_energy_range_uj").read_text()) if after < before else 0
            self.joules += (after - before + full) / 1e6
        self.last = now


def gpu_watts(number: int) -> float | None:
    """What a GPU draws right now, as its driver says; None where nobody can tell."""
    ask = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--id={number}"]
    try:
        return float(subprocess.run(ask, capture_output=True, text=True, check=True, timeout=5).stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


class Meter:
    """Energy from now on; `tick` is called now and then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cores = _CoreCounter()
        self.began = time.perf_counter()
        self.watts: list[float] = []

    def tick(self) -> None:
        """Read the counters."""
        self.cores.tick()
        if self.device.type == "cuda":
            watts = gpu_watts(self.device.index or 0)
            self.watts += [] if watts is None else [watts]

    def energy(self) -> dict[str, Any]:
        """`kwh`, and for each part `joules` and `how` they were found; what is measured is the whole machine's."""
        self.tick()
        seconds = time.perf_counter() - self.began
        threads = torch.get_num_threads()
        if self.cores.places:
            parts = {"cpu": (self.cores.joules, "measured: package counters (RAPL), all processes of the machine")}
        else:
            watts = threads * CORE_WATTS
            parts = {"cpu": (watts * seconds, f"estimate: {threads} busy cores of {CORE_WATTS:g} W")}
        if self.device.type == "cuda" and self.watts:
            mean = sum(self.watts) / len(self.watts)
            parts["gpu"] = (mean * seconds, f"measured: mean of {len(self.watts)} readings of the driver, {mean:.0f} W")
        elif self.device.type == "cuda":
            parts["gpu"] = (0.0, "unknown: the driver does not tell")
        total = sum(joules for joules, _ in parts.values())
        return {"kwh": total / 3.6e6, **{name: {"joules": joules, "how": how} for name, (joules, how) in parts.items()}}
