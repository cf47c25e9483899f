"""Names of objectives, read from files and docstrings: nothing is imported to list them."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "objectives"
PLUS = "+"  # between the names of objectives that are fused


def first_line(node: ast.Module | ast.FunctionDef) -> str:
    """First line of a docstring."""
    return (ast.get_docstring(node) or "").split("\n", 1)[0]


def objective_names() -> list[str]:
    """The name of every file in `objectives/`."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))


def ideas() -> dict[str, str]:
    """Name -> idea of every objective."""
    files = {name: FOLDER / f"{name}.py" for name in objective_names()}
    return {name: first_line(ast.parse(file.read_text(encoding="utf-8"))) for name, file in files.items()}


def parts_of(name: str) -> list[str]:
    """The objectives that a name joins by `+`; a path to a file may have one in it."""
    found, rest = [], name.split(PLUS)
    if len(rest) == 1:
        return rest
    known = objective_names()
    while rest:
        joined = (PLUS.join(rest[:count]) for count in range(1, len(rest) + 1))
        whole = next((one for one in joined if one in known or one.endswith(".py")), rest[0])
        found.append(whole)
        rest = rest[whole.count(PLUS) + 1 :]
    return found
