"""The contract of an objective, and how names become modules and recipes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from pydantic import ValidationError
from torch import Tensor, nn

from selfsup.data.draw import Draw
from selfsup.data.facts import Facts
from selfsup.data.reader import Batch, Reader
from selfsup.encoder import Encoder
from selfsup.errors import UserError, nearest
from selfsup.fields import FLAG
from selfsup.names import objective_names, parts_of
from selfsup.predictors.predictor import Predictor
from selfsup.recipes import Budget, Recipe
from selfsup.settings import complaint, section, sections

Losses = dict[str, Tensor]


ROW_KEYS = ("example_loss", "example_count", "example_correct", "example_answer", "example_difficulty")
COUNTS = ("count", "terms")


def scalars(losses: Losses) -> dict[str, Tensor]:
    """The entries that are one number for the batch, as sums: the loss times `count`, metrics times `terms`.

    Only where rows have weights are these two numbers; both are there as they are. `means` is the inverse.
    """
    counts = {name: losses[name].detach().float() for name in COUNTS if name in losses}
    count, terms = counts["count"], counts.get("terms", counts["count"])
    sums = {
        name: value.detach().float() * (count if name == "loss" else terms)
        for name, value in losses.items()
        if name not in (*ROW_KEYS, *COUNTS)
    }
    return {**sums, **counts}


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Loss and metrics, from sums of `scalars` over micro-batches and processes; zeros where nothing was counted."""
    count, terms = sums["count"] or 1.0, sums.get("terms", sums["count"]) or 1.0
    return {name: value / (count if name == "loss" else terms) for name, value in sums.items() if name not in COUNTS}


@dataclass(frozen=True)
class Limit:
    """A range within which a method is known to work.

    Attributes:
        low, high: of the setting.
        why: what goes wrong outside.
    """

    low: float
    high: float
    why: str


