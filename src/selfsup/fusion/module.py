"""What stands in for a file in `objectives/` where several are fused: settings, encoders, readers and recipe."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from selfsup.backbones import Backbone
from selfsup.data.captions import CaptionStore
from selfsup.data.facts import Facts, of_pictures, of_texts
from selfsup.data.reader import Reader
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.fields import STRICT, flag_of
from selfsup.fusion.objective import Fused
from selfsup.fusion.reader import FusedReader
from selfsup.names import PLUS
from selfsup.objective import ClosedForm, Need, Objective, ObjectiveModule, load_objective
from selfsup.recipes import CaptionData, Optimizer, Recipe, TextData
from selfsup.settings import setting_help

GENERAL = {"text": 0, "caption": 1}  # families that any network for text can stand in for, the most general first


class FusedModule:
    """See `ObjectiveModule`.

    Attributes:
        name: as it is typed.
        parts: the files, by name.
        Config: settings of all parts, each behind its part's name, and the weights.
    """

    def __init__(self, name: str, parts: Mapping[str, ObjectiveModule], config: type) -> None:
        self.name, self.parts, self.Config = name, dict(parts), config
        told = f"{name}: the weighted sum of the losses of {len(parts)} objectives, on shared encoders."
        self.__doc__ = "\n\n".join([told, *((module.__doc__ or "").strip() for module in parts.values())])

    def configs(self, config: object) -> dict[str, Any]:
        """The settings of each part."""
        given = vars(config)
        return {
            name: module.Config(**{field.name: given[f"{name}_{field.name}"] for field in fields(module.Config)})
            for name, module in self.parts.items()
        }

    def backbones(self, config: object, facts: Facts) -> dict[str, Need]:
        """The encoders of all parts, those of one name as all of them need it.

        Raises:
            UserError: a part shares none with those before it, or needs another kind of network.
        """
        configs, found = self.configs(config), dict[str, Need]()
        for name, module in self.parts.items():
            with _named(name):
                needs = module.backbones(configs[name], _seen(module, facts))
            if found and not found.keys() & needs.keys():
                have, wants = ", ".join(found), ", ".join(needs)
                raise UserError(f"{self.name}: no encoder in common: {name} needs {wants}, those before it {have}")
            found |= {key: _merged(found[key], need, name) if key in found else need for key, need in needs.items()}
        return found

    def reader(self, config: object, store: Any) -> FusedReader:  # noqa: ANN401 - a store of any kind
        """The readers of all parts."""
        configs, readers = self.configs(config), dict[str, Reader]()
        for name, module in self.parts.items():
            shown, kind = store, type(module.recipe().data)
            if isinstance(store, CaptionStore) and kind is not CaptionData:
                shown = store.tokens if issubclass(kind, TextData) else store.pictures
            with _named(name):
                readers[name] = module.reader(configs[name], shown)
        return FusedReader(readers)

    def build(self, config: object, facts: Facts, encoders: Mapping[str, Encoder]) -> Fused:
        """The parts around their common encoders.

        Raises:
            UserError: a part has no gradient, or mines for itself.
        """
        configs, parts = self.configs(config), dict[str, Objective]()
        for name, module in self.parts.items():
            known = _seen(module, facts)
            with _named(name):
                needs = module.backbones(configs[name], known)
                part = module.build(configs[name], known, {key: encoders[key] for key in needs})
            if isinstance(part, ClosedForm):
                raise _closed(name)
            if part.mine_every is not None:
                flag = flag_of(f"{name}_mine_every")
                raise UserError(f"{flag}: fused objectives do not mine; drop it, and mine before with selfsup mine")
            parts[name] = part
        return Fused(parts, {name: vars(config)[f"{name}_weight"] for name in parts})

    def recipe(self) -> Recipe:
        """The recipe of the first part, with the settings of all."""
        return self._recipe([module.recipe() for module in self.parts.values()])

    def tiny(self) -> Recipe:
        """The same code in a second."""
        return self._recipe([module.tiny() for module in self.parts.values()])

    def _recipe(self, recipes: Sequence[Recipe]) -> Recipe:
        for name, one in zip(self.parts, recipes, strict=True):
            if not isinstance(one.optimizer, Optimizer):
                raise _closed(name)
        kinds, first = [type(one.data) for one in recipes], recipes[0]
        widest = next((one for one in recipes if all(_holds(type(one.data), kind) for kind in kinds)), None)
        if widest is None:
            raise UserError(f"{self.name}: no encoder in common: some learn from pictures, others from text")
        given = {
            f"{name}_{key}": value
            for name, one in zip(self.parts, recipes, strict=True)
            for key, value in vars(one.config).items()
        }
        # Of captions also where only one part reads them; all else as the first part has it.
        data = first.data if type(first.data) is type(widest.data) else widest.data
        alike = [one.backbone for one in recipes if type(one.backbone) is type(widest.backbone)]
        return Recipe(
            objective=self.name, config=self.Config(**given), data=data, backbone=_filled(alike),
            optimizer=first.optimizer, budget=first.budget, watch=first.watch,
        )  # fmt: skip


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which part refuses something: the flags in its words are its own, without its name in front."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _closed(name: str) -> UserError:
    return UserError(f"{name} changes its weights by itself, without a gradient, and cannot be fused")


def _seen(module: ObjectiveModule, facts: Facts) -> Facts:
    """What is known of the data that a part looks at."""
    kind = type(module.recipe().data)
    known = facts if kind is CaptionData else of_texts(facts) if issubclass(kind, TextData) else of_pictures(facts)
    assert known is not None
    return known


def _filled(backbones: Sequence[Backbone]) -> Backbone:
    """What any of them asks for; of two that ask for different things the first."""
    kind = type(backbones[0])
    asked = {
        name: next((vars(one)[name] for one in backbones if vars(one)[name] != usual), usual)
        for name, usual in vars(kind()).items()
    }
    return kind(**asked)


def _holds(data: type, other: type) -> bool:
    """Whether data of one kind has everything that those of another kind have."""
    return issubclass(data, other) or data is CaptionData


def _merged(first: Need, second: Need, name: str) -> Need:
    """One encoder that serves both.

    Raises:
        UserError: none can.
    """
    families = sorted((first.family, second.family), key=lambda family: GENERAL.get(family, len(GENERAL)))
    if families[0] != families[1] and families[0] not in GENERAL:
        raise UserError(f"no encoder in common: {name} needs another network ({second.family}, not {first.family})")
    contexts = [need.context for need in (first, second) if need.context is not None]
    decides = first if first.transformer or not second.transformer else second
    return Need(
        family=families[1], context=max(contexts, default=None), transformer=first.transformer or second.transformer,
        pool=decides.pool, sizes=first.sizes or second.sizes,
    )  # fmt: skip


def _remade(names: tuple[str, ...], values: dict[str, Any]) -> object:
    """Settings that were pickled."""
    return fused(names).Config(**values)


@functools.cache
def fused(names: tuple[str, ...]) -> FusedModule:
    """The module of several objectives at once.

    Args:
        names: see `load_objective`; of a file the name without its ending is the part's.

    Raises:
        UserError: there is no such objective, one is named twice, or a file's name is none in Python.
    """
    parts = {Path(name).stem if name.endswith(".py") else name: load_objective(name) for name in names}
    if len(parts) < len(names) or not all(map(str.isidentifier, parts)):
        raise UserError(f"{PLUS.join(names)}: no objective can be named twice, and files need plain names")
    found: list[tuple[str, Any, Any]] = []

    def setting(name: str, kind: Any, default: object, told: str) -> None:  # noqa: ANN401 - a type, which may be special
        found.append((name, Annotated[kind, tyro.conf.arg(help=told)], dataclasses.field(default=default)))

    for name, module in parts.items():
        hints, told = get_type_hints(module.Config, include_extras=True), setting_help(module.Config)
        default = vars(module.recipe().config)
        setting(f"{name}_weight", Annotated[float, Field(gt=0)], 1.0, f"Of the loss of {name} in the sum.")
        for field in fields(module.Config):
            setting(f"{name}_{field.name}", hints[field.name], default[field.name], told[field.name])

    def reduce(config: object) -> tuple[Any, tuple[object, ...]]:  # for pickle, which finds no class of this name
        return _remade, (names, {name: vars(config)[name] for name, _, _ in found})

    plain = make_dataclass("Config", found, frozen=True, kw_only=True, namespace={"__reduce__": reduce})
    plain.__doc__, plain.__module__ = f"Settings of {', '.join(parts)}.", __name__
    return FusedModule(PLUS.join(names), parts, validated(frozen=True, kw_only=True, config=STRICT)(plain))
