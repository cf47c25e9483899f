"""Order: every row at most once an epoch, and processes and micro-batches tile the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsup.data.order import Order, permutation
from selfsup.errors import UserError


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 30), st.integers(0, 9))
def test_processes_and_micro_batches_tile_the_batch(world: int, micro: int, share: int, extra: int, seed: int):
    batch = world * micro * share
    rows = batch + extra
    whole = list(Order(rows, batch, seed).parts(0, 7))
    parts = [list(Order(rows, batch, seed, world, rank, micro).parts(0, 7)) for rank in range(world)]
    for step, (epoch, expected) in enumerate(whole):
        here = [parts[rank][step * micro + part] for rank in range(world) for part in range(micro)]
        assert {number for number, _ in here} == {epoch}
        assert {len(found) for _, found in here} == {share}
        assert np.concatenate([found for _, found in here]).tolist() == expected.tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**70), st.integers(0, 40))
def test_any_step_can_be_asked_for_alone(rows: int, batch: int, seed: int, start: int):
    batch = min(batch, rows)
    order = Order(rows, batch, seed)
    after = [(epoch, found.tolist()) for epoch, found in order.parts(0, start + 3)][start:]
    assert [(epoch, found.tolist()) for epoch, found in order.parts(start, start + 3)] == after


def test_an_epoch_has_every_row_at_most_once_and_drops_the_remainder():
    order = Order(rows=103, batch=10, seed=3)
    assert order.steps_per_epoch == 10
    seen: dict[int, list[int]] = {}
    for epoch, found in order.parts(0, 30):
        seen.setdefault(epoch, []).extend(found.tolist())
    assert list(seen) == [0, 1, 2]
    for epoch, rows in seen.items():
        assert len(rows) == 100 and len(set(rows)) == 100
        assert rows == permutation(103, 3, epoch)[:100].tolist()
    assert seen[0] != seen[1]


def test_orders_differ_by_seed_and_epoch_and_do_not_touch_the_global_generator():
    before = np.random.get_state()[1].copy()
    orders = [tuple(permutation(50, seed, epoch)) for seed in (0, 1, -1) for epoch in (0, 1)]
    assert len(set(orders)) == 6
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] == tuple(permutation(50, 0, 0))
    assert (np.random.get_state()[1] == before).all()


def test_every_place_is_equally_likely():
    places = np.stack([permutation(10, seed, 0) for seed in range(2000)])
    counts = np.stack([np.bincount(places[:, column], minlength=10) for column in range(10)])
    assert ((counts - 200) ** 2 / 200).sum() < 150  # chi-square with 81 degrees: p = 5e-6


def test_a_batch_larger_than_the_data_names_the_largest():
    with pytest.raises(UserError, match=r"--batch 101 .*largest that fits is 100$"):
        Order(rows=100, batch=101, seed=0)
    with pytest.raises(UserError, match=r"largest that fits is 98$"):  # 100 could not be split
        Order(rows=100, batch=112, seed=0, world=7, micro=2)
    with pytest.raises(UserError, match="3 rows are too few for 2 processes x 2 micro-batches"):
        Order(rows=3, batch=4, seed=0, world=2, micro=2)


@pytest.mark.parametrize(("rows", "batch"), [(1000, 100), (1000, 1), (40, 38), (12, 7), (10**12, 1001)])
def test_an_impossible_split_lists_sizes_that_work(rows: int, batch: int):
    with pytest.raises(UserError, match="3 processes x 4 micro-batches") as caught:
        Order(rows, batch, seed=0, world=3, micro=4)
    sizes = [int(word) for word in str(caught.value).rpartition(":")[2].split(",")]
    assert sizes
    for size in sizes:
        Order(rows, size, seed=0, world=3, micro=4)
