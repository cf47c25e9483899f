"""How features fill their space: rank, spread, alignment. They tell a collapsed network from a sound one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_rank(features: Tensor) -> Tensor:
    """Number of directions that the features use: exp of the entropy of their normalized singular values.

    RankMe (Garrido, Balestriero, Najman, LeCun 2023, arXiv 2210.02885, equation 1), after Roy and Vetterli 2007. The
    features are not centered, as in the paper: a cloud far from the origin counts its mean as a direction.

    Args:
        features: (N, D), of any scale.

    Returns:
        A scalar from 1, all features on one line through the origin, to min(N, D); 0 where all features are zero.
    """
    values = torch.linalg.svdvals(features)
    if not values.any():
        return values.sum()
    share = values / values.sum()
    return torch.special.entr(share).sum().exp()


def alignment(first: Tensor, second: Tensor, power: float = 2.0) -> Tensor:
    """How far apart the two views of an example lie on the unit sphere, on average; smaller is better.

    Wang and Isola 2020 (arXiv 2005.10242), section 4.1: E ||f(x) - f(y)||^alpha over positive pairs.

    Args:
        first: (N, D), scaled to unit length here.
        second: (N, D), the other view of each row.
        power: alpha.

    Returns:
        A scalar from 0, all pairs alike, to 2 ** power, all pairs opposite.
    """
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).norm(dim=1).pow(power).mean()


def uniformity(features: Tensor, t: float = 2.0) -> Tensor:
    """How evenly features cover the unit sphere; smaller is more even.

    Wang and Isola 2020, section 4.1: log of E exp(-t ||f(x) - f(y)||^2) over pairs of different rows.

    Args:
        features: (N, D) with N of 2 or more, scaled to unit length here.
        t: sharpness of the Gaussian.

    Returns:
        A scalar from -4 t, the limit of opposite pairs, to 0, all features on one point.
    """
    distance = F.pdist(F.normalize(features, dim=1)).square()  # (N (N - 1) / 2,)
    return (-t * distance).logsumexp(0) - math.log(len(distance))


def mean_cosine(features: Tensor) -> Tensor:
    """Mean cosine similarity over pairs of different rows; near 1 where every input gets the same direction.

    Args:
        features: (N, D) with N of 2 or more.

    Returns:
        A scalar in [-1 / (N - 1), 1]: the squared length of the sum of all unit vectors, without the pairs of a row
        with itself, in time N D.
    """
    unit = F.normalize(features, dim=1)
    own = unit.square().sum()
    return (unit.sum(0).square().sum() - own) / (len(unit) * (len(unit) - 1))


def spread(features: Tensor) -> Tensor:
    """Standard deviation of each dimension over the rows, of features of unit length, times the square root of D.

    Chen and He 2021 (SimSiam, arXiv 2011.10566, section 4.1): about 1 in every dimension where the features lie all
    over the sphere, 0 where they have collapsed.

    Args:
        features: (N, D) with N of 2 or more.

    Returns:
        (D,).
    """
    return F.normalize(features, dim=1).std(0, correction=0) * features.shape[1] ** 0.5
