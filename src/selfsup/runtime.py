"""Processes, devices and precision: the only file that knows accelerate."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from selfsup.errors import UserError
from selfsup.nn.norm import over_all_processes

Same = TypeVar("Same")


def fast_bfloat16(device: torch.device, convolutions: bool) -> bool:
    """Whether the device is much faster in bfloat16: a GPU that has it in hardware, a CPU only with convolutions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and convolutions and torch.cpu._is_avx512_bf16_supported()


def fastest_device() -> torch.device:
    """A GPU where there is one, for what needs a single process."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Runtime:
    """Where a run runs. Started by `accelerate launch` or `torchrun` it is one of several processes.

    Attributes:
        device: of this process.
        rank, world: number of this process, and how many there are.
        precision: of the network's arithmetic, `float32` or `bfloat16`.
    """

    def __init__(
        self,
        precision: str | None = None,
        convolutions: bool = False,
        tracker: str | None = None,
        folder: Path | None = None,
        on_cpu: bool = False,
    ) -> None:
        """Join the other processes, if there are any.

        Args:
            precision: of the network's arithmetic; the faster one when not given.
            convolutions: whether they are most of that arithmetic.
            tracker: `tensorboard` or `wandb`, which gets all metrics too; see `track`.
            folder: of the run, in which a tracker may write.
            on_cpu: whatever else there is.

        Raises:
            UserError: the tracker is not installed.
        """
        if tracker is not None and find_spec(tracker) is None:
            raise UserError(f"--tracker {tracker}: it is not installed; type pip install {tracker}, or drop --tracker")
        plain = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        self._accelerator = Accelerator(
            mixed_precision="no", cpu=on_cpu or not torch.cuda.is_available(), kwargs_handlers=[plain],
            log_with=tracker, project_dir=folder,
        )  # fmt: skip
        self._tracked, self._folder = tracker is not None, folder
        self.device: torch.device = self._accelerator.device
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self.precision = precision or ("bfloat16" if fast_bfloat16(self.device, convolutions) else "float32")

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wrap(self, objective: nn.Module) -> nn.Module:
        """The objective on its device, and under data parallelism where there are several processes."""
        if self.world > 1:
            over_all_processes(objective)
        objective.to(self.device)
        return self._accelerator.prepare_model(objective) if self.world > 1 else objective

    def autocast(self) -> AbstractContextManager:
        """The context in which the network runs in its precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes, without gradients."""
        return self._accelerator.reduce(values, "sum") if self.world > 1 else values  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()

    def same(self, value: Same) -> Same:
        """The main process's value, on all processes."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def move(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device."""
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def start_tracker(self, settings: Mapping[str, object]) -> None:
        """Open the tracker, if there is one, under the name of the run's folder and with its settings."""
        if self._tracked and self._folder is not None:
            plain = {name: str(value) for name, value in settings.items()}
            name = {"wandb": {"name": self._folder.name, "dir": str(self._folder)}}
            self._accelerator.init_trackers("selfsup", config=plain, init_kwargs=name)

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Give numbers to the tracker, if there is one."""
        if self._tracked:
            self._accelerator.log(dict(values), step=step)

    def end(self) -> None:
        """Leave the process group, and close the tracker."""
        self._accelerator.end_training()

    def hardware(self) -> dict[str, object]:
        """What this machine is, for `run.json`."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return {
            "device": gpu or platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": self.world,
            "precision": self.precision,
        }

    def commit(self) -> str | None:
        """Commit of this code, where it runs from a checkout."""
        git = ["git", "-C", str(Path(__file__).parent)]
        tracked = [*git, "ls-files", "--error-unmatch", Path(__file__).name]  # not just installed inside a repository
        try:
            subprocess.run(tracked, capture_output=True, check=True)
            return subprocess.run(
                [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    def seed_step(self, seed: int, step: int) -> None:
        """Reseed torch's generators for a step, so that dropout falls alike whether or not the run was interrupted."""
        # torch.manual_seed keeps the call stack for a GPU that may be started later: a millisecond each time.
        seeded = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seeded(((seed * 1_000_003 + step) * 1_009 + self.rank) % 2**63)

    def peak_memory(self) -> dict[str, float]:
        """Largest memory so far in MB: of the process, mapped pages included, and of the device."""
        found = {"process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        if self.device.type == "cuda":
            found["device_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return found


def scale_and_clip(weights: Iterable[Tensor], scale: float, most: float) -> float:
    """Multiply the gradient by `scale` and cut its norm to `most` (0: no cut), in one pass; the norm before the cut."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = scale * float(torch.nn.utils.get_total_norm(gradients))
    torch._foreach_mul_(gradients, scale * min(1.0, most / (norm + 1e-6)) if most else scale)
    return norm


class Stopped(Exception):
    """The run was asked to end by a signal, has saved itself and can be resumed."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one kills as usual."""
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, note)
    except ValueError:  # not in the main thread: whoever owns it decides
        before.clear()
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
