"""A recipe made definite: paths made whole, and everything decided that was left open."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from selfsup.backbones import ImageBackbone, TowerBackbone, WordBackbone
from selfsup.data.captions import CaptionStore
from selfsup.data.facts import of_pictures
from selfsup.data.pixels import PixelStore
from selfsup.data.source import GIVEN, Data
from selfsup.data.tokenizer import LEARNED
from selfsup.errors import UserError
from selfsup.fusion import apart
from selfsup.names import PLUS, parts_of
from selfsup.objective import load_objective
from selfsup.prepare import Prepared
from selfsup.recipes import CaptionData, ImageData, Optimizer, Pace, Recipe, TextData, WordData
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
    names = [str(Path(name).resolve()) if name.endswith(".py") else name for name in parts_of(recipe.objective)]
    recipe = replace(recipe, objective=PLUS.join(names))
    if Path(recipe.data.source).expanduser().exists():
        source = str(Path(recipe.data.source).expanduser().resolve())
        recipe = replace(recipe, data=replace(recipe.data, source=source))
    if recipe.data.weights:
        weights = Path(recipe.data.weights).expanduser().resolve()
        recipe = replace(recipe, data=replace(recipe.data, weights=str(weights)))
    given, backbone = recipe.data, recipe.backbone
    if isinstance(given, TextData | CaptionData):
        towers = isinstance(backbone, TowerBackbone)
        own, flag = (backbone.text_init, "--text-init") if towers else (backbone.init, "--init")
        if own and not own.startswith("hf:") and not Path(own).exists():
            raise UserError(f"{flag} {own}: no such run or folder; for pretrained weights type hf:ID")
        if own:  # its ids mean what its own tokenizer says
            if given.tokenizer not in (type(given)(source="").tokenizer, own):
                raise UserError(f"--tokenizer {given.tokenizer}: {flag} {own} brings its own; drop --tokenizer")
            given = replace(given, tokenizer=own)
        _check_tokenizer(given)
    if isinstance(backbone, TowerBackbone):
        _check_towers(recipe, backbone)
    return replace(recipe, data=given)


def _check_towers(recipe: Recipe, backbone: TowerBackbone) -> None:
    """Refuse what no tower could learn from."""
    for side in (side for _, config in apart(recipe) for side in vars(config).get("lock", ())):
        if not (backbone.image_init if side == "image" else backbone.text_init):
            raise UserError(
                f"--lock {side}: a fresh tower would never learn; start it with --{side}-init, or drop --lock"
            )
    if vars(recipe.data).get("tokenizer") == "char" and not backbone.text_init:
        raise UserError("--tokenizer char ends a caption at a character that it does not know; take caption or byte")


def _check_tokenizer(data: TextData | CaptionData) -> None:
    """Refuse settings that a tokenizer has no use for."""
    own = data.tokenizer
    if own == "caption" and not isinstance(data, CaptionData):
        raise UserError("--tokenizer caption is for clip: it forgets what is written large; take bpe")
    if data.vocabulary and own not in LEARNED:
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
    towers = isinstance(backbone, TowerBackbone)
    given = named or (bool(backbone.image_init and backbone.text_init) if towers else bool(backbone.init))
    if not isinstance(backbone, WordBackbone) and not given and backbone.size is None:
        needs = load_objective(recipe.objective).backbones(recipe.config, facts).values()
        transformer = any(need.transformer for need in needs)
        size = dial(facts, recipe.budget, torch.get_num_threads(), device.type == "cuda", transformer)
        backbone = replace(backbone, size=size)
    if isinstance(data, ImageData):
        store = prepared.train.pictures if isinstance(prepared.train, CaptionStore) else prepared.train
        kept = isinstance(store, PixelStore) and store.squares is not None
        workers = data.workers if data.workers is not None else (0 if kept else min(os.cpu_count() or 1, 8))
        known = of_pictures(facts)
        assert known is not None
        data = replace(data, pixels=known.size, workers=workers)
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
