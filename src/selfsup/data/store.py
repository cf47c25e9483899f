"""The cache of prepared data: built once, whole or not at all, safe when two processes build at once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from selfsup.errors import UserError, system_reason

log = logging.getLogger("selfsup")
FORMAT = 5  # raised whenever what a store holds changes, so that old stores are not read as new ones


def cache_root(cache: str | None) -> Path:
    """The folder of all stores: `--cache`, else $SELFSUP_CACHE, else ~/.cache/selfsup."""
    return Path(cache or os.environ.get("SELFSUP_CACHE") or "~/.cache/selfsup").expanduser()


def fingerprint(parts: Iterable[object]) -> str:
    """A short hexadecimal digest of values that print as themselves."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(f"{part}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class Mapped:
    """An array in a file, mapped into memory when first read, and anew in each process that receives it."""

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.shape = path, dtype, shape
        self._array: np.ndarray | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "dtype": self.dtype, "shape": self.shape, "_array": None}

    @property
    def array(self) -> np.ndarray:
        """The memory-mapped array, read-only."""
        if self._array is None and not self.shape[0]:
            self._array = np.empty(self.shape, self.dtype)  # nothing cannot be mapped
        if self._array is None:
            self._array = np.memmap(self.path, self.dtype, "r", shape=self.shape).view(np.ndarray)
        return self._array

    def __getitem__(self, rows: np.ndarray | slice | int) -> np.ndarray:
        """A copy in memory of some rows."""
        found = self.array[rows]
        return found.copy() if np.may_share_memory(found, self.array) else found

    def __len__(self) -> int:
        return self.shape[0]


def stored(root: Path, kind: str, key: dict[str, object], build: Callable[[Path], None]) -> Path:
    """The folder of a store, built first where it is not there yet.

    `build(folder)` fills a temporary folder, which takes its final name in one rename, so a killed build leaves
    nothing that could be mistaken for a store. A lock, which the system frees when its holder dies, makes a second
    process wait and then read what the first one built.

    Args:
        root: folder of all stores.
        kind: first word of the folder's name.
        key: settings and fingerprint of the source; two stores are the same if and only if their keys are.
        build: writes the store into the folder it is given.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    words = json.dumps({"format": FORMAT, **key}, sort_keys=True, default=str)
    folder = root / f"{kind}-{fingerprint([words])}"
    if (folder / "key.json").exists():
        return folder
    building = folder.with_name(folder.name + ".building")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(folder.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / "key.json").exists():  # built by whom we waited for
                return folder
            shutil.rmtree(building, ignore_errors=True)  # of a build that was killed: we hold the lock
            shutil.rmtree(folder, ignore_errors=True)  # without its key: half deleted by hand
            building.mkdir()
            try:
                build(building)
                (building / "key.json").write_text(words)
                os.rename(building, folder)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
    except UserError:
        raise
    except Exception as error:
        reason = system_reason(error)
        if reason is None or (isinstance(error, OSError) and error.filename is None and error.errno is None):
            raise
        raise UserError(f"cannot write the prepared data under {root}: {reason}; name another --cache") from error
    log.info("prepared data: %s (%.1f MB)", folder, folder_size(folder) / 1e6)
    return folder
