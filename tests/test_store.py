"""Stores: whole or not there, also when two build at once, one is killed, or nothing can be written."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from selfsup.data.store import Mapped, cache_root, fingerprint, folder_size, stored
from selfsup.errors import UserError

KEY: dict[str, object] = {"identity": "abc", "resolution": 8}


def write(folder: Path) -> None:
    (folder / "data").write_text("whole")


def test_a_store_is_built_once(tmp_path: Path):
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        write(folder)

    one, again = stored(tmp_path, "pixels", KEY, build), stored(tmp_path, "pixels", dict(reversed(KEY.items())), build)
    other = stored(tmp_path, "pixels", {**KEY, "resolution": 9}, build)
    assert one == again != other and len(built) == 2
    assert one.name.startswith("pixels-") and (one / "data").read_text() == "whole"
    assert json.loads((one / "key.json").read_text()).items() >= KEY.items()
    assert folder_size(one) == 5 + (one / "key.json").stat().st_size


@pytest.mark.parametrize("left", [".building", ""])
def test_what_a_killed_build_left_is_no_store(tmp_path: Path, left: str):
    """`.building` is what a kill leaves; a folder without its key what a half-done deletion does."""
    folder = stored(tmp_path, "pixels", KEY, write)
    broken = folder.with_name(folder.name + left)
    folder.rename(broken) if left else None
    (broken / "key.json").unlink()
    (broken / "data").write_text("half")
    (broken / "more").write_text("half")
    assert stored(tmp_path, "pixels", KEY, write) == folder
    assert sorted(file.name for file in folder.iterdir()) == ["data", "key.json"]
    assert (folder / "data").read_text() == "whole"
    assert not folder.with_name(folder.name + ".building").exists()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failed_build_leaves_nothing_and_keeps_its_error(tmp_path: Path, kind: type[BaseException]):
    def fail(folder: Path) -> None:
        write(folder)
        raise kind("mine")

    with pytest.raises(kind, match="mine"):
        stored(tmp_path, "pixels", KEY, fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def build_slowly(root: Path, log: Path) -> None:
    def build(folder: Path) -> None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        (folder / "data").write_text("half")
        time.sleep(0.3)
        write(folder)

    folder = stored(root, "pixels", KEY, build)
    assert (folder / "data").read_text() == "whole"


def test_two_processes_build_one_store(tmp_path: Path):
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=build_slowly, args=(tmp_path / "root", tmp_path / "log")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(20)
    assert [process.exitcode for process in both] == [0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert len([path for path in (tmp_path / "root").iterdir() if path.is_dir()]) == 1


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=build_slowly, args=(tmp_path / "root", tmp_path / "log"))
    process.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    process.kill()
    process.join(20)
    assert [path.suffix for path in (tmp_path / "root").iterdir() if path.is_dir()] == [".building"]
    build_slowly(tmp_path / "root", tmp_path / "log")
    assert [path.suffix for path in (tmp_path / "root").iterdir() if path.is_dir()] == [""]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match=r"cannot write the prepared data under .*; name another --cache$"):
            stored(root, "pixels", KEY, write)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path):
    def fill(folder: Path) -> None:
        write(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match="No space left on device; name another --cache"):
        stored(tmp_path, "pixels", KEY, fill)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SELFSUP_CACHE", str(tmp_path))
    assert cache_root(None) == tmp_path and cache_root("~/x") == Path.home() / "x"
    monkeypatch.delenv("SELFSUP_CACHE")
    assert cache_root(None) == Path.home() / ".cache" / "selfsup"


def test_fingerprints_tell_parts_apart():
    assert len({fingerprint(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"])}) == 4
    assert fingerprint(iter([1, "\ud800"])) == fingerprint([1, "\ud800"])


def test_a_mapped_array_gives_copies_and_pickles_small(tmp_path: Path):
    content = np.arange(60_000, dtype=np.uint8).reshape(100, 600)
    (tmp_path / "array").write_bytes(content.tobytes())
    mapped = Mapped(tmp_path / "array", np.uint8, content.shape)
    for rows in (slice(3, 9), 5, np.array([7, 7, 2]), np.arange(100) % 2 == 0):
        found = mapped[rows]
        assert np.array_equal(found, content[rows]) and found.flags.writeable
        found[:] = 0
    assert np.array_equal(mapped[slice(None)], content) and len(mapped) == 100
    packed = pickle.dumps(mapped)
    assert len(packed) < 1000
    assert np.array_equal(pickle.loads(packed)[slice(None)], content)
