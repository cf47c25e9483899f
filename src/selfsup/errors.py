"""The one exception that a user's mistake ends in."""

from __future__ import annotations

import difflib
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
