"""From a recipe and facts to the objective with its encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer

from selfsup.backbones import Backbone, ImageBackbone, TextBackbone, TowerBackbone, WordBackbone
from selfsup.data.facts import CaptionFacts, Facts, ImageFacts
from selfsup.data.tokenizer import with_ends
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.fusion import part_of
from selfsup.image_encoder import ImageEncoder
from selfsup.image_network import chosen
from selfsup.objective import Need, Objective, load_objective
from selfsup.predictors.pair import Pair
from selfsup.predictors.predictor import TextPredictor
from selfsup.recipes import Recipe
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import HEADS, Shape, fresh_captioner
from selfsup.text_network import SIZES as TEXT_SIZES
from selfsup.text_reading import Reading
from selfsup.word_vectors import WordVectors


def fresh_encoder(need: Need, backbone: Backbone, facts: Facts, tokenizer: Path | None) -> Encoder:
    """An encoder with weights from torch's generator, as large as the recipe says."""
    if isinstance(facts, ImageFacts):
        assert isinstance(backbone, ImageBackbone)
        dial = backbone.size or "nano"
        network, arguments = chosen(backbone.network, dial, need.transformer, backbone.patch, facts.size)
        if "img_size" in arguments and need.pool == "mean":
            arguments |= {"global_pool": "avg", "fc_norm": False}  # one norm, before the mean
        if "img_size" in arguments and need.sizes:
            arguments |= {"dynamic_img_size": True}
        return ImageEncoder.create(network, arguments, facts.size, facts.mean, facts.sd)
    if need.family == "words":
        assert isinstance(backbone, WordBackbone) and tokenizer is not None
        return WordVectors.create(tokenizer, backbone.width or 100, backbone.ngrams, backbone.buckets)
    assert isinstance(backbone, TextBackbone) and need.context is not None and need.family != "image"
    ready = AutoTokenizer.from_pretrained(str(tokenizer))
    if need.family == "caption":
        ready = with_ends(ready)
        ready.model_max_length = need.context
        network = fresh_captioner(ready, need.context, shape_of(backbone))
        return TextEncoder(network, ready, need.context, Reading("pooler"))
    if need.family == "text":
        return TextEncoder.create("encoder", ready, need.context, shape_of(backbone)).without_head()
    return TextEncoder.create(need.family, ready, need.context, shape_of(backbone))


def side_of(backbone: Backbone, facts: Facts, need: Need) -> tuple[Backbone, Facts]:
    """What is asked for one encoder, and what is known of its data."""
    if not isinstance(backbone, TowerBackbone):
        return backbone, facts
    assert isinstance(facts, CaptionFacts)
    return (backbone.image, facts.image) if need.family == "image" else (backbone.text, facts.text)


def shape_of(backbone: TextBackbone) -> Shape:
    """How large a text network is: the dial's size, with the user's own numbers in place of its."""
    dial = TEXT_SIZES[backbone.size or "nano"]
    return Shape(
        backbone.layers or dial.layers, backbone.heads or dial.heads, backbone.width or dial.width, backbone.dropout,
        backbone.share, backbone.embedding,
    )  # fmt: skip


