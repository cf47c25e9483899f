"""Draw: every number depends on (seed, epoch, row, stream, index) and on nothing else."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from selfsup.data.draw import Draw

ROWS = st.lists(st.integers(0, 2**40), min_size=1, max_size=8)
SHAPE = st.lists(st.integers(1, 5), min_size=0, max_size=3)
BATCH = Draw(0, 0, torch.arange(20_000))
MASK = (1 << 64) - 1


def draw(rows: list[int], seed: int = 0, epoch: int = 0) -> Draw:
    return Draw(seed, epoch, torch.tensor(rows, dtype=torch.int64))


def mixed(x: int) -> int:
    """The finalizer of splitmix64 in whole numbers (Steele, Lea, Flood 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@settings(deadline=None, max_examples=40)
@given(ROWS, SHAPE, st.integers(0, 2**63), st.integers(-1, 1000))
def test_an_element_is_the_same_in_any_shape(rows: list[int], shape: list[int], seed: int, epoch: int):
    one = draw(rows, seed, epoch)
    for kind in (Draw.uniform, Draw.normal):
        long, short = kind(one, "crop", math.prod(shape) + 3), kind(one, "crop", *shape)
        assert torch.equal(long[:, : math.prod(shape)], short.reshape(len(rows), -1))


@settings(deadline=None, max_examples=40)
@given(ROWS, st.randoms())
def test_a_row_does_not_depend_on_its_batch(rows: list[int], random):
    whole = draw(rows).uniform("crop", 3)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert torch.equal(draw([rows[i] for i in order]).uniform("crop", 3), whole[order])
    assert torch.equal(draw(rows[:1]).uniform("crop", 3), whole[:1])
    assert torch.equal(draw(rows)[1:].uniform("crop", 3), whole[1:])
    orders = draw(rows).permutation("order", 7)
    assert torch.equal(draw(rows[-1:]).permutation("order", 7), orders[-1:])


def test_bits_are_those_of_splitmix64_in_whole_numbers():
    """An independent count in Python's unbounded integers, from the key to the last shift."""
    gamma, words = 0x9E3779B97F4A7C15, b"7/3/part/crop"
    key = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")
    found = draw([5, 2**40], seed=7, epoch=3).part("part")._bits("crop", (2, 2))
    for row, number in enumerate([5, 2**40]):
        state = mixed(mixed(number * gamma + key & MASK) + key & MASK)
        expected = [mixed(state + index * gamma & MASK) for index in range(1, 5)]
        assert [int(bits) & MASK for bits in found[row].flatten()] == expected


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"name": "color"}, {"row": 1}, {"part": "mae"}])
def test_another_key_gives_other_numbers(change: dict):
    key = {"seed": 0, "epoch": 0, "name": "crop", "row": 0, "part": ""}

    def numbers(seed: int, epoch: int, name: str, row: int, part: str) -> np.ndarray:
        one = draw([row], seed, epoch)
        return (one.part(part) if part else one).uniform(name, 2000)[0].numpy()

    one, other = numbers(**key), numbers(**{**key, **change})
    assert (one == other).mean() < 0.01
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1  # 4.5 standard errors


def test_uniform_is_uniform_and_never_one():
    x = BATCH.uniform("u", 50).double()
    assert x.min() >= 0 and x.max() < 1
    assert x.mean() == pytest.approx(0.5, abs=2e-3) and x.var() == pytest.approx(1 / 12, abs=1e-3)
    counts = torch.histc(x, 100, 0, 1).numpy()
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4
    # Also across rows at one index, and across neighbors in a row.
    assert stats.kstest(x[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1]) < 0.03


def test_the_largest_uniform_is_below_one(monkeypatch: pytest.MonkeyPatch):
    for bits in (-1, 2**63 - 1, -(2**63)):
        monkeypatch.setattr(Draw, "_bits", lambda self, name, shape, bits=bits: torch.full((1, *shape), bits))
        one = draw([0])
        assert 0 <= float(one.uniform("u", 1)) < 1
        assert 0 <= int(one.integers("i", 10, 1)) < 10
        assert math.isfinite(float(one.normal("n", 1)))


def test_integers_bernoulli_and_normal_follow_their_laws():
    whole = BATCH.integers("i", 7, 5)
    assert stats.chisquare(torch.bincount(whole.flatten(), minlength=7).numpy()).pvalue > 1e-4
    high = torch.tensor([1, 10, 100])
    bounded = BATCH.integers("i", high, 3)
    assert (bounded < high).all() and (bounded.max(0).values == high - 1).all() and bounded.min() == 0
    assert BATCH.bernoulli("b", 0.3, 10).double().mean() == pytest.approx(0.3, abs=5e-3)
    assert not BATCH.bernoulli("b", 0.0, 10).any() and BATCH.bernoulli("b", 1.0, 10).all()
    x = BATCH.normal("n", 10).double().flatten().numpy()
    assert x.mean() == pytest.approx(0, abs=0.01) and x.std() == pytest.approx(1, abs=0.01)
    assert stats.skew(x) == pytest.approx(0, abs=0.03) and stats.kurtosis(x) == pytest.approx(0, abs=0.06)
    assert stats.kstest(x[:20_000], "norm").pvalue > 1e-3


def test_permutations_are_permutations_and_all_equally_likely():
    orders = BATCH.permutation("p", 4)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(20_000, 4))
    _, counts = torch.unique(orders, dim=0, return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_parts_and_devices_keep_the_rows():
    one = draw([3, 1, 4])
    part = one.part("simclr").part("left")
    assert torch.equal(part.rows, one.rows) and len(part) == 3
    assert torch.equal(part[1:].uniform("u", 2), part.uniform("u", 2)[1:])
    assert torch.equal(part.to("cpu").uniform("u", 2), part.uniform("u", 2))
    assert not torch.equal(one.part("a").part("b").uniform("u"), one.part("b").part("a").uniform("u"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_bits():
    one = draw([3, 1, 2**40], seed=7)
    assert torch.equal(one.to("cuda").uniform("u", 100).cpu(), one.uniform("u", 100))
    assert torch.equal(one.to("cuda").permutation("u", 100).cpu(), one.permutation("u", 100))


def test_the_numbers_of_a_seed_never_change():
    """Golden values: a change here makes every old run another one."""
    assert draw([0, 1], seed=1, epoch=2).integers("golden", 1_000_000, 2).tolist() == GOLDEN


GOLDEN = [[526936, 318324], [50545, 246314]]
