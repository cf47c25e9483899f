"""Lines of JSON that a benchmark has measured, kept in a file, so that what is there is not measured again."""

from __future__ import annotations

import json
from pathlib import Path


def kept(file: Path | None) -> list[dict]:
    """The lines of a file, none where there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file is not None and file.exists() else []


def keep(line: dict, file: Path | None) -> None:
    """One more line, where there is to be a file."""
    if file is not None:
        with file.open("a") as target:
            target.write(json.dumps(line) + "\n")
