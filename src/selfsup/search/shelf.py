"""The folder of an index: segments that never change, and one small file that says which of their rows count.

Whatever a process that dies leaves behind is not named in that file, and so not there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from selfsup.errors import UserError
from selfsup.run import writing

FORMAT = 2
CONTENTS = "index.json"
OWN = re.compile(r"segment-\d{6,}(-\d+)?|gone-\d{6,}-segment-\d{6,}(-\d+)?\.npy")  # names that are ours to delete


@dataclass(frozen=True)
class Named:
    """A segment by name.

    Attributes:
        name: of its folder.
        rows: of it, whether they count or not.
        gone: file with the rows that do not count any more; None where all do.
    """

    name: str
    rows: int
    gone: str | None = None


@dataclass(frozen=True)
class Contents:
    """What an index is made of.

    Attributes:
        about: how it was made: the encoder, and how documents are cut; never changes.
        segments: in the order in which they were added.
        serial: number of changes so far, for names that were never used.
        format: of the folder.
    """

    about: dict[str, Any]
    segments: tuple[Named, ...] = ()
    serial: int = 0
    format: int = field(default=FORMAT)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """The same for a folder with everything in it."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


@dataclass(frozen=True)
class Shelf:
    """The folder of an index."""

    folder: Path

    def read(self) -> Contents:
        """What is in force.

        Raises:
            UserError: there is no index, or one of another format.
        """
        file = self.folder / CONTENTS
        if not file.exists():
            raise UserError(f"{self.folder} is no index: it has no {CONTENTS}; selfsup search build makes one")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            kept = Contents(**{**found, "segments": tuple(Named(**one) for one in found["segments"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file} cannot be read: {error}; put it back, or build the index anew") from error
        if kept.format != FORMAT:
            raise UserError(f"{self.folder} has format {kept.format}, this selfsup reads {FORMAT}; build it anew")
        return kept

    def put(self, contents: Contents) -> Contents:
        """Make it what is in force, all at once, and forget what it does not name.

        What it names has to be on the disk (`sync_all`). Readers of what was in force before keep what they opened.
        """
        contents = replace(contents, serial=contents.serial + 1)
        with writing(self.folder):
            sync(self.folder)
            fresh = self.folder / f"{CONTENTS}.new"
            fresh.write_text(json.dumps(asdict(contents), indent=1), encoding="utf-8")
            sync(fresh)
            os.replace(fresh, self.folder / CONTENTS)
            sync(self.folder)
        self.tidy(contents)
        return contents

    def tidy(self, contents: Contents) -> None:
        """Delete segments and lists of rows that are not named; of half a deletion nothing is named either."""
        named = {part for one in contents.segments for part in (one.name, one.gone)}
        for entry in self.folder.iterdir():
            if OWN.fullmatch(entry.name) and entry.name not in named:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
