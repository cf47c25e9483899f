"""Training the whole network with labels, from the run and from scratch: what pretraining saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfsup.data.augment import Augment
from selfsup.data.draw import Draw
from selfsup.data.order import permutation
from selfsup.data.pixels import PixelStore
from selfsup.encoder import Encoder
from selfsup.eval.few_labels import Level
from selfsup.eval.labelled import Labelled, chosen
from selfsup.eval.linear import LinearProbe
from selfsup.eval.probes import Score, save_classifier
from selfsup.image_encoder import ImageEncoder
from selfsup.optim import Plan, make_optimizers, set_rates
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.runtime import fast_bfloat16, fastest_device

RATE, DECAY, BATCH, EPOCHS, MIN_STEPS = 1e-3, 0.05, 128, 10, 200


def fine_tuned(run: Run, labelled: Labelled, levels: Sequence[Level], progress: Progress) -> list[Score]:
    """The answers of the run's network and of the same one from scratch, each trained alike; one draw of labels.

    The run's network that saw the most labels is kept for `classify`.
    """
    most = max(levels, key=lambda level: level.seen(len(labelled.labels), len(labelled.classes)))
    trained = run.encoder().to(fastest_device())
    # As it was saved, so that both have as many weights: shared ones were written out.
    starts = {"run": trained, "scratch": trained.fresh(run.recipe.seed).to(fastest_device())}
    found = []
    for level in levels:
        for name, encoder in starts.items():
            network, head, one = tuned_score(name, encoder, labelled, level, run.recipe.seed, progress)
            found.append(one)
            if name == "run" and level is most:
                save_classifier(run, labelled, network, head, float(one.right.double().mean()))
    return found


def tuned_score(
    name: str, encoder: Encoder, labelled: Labelled, level: Level, seed: int, progress: Progress
) -> tuple[Encoder, LinearProbe, Score]:
    """The answers of a copy of an encoder that was trained with the first draw of labels; it, and its head."""
    network = deepcopy(encoder)
    rows = level.rows(labelled.labels, 0)
    head = tune(network, labelled, rows, seed, lambda done, of: progress.part(f"fine-tuning {name}, {level}", done, of))
    right = head.predict(network.encode(labelled.test)) == labelled.test_labels
    return network, head, Score("fine-tune", name, level, right[None])


def tune(
    encoder: Encoder, labelled: Labelled, rows: Tensor, seed: int, progress: Callable[[int, int], None]
) -> LinearProbe:
    """Train an encoder and a linear head on some rows, with AdamW and a cosine; returns the head.

    Pictures are cropped a little, never mirrored: a mirrored letter is another sign.

    Args:
        encoder: is changed.
        labelled: the data.
        rows: (R,) of the part to fit on whose labels may be seen.
        seed: of order, crops and head.
        progress: told (done, of).
    """
    classes, device = len(labelled.classes), encoder.device
    batch = min(BATCH, len(rows))
    steps = max(EPOCHS * len(rows) // batch, MIN_STEPS)
    plan = Plan(start=0, stop=steps, warmup=max(steps // 10, 1), cooldown=1, schedule="cosine")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = encoder.encode(chosen(labelled.train, rows[:1].numpy())).shape[1]
        head = nn.Linear(width, classes).to(device)
        whole = nn.ModuleList([encoder.module, head])
        optimizers = make_optimizers(whole, "adamw", RATE, RATE, DECAY, 0.9, (0.9, 0.999))
        whole.train()
        for step in range(steps):
            epoch, place = divmod(step, len(rows) // batch)
            order = permutation(len(rows), seed, epoch)[place * batch : (place + 1) * batch]
            some = rows[torch.from_numpy(order)]
            set_rates(optimizers, plan.factor(step))
            with torch.autocast(device.type, torch.bfloat16, fast_bfloat16(device, isinstance(encoder, ImageEncoder))):
                logits = head(_shown(encoder, labelled, some.numpy(), Draw(seed, epoch, some)))
            F.cross_entropy(logits.float(), labelled.labels[some].to(device)).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            progress(step + 1, steps)
    weight, bias = (part.detach().cpu() for part in (head.weight.T, head.bias))
    return LinearProbe(torch.zeros(width), torch.ones(width), weight, bias, RATE, DECAY, math.nan)


def _shown(encoder: Encoder, labelled: Labelled, rows: np.ndarray, draw: Draw) -> Tensor:
    """(B, D) features with gradients, of pictures cropped at random or of texts as they are."""
    samples = chosen(labelled.train, rows)
    if not isinstance(encoder, ImageEncoder):
        return encoder.vectors(samples)
    assert isinstance(samples, PixelStore)
    crop = Augment(size=encoder.about.size, crop_scale=(0.6, 1.0), flip=0.0, jitter=0.0, gray=0.0, blur=0.0)
    everything = np.arange(len(rows))
    height, width = (torch.from_numpy(numbers).to(encoder.device) for numbers in samples.sizes(everything))
    squares = torch.from_numpy(samples.pixels(everything)).to(encoder.device)
    squares = squares.expand(-1, -1, -1, len(encoder.about.mean))
    return encoder.module(crop(squares, height, width, draw, "fine-tune", encoder.about.mean, encoder.about.sd))
