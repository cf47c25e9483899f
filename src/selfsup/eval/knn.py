"""Weighted nearest-neighbor classifier on frozen features: needs no training, so it has nothing to tune."""

from __future__ import annotations

from torch import Tensor

from selfsup.errors import UserError
from selfsup.ops.topk import top_k


def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Class of each test row: its k nearest training rows by cosine vote with weight exp(similarity / temperature).

    Wu, Xiong, Yu, Lin 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4.
    Of classes with equal votes the smallest wins.

    Args:
        train: (N, D) features of all training rows.
        labels: (N,) int64 in [0, classes).
        test: (M, D) features.
        classes: number of classes.
        k: neighbors that vote; cut to N.
        temperature: over 0; small values let the nearest rows decide.

    Returns:
        (M,) int64.

    Raises:
        UserError: no training rows, labels out of range, k or temperature not positive, features not finite.
    """
    if len(train) == 0 or len(labels) != len(train):
        raise UserError(
            f"kNN got {len(train)} training rows and {len(labels)} labels: give at least one row, a label each"
        )
    if k < 1 or not temperature > 0:
        raise UserError(
            f"kNN got k = {k} and temperature = {temperature}: both must be positive, as k=20, temperature=0.07"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"labels run from {int(labels.min())} to {int(labels.max())}: allowed are 0 to {classes - 1}")
    length, test_length = (features.float().norm(dim=1) for features in (train, test))
    for name, found in (("training", length), ("test", test_length)):
        if not found.isfinite().all():
            raise UserError(
                f"the {name} features hold NaN or infinity: the encoder diverged, use an earlier checkpoint"
            )
    directions = test.float() / test_length.clamp(min=1e-12)[:, None]
    similarity, neighbor = top_k(directions, train.float(), k, scale=1 / length.clamp(min=1e-12))
    # Subtracting the largest similarity scales all votes of a row alike and keeps tiny temperatures from overflowing.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()  # (M, k)
    votes = weight.new_zeros(len(test), classes).scatter_add_(1, labels[neighbor], weight)
    return votes.argmax(dim=1)


def knn_accuracy(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of the test rows that `knn_predict` gives their own class; `test_labels` is (M,) int64.

    Raises:
        UserError: as `knn_predict`, and when there is no test row.
    """
    if len(test) == 0:
        raise UserError("kNN got no test rows: give at least one")
    return float((knn_predict(train, labels, test, classes, k, temperature) == test_labels).double().mean())
