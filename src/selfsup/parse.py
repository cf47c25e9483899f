"""The command line, second stage: typed flags, made from the verbs' signatures and an objective's recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args

import tyro
from pydantic import ValidationError
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from selfsup import searches, uses, verbs
from selfsup.errors import UserError, nearest
from selfsup.fields import flag_of
from selfsup.recipes import Budget, Recipe
from selfsup.settings import complaint, sections, spoken

Value = TypeVar("Value")
MARKERS = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.DisallowNone,  # what is not given has no word of its own
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.PositionalMetavarFromFieldName,
)
VALUES = ConstructorRegistry()
PLAIN: dict[type, tuple[str, str]] = {
    int: ("N", "a whole number"),
    float: ("NUMBER", "a number"),
    str: ("TEXT", "text"),
    Path: ("PATH", "a path"),
}


@VALUES.primitive_rule
def _plain_value(asked: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A number, text or path in the user's words, not Python's."""
    if asked.type not in PLAIN:
        return None
    name, words = PLAIN[asked.type]

    def read(given: list[str]) -> object:
        try:
            return asked.type(given[0])
        except ValueError:
            raise ValueError(f"{given[0]}: allowed is {words}") from None

    return PrimitiveConstructorSpec(
        1, name, read, lambda value: isinstance(value, asked.type), lambda value: [str(value)]
    )