class Objective(nn.Module, ABC):
    """One way for data to supervise itself: all hiding and all learning.

    Attributes:
        couples_rows: the loss compares rows, so a batch cannot be split into micro-batches.
        mine_every: steps after which the companions of all rows are mined anew; None where rows have none.
        questions: names of the Q questions that every row is asked, where each has an answer of its own and all share
            these Q answers, the i-th being right for the i-th; `example_answer` has what was answered.
    """

    couples_rows: bool
    mine_every: int | None = None
    questions: tuple[str, ...] = ()

    @abstractmethod
    def views(self, batch: Batch, draw: Draw) -> Batch:
        """What the network is shown: hidden, cropped, masked or shuffled, on the device; pure, without weights."""

    @abstractmethod
    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """The losses of a raw batch, the only entry point in training.

        Returns:
            `loss`, the scalar mean; `count`, the number of terms it is the mean of; `trivial`, the loss of knowing
            nothing; named scalar metrics; and where rows have them `example_loss` (B,), with gradients, and
            `example_correct` (B,). For weights and audits there may also be `example_count` (B,), of how many terms
            each row's loss is the mean, where rows differ in that; `example_answer` (B, Q), see `questions`; and
            `example_difficulty` (B,), the loss of the question itself as a share of knowing nothing, where
            `example_loss` has more in it than the question.
        """

    @abstractmethod
    def encoders(self) -> Mapping[str, Encoder]:
        """What survives training, by kind of input; the first is the default. Wraps the live modules."""

    def predictors(self) -> Sequence[Predictor]:
        """The heads that generate, fill in or reconstruct, if the objective has uses of its own; one of a kind."""
        return ()

    def after_step(self, progress: float) -> None:
        """Called after each step with steps done / planned; what `forward` needs of it is kept in buffers."""

    def marks(self, batch: Batch, draw: Draw) -> Batch:
        """What mining has to know of each row, (B, ...) each; called in eval mode without gradients."""
        raise NotImplementedError

    def companions(self, marks: Batch) -> tuple[Tensor, dict[str, float]]:
        """(N, K) companions of every row from the marks of all, -1 for none; and about them, `cosine` for one."""
        raise NotImplementedError

    def guessing(self, batch: int) -> Mapping[str, float]:
        """What guessing gets, for each metric that is a share of pretext questions answered rightly; `audit` asks.

        Args:
            batch: number of rows that are scored together.
        """
        return {}

    def limits(self) -> Mapping[str, Limit]:
        """Ranges of settings, the objective's own or the optimizer's, outside of which `doctor` warns; none by default.

        A teacher is watched through the metric `teacher_entropy`, as a share of that of a uniform answer.
        """
        return {}

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Pictures worth a look, each (B, C, H, W) in [0, 1] by title, such as the views; none by default.

        Called in eval mode without gradients.
        """
        return {}


class ClosedForm(Objective):
    """An objective that knows the gradient of its loss, and changes its weights itself: one process, on the CPU.

    Its `forward` is the same loss written out, by which held-out rows are judged.
    """

    @abstractmethod
    def learn(self, batch: Batch, draw: Draw, rate: float) -> Losses:
        """Change the weights by a batch; the losses are as they were before."""


@dataclass(frozen=True)
class Need:
    """An encoder that an objective asks for.

    Attributes:
        family: `image` (a timm network), `decoder` (a causal transformer), `encoder` (one that looks both ways), `text`
            (either, without its head), `caption` (the same; a fresh one is CLIP's) or `words` (a table of vectors).
        context: tokens that a text network must be able to read.
        transformer: whether the dial gives a vision transformer for pictures, in place of a convolutional network.
        pool: what a fresh vision transformer's vector is: its class token, or the mean of its patches.
        sizes: whether a vision transformer is shown pictures of several sizes.
    """

    family: Literal["image", "decoder", "encoder", "text", "caption", "words"]
    context: int | None = None
    transformer: bool = False
    pool: Literal["token", "mean"] = "token"
    sizes: bool = False


class ObjectiveModule(Protocol):
    """What a file in `objectives/` holds, beside the `Objective` itself."""

    Config: type

    def backbones(self, config: object, facts: Facts) -> dict[str, Need]:
        """The encoders it needs, by name; raises `UserError` for what it refuses."""
        ...

    def reader(self, config: object, store: object) -> Reader:
        """The reader over a store."""
        ...

    def build(self, config: object, facts: Facts, encoders: Mapping[str, Encoder]) -> Objective:
        """The objective around given encoders."""
        ...

    def recipe(self) -> Recipe:
        """The measured default setting."""
        ...

    def tiny(self) -> Recipe:
        """The same code with small numbers, for tests."""
        ...


def load_objective(name: str) -> ObjectiveModule:
    """The module of an objective: a name in `objectives/`, a path to a Python file, or several joined by `+`.

    Raises:
        UserError: there is none, or a file of the user's is no Python or lacks a part of the contract.
    """
    parts = parts_of(name)
    if len(parts) > 1:
        from selfsup.fusion.module import fused  # which needs this file

        return fused(tuple(parts))
    if not name.endswith(".py"):
        known = objective_names()
        if name not in known:
            raise UserError(f"no objective {name!r}; {nearest(name, known)}, or a path to a .py file of yours")
        return cast("ObjectiveModule", importlib.import_module(f"selfsup.objectives.{name}"))
    module = _from_file(name)
    others = {
        field.name for part, value in sections(module.recipe()).items() if part != "config" for field in fields(value)
    }
    taken = others & {field.name for field in fields(module.Config)}
    if taken:  # on the command line all settings stand side by side
        raise UserError(f"{name}: its Config may not have {', '.join(sorted(taken))}: other settings have that name")
    return module


def _from_file(name: str) -> ObjectiveModule:
    """The module in a Python file of the user's."""
    path = Path(name).resolve()
    if not path.is_file():
        raise UserError(f"{name}: no such file; allowed: {', '.join(objective_names())}, or a path to a .py file")
    full_name = f"selfsup_objective_{path.stem}"
    spec = importlib.util.spec_from_file_location(full_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module  # dataclasses and pickled readers look their module up there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{name} is no valid Python: line {error.lineno}: {error.msg}") from error
    missing = {"Config", "backbones", "reader", "build", "recipe", "tiny"} - vars(module).keys()
    if missing:
        raise UserError(f"{name} lacks {', '.join(sorted(missing))}; see docs/add-an-objective.md")
    return cast("ObjectiveModule", module)


def recipe(name: str, **settings: object) -> Recipe:
    """The recipe of an objective with some settings of your own.

    Args:
        name: an objective, or a path to a file of yours.
        settings: any flag of `selfsup train NAME`, with underscores, such as `data="photos/", minutes=16, rate=1e-3`.

    Raises:
        UserError: an unknown setting, or a value that is not allowed.
    """
    default = load_objective(name).recipe()
    flags = {
        FLAG.get(field.name, field.name): part for part, value in sections(default).items() for field in fields(value)
    }
    top = {"seed": default.seed, "precision": default.precision}
    for given in settings:
        if given not in flags and given not in top:
            raise UserError(f"{name} has no setting {given!r}; {nearest(given, {*flags, *top})}")
    fieldnames = {flag: field for field, flag in FLAG.items()}
    built: dict[str, Any] = {}
    for part, value in sections(default).items():
        asked = {
            fieldnames.get(key, key): value for key, value in settings.items() if key in flags and flags[key] == part
        }
        base = {} if part == "budget" and asked else asdict(value)
        built[part] = section(Budget if part == "budget" else type(value), {**base, **asked})
    built |= {key: settings.get(key, value) for key, value in top.items()}
    try:
        return Recipe(objective=name, **built)
    except ValidationError as error:
        raise UserError(complaint(error, Recipe)) from error
