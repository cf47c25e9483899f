"""Linear probe: multinomial logistic regression on frozen, standardized features.

Letters: N rows, D feature dimensions, K classes, H settings (heads) that are trained side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from selfsup.errors import UserError

# Measured on 50,000 CIFAR-10 rows: strongly correlated convolution features are best near 1e-1 (59.8 % on the test
# part, L-BFGS with the best of three decays 60.1 %), raw pixels near 3e-3 (40.9 %).
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DECAY = 0.1  # tried beside none; not at the two lowest rates, where 10 epochs of 50,000 rows shrink a weight by < 10 %
SETTINGS = [(rate, 0.0) for rate in RATES] + [(rate, DECAY) for rate in RATES[2:]]
BATCH, EPOCHS, MIN_STEPS = 256, 10, 500


@dataclass(frozen=True)
class Setting:
    """How a probe is fitted.

    Attributes:
        rate: learning rate.
        decay: weight decay.
        held_out_accuracy: of this setting, on the rows that it was chosen on.
    """

    rate: float
    decay: float
    held_out_accuracy: float


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        mean: (D,) training mean.
        sd: (D,) training standard deviation, 1 where the dimension is constant.
        weight: (D, K).
        bias: (K,).
        rate: the chosen learning rate.
        decay: the chosen weight decay.
        held_out_accuracy: accuracy of that setting on the tenth of the training rows it was chosen on.
    """

    mean: Tensor
    sd: Tensor
    weight: Tensor
    bias: Tensor
    rate: float
    decay: float
    held_out_accuracy: float

    def logits(self, x: Tensor) -> Tensor:
        """(M, D) features to (M, K) logits."""
        return ((x.float() - self.mean) / self.sd) @ self.weight + self.bias

    def predict(self, x: Tensor) -> Tensor:
        """(M, D) features to (M,) int64 classes."""
        return self.logits(x).argmax(dim=1)

    def save(self, path: str | Path) -> None:
        """Write the probe as one safetensors file."""
        tensors = {"mean": self.mean, "sd": self.sd, "weight": self.weight, "bias": self.bias}
        numbers = {"rate": self.rate, "decay": self.decay, "held_out_accuracy": self.held_out_accuracy}
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            path,
            metadata={name: repr(number) for name, number in numbers.items()},
        )

    @staticmethod
    def load(path: str | Path) -> LinearProbe:
        """Read a probe written by `save`."""
        with safe_open(path, framework="pt") as file:
            numbers = file.metadata()
            mean, sd, weight, bias = (file.get_tensor(name) for name in ("mean", "sd", "weight", "bias"))
        rate, decay, accuracy = (float(numbers[name]) for name in ("rate", "decay", "held_out_accuracy"))
        return LinearProbe(mean, sd, weight, bias, rate, decay, accuracy)


def held_out_rows(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A tenth of the rows, at least one, each class in proportion: (N,) bool.

    Every tenth row of the rows in random order, sorted by class, so a class of fewer than ten may have none in it.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels.cpu()[order].argsort(stable=True)]
    start = int(torch.randint(min(10, len(labels)), (), generator=generator))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[start::10]] = True
    return chosen.to(labels.device)


@dataclass(frozen=True)
class Standard:
    """Features that are standardized when they are looked at: a copy of all of them would be the largest thing here.

    Attributes:
        features: (N, D) as they are.
        mean: (D,) of all rows.
        sd: (D,) standard deviation of all rows, 1 where the dimension is constant.
    """

    features: Tensor
    mean: Tensor
    sd: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int) -> Standard:
        """From features and their labels, checked.

        Raises:
            UserError: fewer than two classes among the labels, labels out of range, features not finite.
        """
        if len(labels) != len(features):
            raise UserError(f"the linear probe got {len(features)} rows and {len(labels)} labels: give one label a row")
        present = labels.unique()
        if len(present) < 2:
            raise UserError(
                f"the linear probe got labels of {len(present)} class: it needs rows of two classes at least"
            )
        if present[0] < 0 or present[-1] >= classes:
            raise UserError(f"labels run from {int(present[0])} to {int(present[-1])}: allowed are 0 to {classes - 1}")
        features = features.detach().float()
        var, mean = torch.var_mean(features, dim=0, correction=0)
        if not torch.isfinite(var).all():
            raise UserError("the features hold NaN or infinity: the encoder diverged, use an earlier checkpoint")
        # A constant dimension keeps a deviation of rounding size; dividing by it would make noise the largest feature.
        return cls(features, mean, torch.where(var.sqrt() > 1e-5 * mean.abs(), var.sqrt(), 1.0))

    def rows(self, some: Tensor) -> Tensor:
        """(n, D) standardized features of some rows."""
        return self.features.index_select(0, some).sub_(self.mean).div_(self.sd)


