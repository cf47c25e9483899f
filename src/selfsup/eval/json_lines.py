"""Files of JSON, one object a line, where every line that is none is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfsup.errors import UserError


def text_lines(file: Path) -> list[str]:
    """The lines of a file in UTF-8.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8: {error.reason} at byte {error.start}") from error


def json_records(file: Path, needed: str) -> list[tuple[str, dict[str, Any]]]:
    """The records of a file, each with its place for messages; empty lines are none.

    Args:
        file: to read.
        needed: names of the fields, for messages.

    Raises:
        UserError: it cannot be read, is empty, or a line is no object.
    """
    found = []
    for number, line in enumerate(text_lines(file), 1):
        if line.strip():
            where = f"{file}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{where} is no JSON: {error.msg}; one object a line is needed") from error
            if not isinstance(record, dict):
                raise UserError(f"{where} is no JSON object; needed are {needed}")
            found.append((where, record))
    if not found:
        raise UserError(f"{file} is empty")
    return found