@VALUES.primitive_rule
def _optional_value(asked: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A value that may be left out."""
    kinds = get_args(asked.type)
    if asked.type_origin not in (Union, UnionType) or len(kinds) != 2 or kinds[1] is not type(None):
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], asked.markers))
    assert isinstance(spec, PrimitiveConstructorSpec)
    written = spec.str_from_instance
    return replace(spec, str_from_instance=lambda value: ["none"] if value is None else written(value))


@VALUES.primitive_rule
def _columns_value(asked: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Pairs of a meaning and a name."""
    if get_args(asked.type) != (str, ...):
        return None
    return PrimitiveConstructorSpec(
        "*", "MEANING=NAME ...", tuple, lambda value: isinstance(value, tuple), lambda value: [*value] or ["none"]
    )


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long to train: at most one of the three; the recipe's own budget when none is given."""

    steps: int | None = None
    """Number of steps."""
    epochs: float | None = None
    """Number of passes over the training rows."""
    minutes: float | None = None
    """Minutes of training; a few steps are timed and undone, and the planned steps written down."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the rows are asked, and what is printed."""

    folds: int = 2
    """Parts of the rows; each is asked by a network that was trained on the others."""
    draws: int = 4
    """How often each row is asked, under other random numbers."""
    json: verbs.Switch = False
    """Print JSON."""


def _one_line(text: str) -> str:
    """What tyro says in a box over many lines, as one line: the flag, what was given and what is allowed."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    words = " ".join(line for line in lines if line.strip("-─") and line[0] not in "╭╰")
    pydantic = r"error for \w+ (?!Value error)(\w+)\S* (.*?) \[type=\w+, input_value=(.*?), input_type"
    if found := re.search(pydantic, words):
        name, reason, given = found.groups()
        return f"{flag_of(name)} {given}: {spoken(reason)}"
    if found := re.search(r"error for \w+ Value error, (.*?) \[type=", words):
        return found.group(1)
    if found := re.search(r"Missing value for argument '(.*?)'. Expected (\d+)", words):
        return f"{found.group(1)} needs {'a value' if found.group(2) == '1' else found.group(2) + ' values'}"
    if found := re.search(r"invalid choice '(.*?)' for argument '(.*?)'. Expected one of \((.*?)\)", words):
        given, flag, allowed = found.groups()
        return f"{flag} {given}: {nearest(given, allowed.replace(chr(39), '').split(', '))}"
    if found := re.search(r"Missing from (selfsup .*?): (.*)", words):
        names = re.findall(r"(?:^|\(required\) )(--[\w-]+ \w+|[A-Z]{2,})", found.group(2))
        return f"{found.group(1)} needs {' and '.join(names)}"
    if found := re.search(r"Error parsing (\S+): (.*?)(?: Argument helptext| For full helptext|$)", words):
        return " ".join(found.groups())
    rest = words.split(" For full helptext")[0].removeprefix("Unrecognized options ")
    return rest.replace("Unrecognized options:", "no place for")


def parse(kind: Callable[..., Value], arguments: list[str], program: str, known: set[str]) -> Value:
    """Typed values from flags.

    Args:
        kind: a function's or dataclass's type.
        arguments: from the command line.
        program: name in the help.
        known: flags that exist, for the nearest one to a mistyped one.

    Raises:
        UserError: a flag or value that is not allowed, in one line.
    """
    for word in arguments:
        flag = word.split("=", 1)[0].replace("_", "-")
        if flag.startswith("--") and flag not in known | {"--help"}:
            raise UserError(f"{program} has no flag {flag}; {nearest(flag, known)}")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=arguments, prog=program, config=MARKERS, registry=VALUES)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(f"{_one_line(errors.getvalue())}; see {program} --help") from end


def call(verb: str, arguments: list[str]) -> int:
    """Call the function of a verb with its flags; returns its exit code."""
    if verb in ("train", "audit"):
        return vars(verbs)[verb](tuple(arguments))
    program, found = f"selfsup {verb}", {**vars(uses), **vars(verbs)}
    if verb == "search":
        verb, *arguments = arguments
        program, found = f"{program} {verb}", vars(searches)
    function: Callable[..., int] = found[verb + "_" if verb + "_" in found else verb]
    known = {"--" + name.replace("_", "-") for name in function.__annotations__ if name != "return"}

    @functools.wraps(function)
    def bound(*values: object, **settings: object) -> Callable[[], int]:
        return functools.partial(function, *values, **settings)

    return parse(bound, arguments, program, known)()  # called here: tyro would catch its errors


def training(name: str, arguments: list[str]) -> tuple[Recipe, Path]:
    """The recipe and the run folder that the flags of `selfsup train NAME` ask for.

    Raises:
        UserError: a flag or value that is not allowed.
    """
    recipe, found = _recipe_of("train", name, arguments, "Folder for the run.", [])
    return recipe, found["out"]


def auditing(name: str, arguments: list[str]) -> tuple[Recipe, Path, Asking]:
    """The recipe, the folder and the rest that the flags of `selfsup audit NAME` ask for.

    Raises:
        UserError: a flag or value that is not allowed.
    """
    asking: list[tuple[str, type, Any]] = [("asking", Asking, dataclasses.field(default=Asking()))]
    recipe, found = _recipe_of("audit", name, arguments, "Folder for what is found.", asking)
    return recipe, found["out"], found["asking"]


def _recipe_of(
    verb: str, name: str, arguments: list[str], out: str, more: list[tuple[str, type, Any]]
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that the flags of a verb ask for, and the values of all, those of the dataclasses in `more` too."""
    from selfsup.objective import load_objective

    default = load_objective(name).recipe()
    parts = sections(default)
    given = [(part, type(value), value) for part, value in parts.items() if part != "budget"]
    precision = Literal["float32", "bfloat16"] | None
    flags = make_dataclass(
        "Training",
        [
            ("out", Annotated[Path, tyro.conf.arg(help=out)]),
            *more,
            *((part, kind, dataclasses.field(default=value)) for part, kind, value in given),
            ("duration", Duration, dataclasses.field(default=Duration())),
            ("seed", Annotated[int, tyro.conf.arg(help="Seed of everything random.")], default.seed),
            (
                "precision",
                Annotated[precision, tyro.conf.arg(help="Of the network's arithmetic; by device if not given.")],
                None,
            ),
        ],
        frozen=True,
        kw_only=True,
    )
    kinds = [kind for _, kind, _ in (*given, *more)]
    names = [field.name for part in (*kinds, Duration) for field in fields(part)]
    known = {flag_of(name) for name in (*names, "out", "seed", "precision")}
    try:
        found = parse(flags, arguments, f"selfsup {verb} {name}", known)
        asked = {key: value for key, value in dataclasses.asdict(found.duration).items() if value is not None}
        chosen = {part: vars(found)[part] for part, _, _ in given}
        budget = Budget(**asked) if asked else default.budget
    except ValidationError as error:
        owners = {kind.__name__: kind for _, kind, _ in given}
        raise UserError(complaint(error, owners.get(error.title, Budget))) from error
    recipe = Recipe(objective=name, budget=budget, seed=found.seed, precision=found.precision, **chosen)
    return recipe, vars(found)
