"""Rank, alignment and uniformity by their properties, and against sums over pairs in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, ortho_group

from selfsup.ops.spectrum import alignment, effective_rank, mean_cosine, spread, uniformity


def cloud(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(ortho_group.rvs(width, random_state=seed))


SHAPES = {"rows": st.integers(2, 12), "width": st.integers(2, 8), "seed": st.integers(0, 1000)}


@pytest.mark.parametrize("width", [1, 2, 7])
def test_rank_of_orthogonal_columns_is_their_number(width: int):
    features = torch.cat([torch.eye(width), -torch.eye(width)]).double()
    assert effective_rank(features) == pytest.approx(width)


def test_rank_of_one_direction_is_one():
    features = cloud(20, 1) * cloud(1, 6, seed=1)
    assert effective_rank(features) == pytest.approx(1, abs=1e-6)


def test_rank_of_nothing_is_zero():
    assert effective_rank(torch.zeros(5, 3)) == 0


def test_rank_equals_the_entropy_of_the_eigenvalues():
    features = cloud(30, 5) * torch.tensor([1.0, 0.5, 0.2, 0.1, 0.0], dtype=torch.float64)
    values = np.sqrt(np.linalg.eigvalsh(features.T.numpy() @ features.numpy()).clip(0))
    assert effective_rank(features) == pytest.approx(math.exp(entropy(values)), rel=1e-6)


def test_rank_weighs_directions_by_their_size():
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    assert effective_rank(torch.diag(shares)) == pytest.approx(math.exp(entropy(shares.numpy())))


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(1e-3, 1e3), **SHAPES)
def test_rank_is_bounded_and_ignores_scale_and_rotation(rows: int, width: int, seed: int, scale: float):
    features = cloud(rows, width, seed)
    rank = effective_rank(features)
    assert 1 <= rank <= min(rows, width) * (1 + 1e-9)
    assert effective_rank(features @ rotation(width, seed) * scale) == pytest.approx(float(rank))
    assert effective_rank(features.T) == pytest.approx(float(rank))


def test_alignment_limits():
    features = cloud(9, 4)
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-12)
    assert alignment(features, -features) == pytest.approx(4)
    right = torch.eye(4, dtype=torch.float64)
    assert alignment(right, right.roll(1, 0)) == pytest.approx(2)
    assert alignment(right, right.roll(1, 0), power=1) == pytest.approx(math.sqrt(2))


@settings(deadline=None, max_examples=30)
@given(**SHAPES)
def test_measures_equal_sums_over_pairs(rows: int, width: int, seed: int):
    features = cloud(rows, width, seed)
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    pairs = [(unit[i], unit[j]) for i in range(rows) for j in range(i)]
    wanted = math.log(np.mean([math.exp(-2 * np.sum((a - b) ** 2)) for a, b in pairs]))
    assert uniformity(features) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert mean_cosine(features) == pytest.approx(np.mean([a @ b for a, b in pairs]), abs=1e-9)
    other = unit[::-1]
    both = alignment(features, torch.from_numpy(other.copy()))
    assert both == pytest.approx(np.mean([np.sum((a - b) ** 2) for a, b in zip(unit, other, strict=True)]), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(1e-3, 1e3), **SHAPES)
def test_measures_ignore_scale_and_rotation(rows: int, width: int, seed: int, scale: float):
    features = cloud(rows, width, seed)
    turned = features @ rotation(width, seed) * scale
    for measure in (uniformity, mean_cosine):
        assert measure(turned) == pytest.approx(float(measure(features)), abs=1e-9)
    assert alignment(turned, turned.flip(0)) == pytest.approx(float(alignment(features, features.flip(0))), abs=1e-9)


def test_limits_of_collapse():
    point = torch.ones(6, 3, dtype=torch.float64)
    assert uniformity(point) == pytest.approx(0)
    assert mean_cosine(point) == pytest.approx(1)
    assert spread(point).tolist() == pytest.approx([0] * 3)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(opposite) == pytest.approx(-8)
    assert mean_cosine(opposite) == pytest.approx(-1)


def test_limits_of_a_full_sphere():
    """Large samples on the sphere: uniformity as in the paper's integral, here by cosines alone; spread 1."""
    features = cloud(2000, 16)
    assert spread(features).tolist() == pytest.approx([1] * 16, abs=0.06)
    assert mean_cosine(features) == pytest.approx(0, abs=2e-3)
    u = np.linspace(-1, 1, 200_001)
    density = (1 - u**2) ** ((16 - 3) / 2)  # of the cosine of two random directions in 16 dimensions
    assert uniformity(features) == pytest.approx(
        math.log((density * np.exp(-4 * (1 - u))).sum() / density.sum()), abs=0.01
    )
    corner = torch.nn.functional.one_hot(torch.arange(4)).double()
    assert spread(corner).tolist() == pytest.approx([2 * math.sqrt(0.25 * 0.75)] * 4)


def test_gradients_flow():
    features = cloud(8, 4).requires_grad_()
    for measure in (effective_rank, uniformity, mean_cosine):
        (gradient,) = torch.autograd.grad(measure(features), features)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
