"""The size dial: the smallest network for minutes on a laptop, larger ones as the budget grows."""

from __future__ import annotations

import pytest

from selfsup.data.facts import ImageFacts, TextFacts
from selfsup.recipes import Budget
from selfsup.size import dial

ORDER = ["nano", "tiny", "small", "base"]
CIFAR = ImageFacts(rows=50_000, channels=3, resolution=32, size=32, mean=(0.5,) * 3, sd=(0.2,) * 3)
PROSE = TextFacts(rows=400, tokens=2_000_000, vocabulary=2048, tokenizer="bpe")


@pytest.mark.parametrize("facts", [CIFAR, PROSE], ids=["pictures", "text"])
def test_more_time_never_buys_a_smaller_network(facts: ImageFacts | TextFacts) -> None:
    minutes = [0.5, 4, 30, 240, 2_000, 20_000, 200_000]
    sizes = [ORDER.index(dial(facts, Budget(minutes=m), cores=2, gpu=False)) for m in minutes]
    assert sizes == sorted(sizes) and sizes[0] == 0 and sizes[-1] == 3


def test_larger_pictures_and_more_of_them_buy_less() -> None:
    budget = Budget(minutes=600)
    large = ImageFacts(**{**vars(CIFAR), "size": 96})
    many = ImageFacts(**{**vars(CIFAR), "rows": 5_000_000})
    own = ORDER.index(dial(CIFAR, budget, 2, gpu=False))
    assert ORDER.index(dial(large, budget, 2, gpu=False)) < own
    assert ORDER.index(dial(many, budget, 2, gpu=False)) < own


def test_a_quarter_of_an_hour_on_two_cores_is_for_the_smallest() -> None:
    assert dial(CIFAR, Budget(minutes=16), cores=2, gpu=False) == "nano"
    assert dial(CIFAR, Budget(minutes=16), cores=16, gpu=True) == "small"


def test_without_minutes_the_device_decides() -> None:
    assert dial(CIFAR, Budget(steps=100), cores=2, gpu=False) == "nano"
    assert dial(PROSE, Budget(epochs=1), cores=2, gpu=True) == "small"
