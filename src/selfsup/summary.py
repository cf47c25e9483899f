"""What is going to be trained on what, in one line."""

from __future__ import annotations

from pathlib import Path

from transformers import GPT2LMHeadModel

from selfsup.backbones import ImageBackbone, TextBackbone, TowerBackbone, WordBackbone
from selfsup.construct import shape_of
from selfsup.data.facts import of_pictures, of_texts
from selfsup.image_encoder import ImageEncoder
from selfsup.objective import Objective
from selfsup.prepare import Prepared
from selfsup.recipes import Recipe
from selfsup.run import Run
from selfsup.runtime import Runtime
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import weights_unshared


def describe(objective: Objective, prepared: Prepared, recipe: Recipe, runtime: Runtime) -> str:
    """One line about what is going to be trained on what."""
    weights = sum(weight.numel() for weight in objective.parameters())
    facts, backbone = prepared.facts, recipe.backbone
    pictures, texts, said = of_pictures(facts), of_texts(facts), []
    if pictures:
        colors = {1: "gray", 3: "color"}.get(pictures.channels, f"{pictures.channels}-channel")
        said.append(f"{pictures.rows:,} {colors} pictures of {pictures.size} px")
    if pictures and texts:
        said.append(f"{texts.rows:,} captions")
    if texts:
        said.append(f"{texts.tokens:,} tokens of {texts.vocabulary:,} kinds ({texts.tokenizer})")
    what = ", ".join(said)
    if isinstance(backbone, ImageBackbone | TowerBackbone):
        named = backbone.network
    elif isinstance(backbone, WordBackbone):
        named = "vectors of words"
    else:
        named = "a size of your own" if backbone.layers or backbone.heads or backbone.width else None
    dialed = "" if isinstance(backbone, WordBackbone) else f"size {backbone.size}"
    network = backbone.init or named or dialed
    if any(isinstance(e, ImageEncoder) and e.about.stem for e in objective.encoders().values()):
        network += " with a stem of stride 1"
    weigh = f"{weights / 1e6:.2f} M weights{_saving(objective, recipe)}"
    where = f"{runtime.world} x {runtime.device.type}" if runtime.world > 1 else runtime.device.type
    return f"{recipe.objective}: {what}; {network}, {weigh}, {recipe.precision} on {where}"


def _saving(objective: Objective, recipe: Recipe) -> str:
    """What a shared or narrow text network saves, in words, or that it is none any more; nothing for others."""
    backbone = recipe.backbone
    if not isinstance(backbone, TextBackbone):
        return ""
    if backbone.init and (Path(backbone.init) / "run.json").exists():
        start = Run(backbone.init).recipe.backbone
        shared = isinstance(start, TextBackbone) and (start.share or start.embedding)
        return " (shared or factorised ones written out)" if shared else ""
    if not (backbone.share or backbone.embedding):
        return ""
    said = []
    for encoder in objective.encoders().values():
        assert isinstance(encoder, TextEncoder)
        family = "decoder" if isinstance(encoder.model, GPT2LMHeadModel) else "encoder"
        plain = weights_unshared(family, encoder.tokenizer, encoder.context, shape_of(backbone))
        own = sum(weight.numel() for weight in encoder.model.parameters())
        said.append(f" (the network {own / 1e6:.2f}, unshared {plain / 1e6:.2f})")
    return "".join(said)
