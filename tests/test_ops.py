"""Properties of formulas that no parity test covers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import selfsup.ops.contrastive as contrastive
from selfsup.ops.contrastive import nt_xent
from selfsup.ops.image_text import partners, together
from selfsup.ops.language import token_loss
from selfsup.ops.pooling import masked_mean
from selfsup.ops.topk import top_k

seeds = st.integers(0, 2**31)
few = settings(max_examples=25, deadline=None)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@few
@given(seeds, st.integers(1, 7), st.integers(2, 5), st.integers(1, 40))
def test_nt_xent_is_the_same_in_blocks_and_under_rotation(seed: int, rows: int, width: int, block: int) -> None:
    views = F.normalize(normal(seed, 2, rows, width), dim=-1)
    turn, _ = torch.linalg.qr(normal(seed + 1, width, width))
    loss, _ = nt_xent(*views, views, 0, 0.3)
    assert (loss >= -1e-9).all()
    turned = views @ turn
    assert torch.allclose(nt_xent(*turned, turned, 0, 0.3)[0], loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "BLOCK", (block, block))
        assert torch.allclose(nt_xent(*views, views, 0, 0.3)[0], loss)


@few
@given(seeds, st.integers(1, 20), st.integers(1, 30), st.integers(1, 8), st.integers(1, 9))
def test_top_k_equals_sorting(seed: int, queries: int, keys: int, k: int, block: int) -> None:
    a, b = normal(seed, queries, 3), normal(seed + 1, keys, 3)
    values, found = top_k(a, b, k, block=block)
    right = (a @ b.T).sort(dim=1, descending=True)
    count = min(k, keys)
    assert torch.allclose(values, right.values[:, :count]) and torch.equal(found, right.indices[:, :count])


@few
@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_masked_mean_ignores_what_is_not_marked(seed: int, rows: int, length: int) -> None:
    states, noise = normal(seed, rows, length, 3), normal(seed + 1, rows, length, 3)
    mask = normal(seed + 2, rows, length) > 0
    changed = torch.where(mask[:, :, None], states, noise)
    assert torch.equal(masked_mean(states, mask), masked_mean(changed, mask))
    full = masked_mean(states, torch.ones_like(mask))
    assert torch.allclose(full, states.mean(1))


@few
@given(seeds, st.integers(2, 9), st.floats(-50, 50))
def test_token_loss_is_invariant_to_a_shift_and_bounded_below(seed: int, vocabulary: int, shift: float) -> None:
    logits = normal(seed, 6, vocabulary)
    target = torch.randint(0, vocabulary, (6,), generator=torch.Generator().manual_seed(seed))
    nats, correct = token_loss(logits, target)
    moved, same = token_loss(logits + shift, target)
    assert torch.allclose(nats, moved) and torch.equal(correct, same) and (nats >= 0).all()
    flat, _ = token_loss(torch.zeros(6, vocabulary), target)
    assert torch.allclose(flat, torch.full_like(flat, math.log(vocabulary)))


@few
@given(seeds, st.integers(1, 40), st.integers(1, 9))
def test_partners_are_counted_as_the_matrix_has_them(seed: int, rows: int, different: int) -> None:
    ids = torch.randint(-different, different, (rows, 2), generator=torch.Generator().manual_seed(seed)) << 40
    assert torch.equal(partners(ids), together(ids, ids).sum(1))
