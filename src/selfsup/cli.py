"""The command line, first stage: the verb, and errors as one line. Imports nothing heavy until a verb needs it."""

from __future__ import annotations

import ast
import os
import signal
import sys
from pathlib import Path

from selfsup.errors import UserError, nearest
from selfsup.names import first_line, ideas, objective_names, parts_of

HELP = ("-h", "--help")


def functions(*files: str) -> dict[str, str]:
    """Public function -> what it does, read from files beside this one without importing them."""
    folder = Path(__file__).parent
    nodes = [node for file in files for node in ast.parse((folder / file).read_text(encoding="utf-8")).body]
    public = [node for node in nodes if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return {node.name.rstrip("_"): first_line(node) for node in public}


def verbs() -> dict[str, str]:
    """Verb -> what it does."""
    return functions("verbs.py", "uses.py")


def search_parts() -> dict[str, str]:
    """Part of the verb `search` -> what it does."""
    return functions("searches.py")


def overview() -> str:
    """What `selfsup --help` prints."""
    known = {"list": "The objectives, one line each.", **verbs()}
    lines = [f"  {name:<10}{what}" for name, what in known.items()]
    return "\n".join(
        [
            "selfsup: models from data without labels", "", "usage: selfsup VERB ...", "", *lines, "",
            "selfsup VERB --help explains a verb, selfsup train NAME --help an objective with all its settings.",
        ]
    )  # fmt: skip


def listing() -> str:
    """What `selfsup list` prints."""
    return "\n".join(f"{name:<14}{what.split(': ', 1)[-1]}" for name, what in ideas().items())


def train_help(verb: str) -> str:
    """What `selfsup train --help` prints, and `selfsup audit --help`."""
    return "\n".join(
        [
            f"usage: selfsup {verb} NAME --data SOURCE --out FOLDER [settings]", "", verbs()[verb], "",
            "NAME is one of these, or a path to a .py file of yours:", "", listing(), "",
            "SOURCE is a folder, a file, sample:NAME or hf:ID; FOLDER is new, for what is made.",
            f"selfsup {verb} NAME --help explains all settings of an objective.",
        ]
    )  # fmt: skip


def search_help() -> str:
    """What `selfsup search --help` prints."""
    parts = search_parts()
    return "\n".join(
        [
            f"usage: selfsup search {'|'.join(parts)} ...", "", verbs()["search"], "",
            *(f"  {name:<10}{what}" for name, what in parts.items()), "",
            "selfsup search build --help explains the first, and so on.",
        ]
    )  # fmt: skip


def run(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    if not arguments or arguments[0] in (*HELP, "help"):
        print(overview())
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb == "--version":
        from importlib.metadata import version

        print(f"selfsup {version('selfsup')}")
        return 0
    if verb == "list":
        print(listing())
        return 0
    if verb not in verbs():
        raise UserError(f"no verb {verb!r}; {nearest(verb, ['list', *verbs()])}")
    if verb in ("train", "audit", "search") and rest and rest[0] in HELP:
        print(search_help() if verb == "search" else train_help(verb))
        return 0
    if verb == "search" and (not rest or rest[0] not in search_parts()):
        asked = rest[0] if rest else "what"
        raise UserError(f"selfsup search {asked}? {nearest(asked, search_parts())}")
    if verb in ("train", "audit"):
        if not rest or rest[0].startswith("-"):
            raise UserError(
                f"{verb} what? selfsup {verb} NAME --data ... --out ...; NAME is {', '.join(objective_names())}"
            )
        for name in parts_of(rest[0]):
            if not name.endswith(".py") and name not in objective_names():
                raise UserError(
                    f"no objective {name!r}; {nearest(name, objective_names())}, or a path to a .py file of yours"
                )
    from selfsup.parse import call

    return call(verb, rest)


def _terminated(number: int, _: object) -> None:
    """End by the way of exceptions, so that half-written files are cleared away; training has its own way."""
    print("selfsup: terminated", file=sys.stderr)
    sys.exit(128 + number)


def main() -> None:
    """Entry point of `selfsup` and `python -m selfsup`."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"selfsup: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("selfsup: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
