"""Nearest neighbors and the linear probe, against full sorts, scikit-learn and torch.optim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from selfsup.errors import UserError
from selfsup.eval import linear
from selfsup.eval.knn import knn_accuracy, knn_predict
from selfsup.eval.linear import LinearProbe, fit_linear, held_out_rows
from selfsup.ops.topk import top_k


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    """Training and test part of the handwritten digits: 1,200 and 597 rows of 64 pixels, some always 0."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.tensor(x[order]).float(), torch.tensor(y[order]).long()
    return x[:1200], y[:1200], x[1200:], y[1200:]


@pytest.mark.parametrize("block", [1, 7, 16, 4096])
@pytest.mark.parametrize("k", [1, 5, 40, 100])
def test_top_k_is_a_full_sort(block, k):
    queries, keys = normal(33, 8), normal(40, 8, seed=1)
    scores, order = (queries.double() @ keys.double().T).sort(dim=1, descending=True, stable=True)
    values, index = top_k(queries, keys, k, block=block)
    assert values.shape == index.shape == (33, min(k, 40))
    assert torch.equal(index, order[:, :k])
    torch.testing.assert_close(values.double(), scores[:, :k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 3, 16, 4096])
@pytest.mark.parametrize("k", [1, 4, 13, 50])
def test_top_k_gives_the_smallest_index_among_ties(block, k):
    """Small whole numbers tie all the time and are exact in float32."""
    queries, keys = normal(20, 3).round(), normal(50, 3, seed=1).round()
    order = np.argsort(-(queries @ keys.T).numpy(), axis=1, kind="stable")
    assert np.array_equal(top_k(queries, keys, k, block=block)[1].numpy(), order[:, :k])


def test_top_k_of_nothing():
    assert top_k(normal(0, 3), normal(5, 3), 2)[1].shape == (0, 2)
    assert top_k(normal(4, 3), normal(0, 3), 2)[1].shape == (4, 0)


def test_knn_equals_scikit_learn(digits):
    train, labels, test, _ = digits
    vote = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = vote.fit(train.double().numpy(), labels.numpy()).predict(test.double().numpy())
    got = knn_predict(train, labels, test, classes=10).numpy()
    # Neighbor 20 and 21 may be swapped by float32 rounding.
    assert (got != expected).sum() <= 1
    assert knn_accuracy(train, labels, test, torch.tensor(expected), classes=10) >= 596 / 597


def test_knn_weights_by_similarity_and_cuts_k():
    """Two far rows of class 0 against one near row of class 1: who wins is up to the temperature."""
    train, labels = torch.tensor([[0.0, 2.0], [0.0, 9.0], [5.0, 1.0]]), torch.tensor([0, 0, 1])
    test = torch.tensor([[1.0, 0.8]])
    cosine = [0.8 / math.sqrt(1.64)] * 2 + [5.8 / math.sqrt(1.64 * 26)]
    for temperature in (0.07, 0.5, 1e-4):
        near = math.exp((cosine[2] - cosine[0]) / temperature) > 2 if temperature > 1e-3 else True
        assert knn_predict(train, labels, test, 2, k=20, temperature=temperature).tolist() == [int(near)]
    assert knn_predict(train, labels, test, 2, k=1).tolist() == [1]
    assert knn_predict(train, labels, torch.zeros(1, 2), 2).tolist() == [0]  # no direction: a plain majority


@pytest.mark.parametrize("mistake", ["k", "temperature", "labels", "rows", "nan", "empty"])
def test_knn_refuses(mistake):
    train, labels, test, k, temperature = normal(6, 2), torch.tensor([0, 1, 0, 1, 0, 1]), normal(3, 2), 3, 0.07
    if mistake == "k":
        k = 0
    elif mistake == "temperature":
        temperature = 0.0
    elif mistake == "labels":
        labels = labels + 1
    elif mistake == "rows":
        labels = labels[:5]
    elif mistake == "nan":
        test[1, 1] = torch.nan
    else:
        train, labels = train[:0], labels[:0]
    with pytest.raises(UserError):
        knn_predict(train, labels, test, 2, k, temperature)


def test_linear_is_as_good_as_the_best_of_scikit_learn(digits):
    train, labels, test, target = digits
    probe = fit_linear(train, labels, classes=10)
    ours = float((probe.predict(test) == target).double().mean())
    x, y = (((part - train.mean(0)) / (train.std(0) + 1e-9)).numpy() for part in (train, test))
    fits = [LogisticRegression(C=c, max_iter=300).fit(x, labels.numpy()) for c in (0.003, 0.03, 0.3, 3)]
    best = max(fit.score(y, target.numpy()) for fit in fits)
    assert best > 0.95
    assert ours >= best - 0.01
    assert probe.held_out_accuracy > 0.93