@torch.no_grad()
def _train(
    x: Standard, labels: Tensor, rows: Tensor, classes: int, settings: list[tuple[float, float]], seed: int
) -> tuple[Tensor, Tensor]:
    """Fit every (rate, decay) of `settings` on the same minibatches with AdamW (Loshchilov, Hutter 2019) and a cosine.

    The weights of all heads stand side by side in one (D, H * K) matrix, so a step is two matrix products, whatever H.

    Args:
        x: N features of D dimensions.
        labels: (N,).
        rows: (R,) indices of the rows to train on.
        classes: K.
        settings: H pairs of learning rate and weight decay.
        seed: of the order of the rows.

    Returns:
        Weights (H, D, K) and biases (H, K).
    """
    generator = torch.Generator().manual_seed(seed)
    heads, batch = len(settings), min(BATCH, len(rows))
    plain = x.features.new_zeros
    # One row a class: both products then run along the rows of x, which is several times faster for few classes.
    weight, bias = plain(heads * classes, x.features.shape[1]), plain(heads * classes)
    parts = list(zip(weight.split(classes), bias.split(classes), settings, strict=True))  # views, head by head
    groups = [{"params": [part], "lr": rate, "weight_decay": decay} for part, _, (rate, decay) in parts]
    groups += [{"params": [part], "lr": rate, "weight_decay": 0.0} for _, part, (rate, _) in parts]
    optimizer = torch.optim.AdamW(groups, fused=True)
    steps, order, start = max(MIN_STEPS, EPOCHS * len(rows) // batch), rows, len(rows)
    for step in range(steps):
        if start + batch > len(rows):
            order, start = rows[torch.randperm(len(rows), generator=generator).to(rows.device)], 0
        some, start = order[start : start + batch], start + batch
        features, target = x.rows(some), labels[some]
        # The gradient of cross-entropy by the logits is softmax minus one-hot: no autograd needed.
        error = F.linear(features, weight, bias).view(-1, heads, classes).softmax(dim=2)  # (B, H, K)
        error[torch.arange(len(some), device=error.device), :, target] -= 1
        error, features = error.view(-1, heads * classes), features / len(some)
        slopes = (error.T @ features).split(classes) + error.mean(dim=0).split(classes)
        factor = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, slope, (rate, _) in zip(optimizer.param_groups, slopes, settings * 2, strict=True):
            group["params"][0].grad, group["lr"] = slope, rate * factor
        optimizer.step()
    return weight.view(heads, classes, -1).transpose(1, 2).contiguous(), bias.view(heads, classes)


def choose_setting(features: Tensor, labels: Tensor, classes: int, seed: int = 0) -> Setting:
    """Learning rate and weight decay, chosen on a held-out tenth of the rows.

    All of `SETTINGS` are trained together on nine tenths; the one with the best held-out accuracy
    wins, then the one with the lowest held-out loss. Arguments and errors are those of `fit_linear`.
    """
    x = Standard.of(features, labels, classes)
    held_out = held_out_rows(labels, torch.Generator().manual_seed(seed))
    rows = (~held_out).nonzero().squeeze(1)
    weight, bias = _train(x, labels, rows, classes, SETTINGS, seed)
    logits = x.rows(held_out.nonzero().squeeze(1)) @ weight + bias[:, None]  # (H, held out, K)
    target = labels[held_out]
    accuracy = [float((one.argmax(dim=1) == target).double().mean()) for one in logits]
    loss = [float(F.cross_entropy(one, target)) for one in logits]
    best = min(range(len(SETTINGS)), key=lambda head: (-accuracy[head], loss[head]))
    return Setting(*SETTINGS[best], held_out_accuracy=accuracy[best])


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, seed: int = 0, setting: Setting | None = None
) -> LinearProbe:
    """Fit a linear probe. Only generators of its own are used: the same features and seed give the same probe.

    Args:
        features: (N, D) float, standardized here by their mean and standard deviation.
        labels: (N,) int64 in [0, classes); classes without a row are allowed.
        classes: K.
        seed: of the held-out tenth and the order of the rows.
        setting: of the fit; chosen on these very rows when not given.

    Raises:
        UserError: fewer than two classes among the labels, labels out of range, features not finite.
    """
    setting = setting or choose_setting(features, labels, classes, seed)
    x, pair = Standard.of(features, labels, classes), [(setting.rate, setting.decay)]
    weight, bias = _train(x, labels, torch.arange(len(labels), device=labels.device), classes, pair, seed)
    return LinearProbe(x.mean, x.sd, weight[0], bias[0], setting.rate, setting.decay, setting.held_out_accuracy)
