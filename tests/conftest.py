"""What every test runs under: pinned threads, a cache of its own, and no network."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from guard.loopback import is_local

# OpenMP threads spin while they wait: two busy processes with two threads each can be 60 times slower. So a
# subprocess gets one thread, by this variable, as does each of xdist's workers; alone, the parent gets its two back in
# `threads`.
PARENT_THREADS = 1 if os.environ.get("OMP_NUM_THREADS") == "1" or "PYTEST_XDIST_WORKER" in os.environ else 2
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = str(PARENT_THREADS)  # numba counts the cores instead, and refuses a later change
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bit for bit holds on a CPU
GUARD = str(Path(__file__).parent / "guard")
os.environ["PYTHONPATH"] = os.pathsep.join([GUARD, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items):
    """Groups for `--dist loadgroup`: the contract of an objective on one worker, which trains it once, else by file."""
    for item in items:
        given = vars(item).get("callspec")
        of_an_objective = item.path.name in ("test_contract.py", "test_resume.py") and given and "case" in given.params
        item.add_marker(pytest.mark.xdist_group(given.params["case"] if of_an_objective else item.path.name))


@pytest.fixture(scope="session", autouse=True)
def threads():
    """Give the parent its threads; a session without torch does not import it for this."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(PARENT_THREADS)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The folder in which this session, subprocesses included, keeps its stores."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SELFSUP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def small_maps():
    """Maps of 60 embeddings in the pictures of runs: of a thousand each would take seconds."""
    if "selfsup.report" in sys.modules:
        sys.modules["selfsup.report"].POINTS = 60  # type: ignore[attr-defined]


def refuse(what: str, host: object) -> None:
    """Fail the test unless `host` is this machine; what a test starts is guarded by `guard/sitecustomize.py`."""
    if not is_local(host):
        pytest.fail(f"{what} {host!r}: tests reach nothing beyond loopback")


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Refuse connections and name look-ups beyond this machine, in this process and in what it forks."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(inner):
        def call(self, address, /):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse("connection to", address[0])
            return inner(self, address)

        return call

    def guarded_look_up(host, *args, **kwargs):
        refuse("look-up of", host)
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture
def one_thread():
    """Sums depend on the number of threads: golden losses and bitwise comparisons take one, as the children do."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures of a run take longer than the rest of a tiny one."""
    from selfsup import training

    monkeypatch.setattr(training, "report", lambda *_: None)


@pytest.fixture
def short_fits(monkeypatch):
    """Probes of fewer steps, for tests of who is compared with whom; the probes themselves are in `test_probes`."""
    from selfsup.eval import fine_tune, linear

    monkeypatch.setattr(linear, "MIN_STEPS", 100)
    monkeypatch.setattr(fine_tune, "MIN_STEPS", 100)
    monkeypatch.setattr(fine_tune, "EPOCHS", 1)
