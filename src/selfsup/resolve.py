"""A recipe made definite: paths made whole, and everything decided that was left open."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from selfsup.data.facts import ImageFacts
from selfsup.data.pixels import PixelStore
from selfsup.data.source import GIVEN, Data
from selfsup.errors import UserError
from selfsup.objective import load_objective
from selfsup.prepare import Prepared
from selfsup.recipes import ImageBackbone, ImageData, Optimizer, Pace, Recipe, TextData, WordBackbone, WordData
from selfsup.size import dial


def by_gradient(pace: Pace) -> Optimizer:
    """The settings of an optimizer: all objectives but those in closed form have one."""
    assert isinstance(pace, Optimizer)
    return pace


def located(recipe: Recipe, data: Data | None) -> Recipe:
    """The recipe with its data named, and every path whole, so that the run can be resumed from any folder.

    Raises:
        UserError: a tokenizer that does not go with the rest.
    """
    if data is not None:
        name = os.fspath(data) if isinstance(data, str | os.PathLike) else GIVEN
        recipe = replace(recipe, data=replace(recipe.data, source=name))
    if recipe.objective.endswith(".py"):
        recipe = replace(recipe, objective=str(Path(recipe.objective).resolve()))
    if Path(recipe.data.source).expanduser().exists():
        source = str(Path(recipe.data.source).expanduser().resolve())
        recipe = replace(recipe, data=replace(recipe.data, source=source))
    if recipe.backbone.init and isinstance(recipe.data, TextData):  # its ids mean what its own tokenizer says
        asked, own = recipe.data.tokenizer, recipe.backbone.init
        if asked not in (type(recipe.data)(source="").tokenizer, own):
            raise UserError(f"--tokenizer {asked}: --init {own} brings its own tokenizer; drop --tokenizer")
        recipe = replace(recipe, data=replace(recipe.data, tokenizer=own))
    if isinstance(recipe.data, TextData):
        _check_tokenizer(recipe.data)
    return recipe


def _check_tokenizer(data: TextData) -> None:
    """Refuse settings that a tokenizer has no use for."""
    own = data.tokenizer
    if data.vocabulary and own not in ("bpe", "word"):
        raise UserError(
            f"--vocabulary {data.vocabulary}: the tokenizer {own} has a vocabulary of its own; drop --vocabulary"
        )
    if own == "word" and not isinstance(data, WordData):
        raise UserError("--tokenizer word is for word2vec: networks need a tokenizer that loses nothing, such as bpe")
    if isinstance(data, WordData) and own != "word":
        default = WordData(source="")
        for flag, given, usual in (("min-count", data.min_count, default.min_count), ("case", data.case, default.case)):
            if given != usual:
                raise UserError(f"--{flag} {given}: the tokenizer {own} says what is a word; drop --{flag}")


def resolve(recipe: Recipe, prepared: Prepared, device: torch.device, precision: str) -> Recipe:
    """The recipe with everything decided that was left open; `describe` says what was."""
    facts, backbone, data = prepared.facts, recipe.backbone, recipe.data
    named = isinstance(backbone, ImageBackbone) and backbone.network
    if not isinstance(backbone, WordBackbone) and not named and not backbone.init and backbone.size is None:
        needs = load_objective(recipe.objective).backbones(recipe.config, facts).values()
        transformer = any(need.transformer for need in needs)
        size = dial(facts, recipe.budget, torch.get_num_threads(), device.type == "cuda", transformer)
        backbone = replace(backbone, size=size)
    if isinstance(data, ImageData):
        kept = isinstance(prepared.train, PixelStore) and prepared.train.squares is not None
        workers = data.workers if data.workers is not None else (0 if kept else min(os.cpu_count() or 1, 8))
        assert isinstance(facts, ImageFacts)
        data = replace(data, pixels=facts.size, workers=workers)
    else:
        data = replace(data, workers=data.workers or 0)
    recipe = replace(recipe, backbone=backbone, data=data, precision=precision)
    if recipe.optimizer.batch is None:
        rows = len(load_objective(recipe.objective).reader(recipe.config, prepared.train))
        batch = min(max(rows // 100, 1), 256)  # by the data alone: the same on every machine
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, batch=batch))
    return recipe


def batch_of(recipe: Recipe) -> int:
    """Rows in a step of a recipe that is resolved."""
    assert recipe.optimizer.batch is not None
    return recipe.optimizer.batch
