"""Write docs/objectives.md from the docstrings of the objectives; a test sees to it that it is up to date."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from selfsup.fields import flag_of
from selfsup.names import objective_names
from selfsup.objective import load_objective
from selfsup.settings import setting_help

PAGE = Path(__file__).parent / "objectives.md"
HEAD = "# Objectives\n\nMade from the docstrings by `python docs/generate.py`; do not edit.\n"


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for name in objective_names():
        module = load_objective(name)
        parts.append(f"## {name}\n\n{(module.__doc__ or '').strip()}\n")
        help_text, default = setting_help(module.Config), module.recipe().config
        parts.append("| flag | default | what |\n|---|---|---|")
        for field in fields(module.Config):
            value = vars(default)[field.name]
            parts.append(f"| `{flag_of(field.name)}` | {value} | {help_text[field.name]} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
