"""Child processes that start warm, and what they are asked to do."""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
TESTS = Path(__file__).parents[1]


@functools.cache
def warm_up() -> None:
    """Start the server that children are forked from; it imports `contract.warm` once, about ten seconds."""
    CONTEXT.set_forkserver_preload(["contract.warm"])
    with pytest.MonkeyPatch.context() as patch:  # the server does not get our sys.path before it preloads
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        forkserver.ensure_running()


def start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """A child at work."""
    warm_up()
    child = CONTEXT.Process(target=work, args=arguments, daemon=True)  # type: ignore[attr-defined]
    child.start()
    return child


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_group(world: int, work: Callable[..., None], *arguments: object) -> list[BaseProcess]:
    """Children that find each other as those of torchrun do."""
    port = free_port()
    return [start(_member, rank, world, port, work, arguments) for rank in range(world)]


def _member(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple) -> None:
    found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in found.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
    work(*arguments)


def join(children: list[BaseProcess], seconds: float = 120) -> None:
    """Wait for children that should end well; name those that do not, and leave none behind."""
    end = time.monotonic() + seconds
    while any(child.is_alive() for child in children) and time.monotonic() < end:
        if any(child.exitcode for child in children):  # the others would wait for it for ever
            break
        time.sleep(0.01)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
        child.join()
    assert codes == [0] * len(children), f"exit codes {codes}"


# What children do


def _quietly(log: Path) -> None:
    """Send what this process says on standard error to a file."""
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), sys.stderr.fileno())


def train_slowly(recipe: object, folder: Path) -> None:
    """`train` without pictures, 10 ms longer a step, so that a signal can fall between any two lines."""
    import selfsup.training as verb

    _slow_and_plain()
    _quietly(folder.with_suffix(".log"))
    verb.train(recipe, folder)  # type: ignore[arg-type]


def resume_slowly(folder: Path) -> None:
    """`selfsup resume` likewise; ends with its exit code."""
    from selfsup.verbs import resume

    _slow_and_plain()
    _quietly(folder.with_suffix(".log"))
    sys.exit(resume(folder))


def _slow_and_plain() -> None:
    import selfsup.training as verb
    from selfsup.loop import Training

    step = Training.step

    def slow(*arguments: object) -> object:
        time.sleep(0.01)
        return step(*arguments)  # type: ignore[arg-type]

    Training.step = slow  # type: ignore[assignment,method-assign]
    verb.report = lambda *_: None  # type: ignore[assignment]


def train_on_full_disk(recipe: object, folder: Path, after: int) -> None:
    """`train` whose files may not grow beyond half a checkpoint after step `after`; ends as the command line does."""
    import selfsup.training as verb
    from selfsup.errors import UserError
    from selfsup.run import Run

    save = Run.save

    def limited(run: Run, step: int, *rest: object) -> None:
        save(run, step, *rest)  # type: ignore[arg-type]
        if step == after:
            size = (run.folder / "checkpoints" / str(step) / "state.pt").stat().st_size
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    Run.save = limited  # type: ignore[assignment,method-assign]
    try:
        verb.train(recipe, folder, quiet=True)  # type: ignore[arg-type]
    except UserError as error:
        folder.with_suffix(".log").write_text(str(error))
        sys.exit(2)


def command(words: list[str], log: Path, most: int | None = None, memory: int | None = None) -> None:
    """The command line, with its two outputs in a file.

    Args:
        words: after `selfsup`.
        log: the file.
        most: bytes that any file may grow to, as on a full disk.
        memory: bytes that may be allocated beside what there is.
    """
    from selfsup.cli import main

    _quietly(log)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if most is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv = ["selfsup", *words]
    main()


def command_when(words: list[str], log: Path, place: str, call: int, number: int) -> None:
    """The same, but at a certain call of a function (`module:Class.name`) a signal comes."""
    import importlib

    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    *path, name = name.split(".")
    for step in path:
        owner = vars(owner)[step]
    inner = vars(owner)[name]
    calls = []

    def watched(*values: object, **settings: object) -> object:
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return inner(*values, **settings)

    setattr(owner, name, watched)
    command(words, log)
