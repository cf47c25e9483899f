"""Recipes as plain values: strict JSON, one line for what is wrong in it, and the help of each setting."""

from __future__ import annotations

import ast
import inspect
import json
import os
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from selfsup.errors import UserError, nearest
from selfsup.fields import flag_of
from selfsup.recipes import Recipe

Section = TypeVar("Section")


def spoken(reason: str) -> str:
    """What pydantic found, in the words of the house."""
    return reason.removeprefix("Value error, ").replace("Input should be", "allowed is")


def complaint(error: ValidationError, owner: type) -> str:
    """One line for what pydantic found: the flag, what was given and what is allowed."""
    first = error.errors(include_url=False)[0]
    where = [str(step) for step in first["loc"] if isinstance(step, str)]
    name = next(
        (step for step in reversed(where) if step in {f.name for f in fields(owner)}), where[-1] if where else ""
    )
    reason = spoken(first["msg"])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{flag_of(name)} is no setting of {owner.__name__}; {nearest(name, (f.name for f in fields(owner)))}"
    if not where:
        return reason
    return f"{flag_of(name)} {first['input']}: {reason}"


def section(kind: type[Section], values: Mapping[str, object]) -> Section:
    """A section of a recipe from plain values, strictly: no text for a number, no unknown name.

    Raises:
        UserError: a value is not allowed.
    """
    try:
        plain = json.dumps(values, default=os.fspath)
    except TypeError as error:
        raise UserError(
            f"{kind.__name__}: {error}; a recipe holds plain values, data goes to train(..., data=)"
        ) from error
    try:
        return TypeAdapter(kind).validate_json(plain, strict=True)
    except ValidationError as error:
        raise UserError(complaint(error, kind)) from error


def to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, without class paths."""
    return {
        "objective": recipe.objective,
        **{name: asdict(value) for name, value in sections(recipe).items()},
        "seed": recipe.seed,
        "precision": recipe.precision,
    }


def sections(recipe: Recipe) -> dict[str, Any]:
    """The sections of a recipe by name."""
    return {
        "config": recipe.config,
        "data": recipe.data,
        "backbone": recipe.backbone,
        "optimizer": recipe.optimizer,
        "budget": recipe.budget,
        "watch": recipe.watch,
    }


def from_json(values: Mapping[str, Any], default: Recipe) -> Recipe:
    """The recipe in plain values; `default`, the objective's own, tells the types of the sections."""
    kinds = {name: type(value) for name, value in sections(default).items()}
    unknown = set(values) - {*kinds, "objective", "seed", "precision"}
    if unknown:
        name = min(unknown)
        raise UserError(f"{name!r} is no part of a recipe; {nearest(name, (*kinds, 'objective', 'seed', 'precision'))}")
    built = {name: section(kind, values[name]) for name, kind in kinds.items()}
    return Recipe(objective=values["objective"], seed=values["seed"], precision=values["precision"], **built)


def setting_help(owner: type) -> dict[str, str]:
    """The text below each field of a section, which is also what `--help` shows."""
    found = setting_help(owner.__bases__[0]) if owner.__bases__ != (object,) else {}
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            assert isinstance(below.value, ast.Constant)
            found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found