def started_encoder(
    name: str, need: Need, place: str, facts: Facts, dropout: float, tokenizer: Path | None = None, flag: str = "--init"
) -> Encoder:
    """The encoder that `--init`, or another flag, names.

    Raises:
        UserError: it is of another family, or made for other data.
    """
    path = Path(place)
    if need.family == "words":
        vectors = load_encoder(place, name if (path / "run.json").exists() else None)
        if not isinstance(vectors, WordVectors):
            raise UserError(f"{flag} {place}: a {vectors.kind} network has no word vectors; give a run of word2vec")
        return vectors if tokenizer is None else vectors.with_counts(tokenizer)
    if need.family != "image":
        family = None if need.family in ("text", "caption") else need.family
        head = HEADS[family][1] if family else name
        folder = path / "model" / head if (path / "run.json").exists() else path
        if not path.exists() and not place.startswith("hf:"):  # a mistyped path must not go to the network
            raise UserError(f"{flag} {place}: no such run or folder; for pretrained weights type hf:ID")
        if path.exists() and not folder.exists():
            raise UserError(f"{flag} {place}: a run whose model has no {head!r} cannot start this objective")
        return TextEncoder.from_hub(str(folder) if path.exists() else place, family, need.context, dropout)
    encoder = load_encoder(place, name if (path / "run.json").exists() else None)
    if not isinstance(encoder, ImageEncoder) or not isinstance(facts, ImageFacts):
        raise UserError(f"{flag} {place}: a {encoder.kind} encoder cannot start one for {need.family}")
    if len(encoder.about.mean) != facts.channels:
        raise UserError(f"{flag} {place} sees {len(encoder.about.mean)} channels, these pictures have {facts.channels}")
    try:
        return encoder.adapted(facts.size, facts.mean, facts.sd, need.sizes)
    except UserError as error:
        raise UserError(f"{flag} {place}: {error}") from error


def construct(recipe: Recipe, facts: Facts, tokenizer: Path | None, start: Path | None) -> Objective:
    """The objective before its first step, bit for bit the same for the same recipe and facts.

    Args:
        recipe: what the run is, sizes resolved.
        facts: what the store knows.
        tokenizer: folder of the tokenizer, for text.
        start: folder in which a run keeps the encoders of `--init`; None to load them from where they came.
    """
    module = load_objective(recipe.objective)
    needs = module.backbones(recipe.config, facts)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        encoders: dict[str, Encoder] = {}
        for name, need in needs.items():
            backbone, known = side_of(recipe.backbone, facts, need)
            if backbone.init:
                dropout = backbone.dropout if isinstance(backbone, TextBackbone) else 0.0
                kept = HEADS[need.family][1] if need.family in ("decoder", "encoder") else name
                place = str(start / kept) if start else backbone.init
                flag = f"--{name}-init" if backbone is not recipe.backbone else "--init"
                encoders[name] = started_encoder(name, need, place, known, dropout, tokenizer, flag)
            else:
                encoders[name] = fresh_encoder(need, backbone, known, tokenizer)
        if recipe.backbone.init:  # however many numbers loading took
            torch.manual_seed(recipe.seed)
        objective = module.build(recipe.config, facts, encoders)
        if recipe.backbone.init:
            begin_heads(objective, recipe, start)
        return objective


def begin_heads(objective: Objective, recipe: Recipe, start: Path | None) -> None:
    """Give an objective the heads that a run saved beside its encoders, such as that which judges order.

    Args:
        objective: to begin.
        recipe: names the run.
        start: where this run keeps all of them, once it has begun.
    """
    came = {head for _, head in HEADS.values()}  # with the encoder
    for predictor in objective.predictors():
        if isinstance(predictor, Pair):
            begin_pair(predictor, recipe.backbone, part_of(recipe, objective, Pair.kind).config, start)
        folder = (start or Path(str(recipe.backbone.init)) / "model") / predictor.kind
        if isinstance(predictor, TextPredictor) and predictor.kind not in came and folder.exists():
            predictor.start_from(folder)


def begin_pair(pair: Pair, backbone: Backbone, config: Any, start: Path | None) -> None:  # noqa: ANN401 - clip's own
    """Give each tower the projection that it had in a pair, and two of one pair their temperature."""
    assert isinstance(backbone, TowerBackbone)
    if start:
        return pair.start_from(start / pair.kind)
    folders: dict[Path, list[Literal["image", "text"]]] = {}
    sides: tuple[Literal["image", "text"], ...] = ("image", "text")
    for place, side in zip((backbone.image_init, backbone.text_init), sides, strict=True):
        if place and (Path(place) / "model" / pair.kind).exists():
            folders.setdefault(Path(place).resolve() / "model" / pair.kind, []).append(side)
    for folder, theirs in folders.items():
        pair.start_from(folder, theirs)
    if vars(config).get("temperature") is not None:  # which an objective of the user's own need not have
        pair.set_temperature(config.temperature)
    return None
