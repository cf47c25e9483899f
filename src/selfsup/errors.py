"""The one exception that a user's mistake ends in."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: what was given, what is allowed, what to type.

    The command line prints it and exits with code 2; in Python it is raised as it is.
    """


def nearest(given: str, allowed: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known one, and all that are allowed."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"


def system_reason(error: BaseException) -> str | None:
    """Why the system refused, such as a full disk; None for another kind of error.

    Libraries written in Rust (tokenizers, safetensors) raise exceptions of their own that hold its number in words, and
    so does a copy of a folder.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    found = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    if found:
        return os.strerror(int(found.group(1) or found.group(2)))
    return str(error) if isinstance(error, OSError) else None