def test_heads_are_adamw_with_a_cosine():
    """Every head walks as torch's AdamW alone does, its gradient by autograd."""
    x, labels = normal(30, 5).double(), torch.arange(30) % 3
    settings = [(1e-3, 0.0), (1e-1, 0.1), (1e-2, 1.0)]
    plain = linear.Standard(x, torch.zeros(5).double(), torch.ones(5).double())
    weights, biases = linear._train(plain, labels, torch.arange(30), 3, settings, seed=0)
    for (rate, decay), weight, bias in zip(settings, weights, biases, strict=True):
        w, b = torch.zeros(5, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        groups = [{"params": [w], "weight_decay": decay}, {"params": [b], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, linear.MIN_STEPS)
        w.requires_grad_(), b.requires_grad_()
        for _ in range(linear.MIN_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(x @ w + b, labels).backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(weight, w.detach(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(bias, b.detach(), rtol=1e-6, atol=1e-9)


def test_linear_is_seeded_and_leaves_the_global_generator_alone(digits):
    train, labels = digits[0][:200], digits[1][:200]
    before = torch.random.get_rng_state()
    one, two, other = (fit_linear(train, labels, 10, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    assert not torch.equal(one.weight, other.weight)


def test_probe_file(digits, tmp_path):
    probe = fit_linear(digits[0][:50], digits[1][:50], 10)
    probe.save(tmp_path / "probe.safetensors")
    again = LinearProbe.load(tmp_path / "probe.safetensors")
    assert torch.equal(again.logits(digits[2]), probe.logits(digits[2]))
    assert (again.rate, again.decay, again.held_out_accuracy) == (probe.rate, probe.decay, probe.held_out_accuracy)


def test_logits_are_those_of_the_standardized_rows(digits):
    """Constant pixels count nothing, whatever the test rows hold there, and offsets and scales are undone."""
    train, labels, test, _ = digits
    constant = train.std(0) == 0
    assert constant.any()
    probe = fit_linear(train, labels, 10)
    assert torch.all(probe.sd[constant] == 1) and torch.all(probe.weight[constant] == 0)
    x = (test - train.mean(0)) / train.std(0, correction=0).where(~constant, 1.0)
    torch.testing.assert_close(probe.logits(test), x @ probe.weight + probe.bias, rtol=1e-4, atol=1e-4)
    moved = fit_linear(train * 1e3 + 0.1, labels, 10)
    assert torch.all(moved.weight[constant] == 0)
    assert (moved.predict(test * 1e3 + 0.1) == probe.predict(test)).double().mean() > 0.99


@pytest.mark.parametrize("rows, dimensions", [(10, 4), (10, 300), (2, 3), (40, 1000)])
def test_linear_on_few_rows(rows, dimensions):
    """Two far clusters are told apart, also with more dimensions than rows."""
    labels = torch.arange(rows) % 2
    centers = 3 * normal(2, dimensions)
    probe = fit_linear(normal(rows, dimensions, seed=1) + centers[labels], labels, classes=2)
    target = torch.arange(200) % 2
    accuracy = (probe.predict(normal(200, dimensions, seed=2) + centers[target]) == target).double().mean()
    assert accuracy > (0.9 if rows > 2 else 0.6)


def test_linear_with_a_class_that_has_no_held_out_or_no_training_row():
    """Class 2 has one row, class 3 none."""
    centers = 4 * torch.eye(4)
    labels = torch.tensor([0] * 30 + [1] * 30 + [2])
    for seed in range(3):
        probe = fit_linear(centers[labels] + 0.3 * normal(61, 4), labels, classes=4, seed=seed)
        assert probe.predict(centers[:3]).tolist() == [0, 1, 2]
        assert probe.weight.shape == (4, 4)


def test_linear_on_imbalanced_classes():
    """19 to 1: better than always the large class, and no worse than scikit-learn's."""
    labels, target = (torch.arange(600) % 20 == 0).long(), (torch.arange(2000) % 20 == 0).long()
    shift = torch.tensor([[0.0] * 5, [1.5] * 5])
    train, test = normal(600, 5) + shift[labels], normal(2000, 5, seed=1) + shift[target]
    accuracy = float((fit_linear(train, labels, 2).predict(test) == target).double().mean())
    reference = LogisticRegression().fit(train.numpy(), labels.numpy()).score(test.numpy(), target.numpy())
    assert accuracy > 0.96
    assert accuracy >= reference - 0.01


def test_held_out_rows_are_a_stratified_tenth():
    labels = torch.tensor([0] * 500 + [1] * 100 + [2] * 30 + [3] * 4)[normal(634).argsort()]
    chosen = held_out_rows(labels, torch.Generator().manual_seed(0))
    assert [int((labels[chosen] == kind).sum()) for kind in range(3)] == [50, 10, 3]
    assert int(chosen.sum()) in (63, 64)
    assert int(held_out_rows(torch.tensor([0, 1]), torch.Generator().manual_seed(0)).sum()) == 1


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2], [-1, 0, 1], [0, 1]])
def test_linear_refuses_labels(labels):
    with pytest.raises(UserError, match="labels"):
        fit_linear(normal(3, 2), torch.tensor(labels), classes=2)


def test_linear_refuses_diverged_features():
    with pytest.raises(UserError, match="NaN"):
        fit_linear(torch.full((4, 2), torch.inf), torch.tensor([0, 1, 0, 1]), classes=2)
