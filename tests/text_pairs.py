"""Made-up pairs of texts, an objective over them made ready, and an encoder of such texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contract.case import Case
from selfsup.data.tokenizer import train_tokenizer
from selfsup.objective import load_objective
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.resolve import resolve
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape

WORDS = [f"{a}{b}" for a in ("sun", "rain", "wind", "sea", "hill", "road") for b in ("rise", "fall", "side", "way")]


def random_encoder(folder: Path) -> Path:
    """The folder of a network with random weights, which tells texts apart by their tokens."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer("bpe", 300, [" ".join(WORDS)])
    TextEncoder.create("encoder", tokenizer, 32, Shape(1, 2, 32)).save(folder / "text")
    return folder / "text"


def made_up(rows: int, negatives: int = 0, graded: bool = False) -> list[dict[str, Any]]:
    """Rows of a query, a positive that shares half of its words, and foreign texts; of unequal length."""
    chance = np.random.default_rng(0)

    def words(count: int) -> list[str]:
        return list(chance.choice(WORDS, count))

    found = []
    for number in range(rows):
        query = words(2 + number % 7)
        row: dict[str, Any] = {
            "query": " ".join(query),
            "positive": " ".join([*query[::2], *words(1 + number % 5)]),
        }
        if negatives:
            row["negative"] = [" ".join(words(1 + (number + k) % 9)) for k in range(negatives)]
        if graded:
            row["score"] = float(number % 6)
        found.append(row)
    return found


def pair_case(data: list[dict[str, Any]], **settings: Any) -> Case:
    """`contrastive_text` over given rows, with other settings of its own where given."""
    module = load_objective("contrastive_text")
    tiny = module.tiny()
    recipe = replace(
        tiny, precision="float32", config=replace(tiny.config, **settings), data=replace(tiny.data, source="pairs")
    )
    prepared = prepare(recipe.data, {"train": data, "valid": data[:4]}, False, Progress(False))
    return Case("contrastive_text", module, resolve(recipe, prepared, torch.device("cpu"), "float32"), prepared)
