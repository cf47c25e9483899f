"""The size dial: how large a network a budget can feed.

A large network that sees its data twice learns less than a small one that sees it a hundred times. The rates below are
rough on purpose: they only have to tell sizes apart that differ several times in cost.
"""

from __future__ import annotations

from collections.abc import Mapping

from selfsup.data.facts import Facts, TextFacts, of_pictures
from selfsup.fields import Size
from selfsup.recipes import Budget

# Pictures of 32 pixels a second and CPU core, two views each, forward and backward; `small` and `base` are estimates.
PICTURES: Mapping[Size, float] = {"nano": 435, "tiny": 150, "small": 15, "base": 5}
# Pictures a second and CPU core through a vision transformer of 8 x 8 patches, whatever their size: estimates, by MAE.
PATCHED: Mapping[Size, float] = {"nano": 400, "tiny": 90, "small": 25, "base": 7}
# Millions of weights in the blocks, by which the time a token takes goes.
WEIGHTS: Mapping[Size, float] = {"nano": 0.8, "tiny": 4.7, "small": 25, "base": 85}
TOKENS = 10_000  # tokens a second and CPU core through a million weights
GPU = 500  # cores that a GPU is worth
PASSES = 100  # over the pictures: with fewer the next smaller size is better
TOKENS_PER_WEIGHT = 4


def dial(facts: Facts, budget: Budget, cores: int, gpu: bool, transformer: bool = False) -> Size:
    """The largest network that the budget can feed: 100 passes over the pictures, or 4 tokens for each weight.

    Budgets in steps and epochs say nothing about time: they get the smallest network on a CPU, and the usual one of
    the field on a GPU.
    """
    sizes: list[Size] = ["base", "small", "tiny"]
    if budget.minutes is None:
        return "small" if gpu else "nano"
    seconds, pictures = budget.minutes * 60 * (GPU if gpu else cores), of_pictures(facts)
    for size in sizes:
        if pictures is not None:  # a tower that reads their captions costs little beside
            pace = PATCHED[size] if transformer else PICTURES[size] * (32 / pictures.size) ** 2
            enough = seconds * pace >= PASSES * pictures.rows
        else:
            assert isinstance(facts, TextFacts)
            enough = seconds * TOKENS / WEIGHTS[size] >= TOKENS_PER_WEIGHT * 1e6 * WEIGHTS[size]
        if enough:
            return size
    return "nano"
