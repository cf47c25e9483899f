"""Classes told by their names alone (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.pixels import PixelStore
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.eval.labelled import Labelled
from selfsup.eval.result import Result, result
from selfsup.eval.verdict import Gain, gains
from selfsup.progress import Progress
from selfsup.run import Run

PLAIN = ("{}",)
TOP = 5


def read_templates(file: Path | None) -> tuple[str, ...]:
    """The templates in a text file, one a line, each with the place {} of a name; the name alone without a file.

    Raises:
        UserError: it cannot be read, or a line has no such place.
    """
    if file is None:
        return PLAIN
    allowed = "give a text file with one template a line, such as: a photo of a {}"
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"--templates {file} cannot be read: {error}; {allowed}") from error
    wrong = [line for line in lines if "{}" not in line]
    if wrong or not lines:
        said = f"{wrong[0]!r} has no {{}}" if wrong else "it is empty"
        raise UserError(f"--templates {file}: {said}; {allowed}")
    return tuple(lines)


def class_vectors(text: Encoder, names: Sequence[str], templates: Sequence[str] = PLAIN) -> Tensor:
    """(K, D) of unit length: of each class the mean of its name in all templates, each of unit length before.

    Args:
        text: the side that reads texts.
        names: of K classes.
        templates: texts with {} in place of the name.
    """
    filled = [template.replace("{}", name) for name in names for template in templates]
    vectors = F.normalize(text.encode(filled), dim=1).view(len(names), len(templates), -1)
    return F.normalize(vectors.mean(1), dim=1)


def spoken(name: str) -> str:
    """The name of a class as one says it: folders have no spaces."""
    return name.replace("_", " ")


def mean_per_class(right: Tensor, labels: Tensor) -> float:
    """Accuracy of each class, and the mean of these.

    Args:
        right: (M,) bool.
        labels: (M,) int64.
    """
    return float(torch.stack([right[labels == one].double().mean() for one in labels.unique()]).mean())


def evaluate_zero_shot(
    run: Run,
    encoders: Mapping[str, Mapping[str, Encoder]],
    labelled: Labelled,
    templates: Sequence[str],
    progress: Progress,
) -> tuple[list[Result], list[Gain]]:
    """Accuracy of the class whose name is nearest: of all pictures, the mean of all classes, and among the five best.

    Args:
        run: of an objective with a pair of towers.
        encoders: the sides `image` and `text` of each who is judged, `run` among them.
        labelled: pictures with classes; those to fit on are not looked at.
        templates: see `class_vectors`.
        progress: shows the work.
    """
    assert isinstance(labelled.test, PixelStore)
    labels, names = labelled.test_labels, [spoken(name) for name in labelled.classes]
    classes, found = len(names), []
    right: dict[str, Tensor] = {"chance": torch.full((1, len(labels)), 1 / classes, dtype=torch.float64)}
    for done, (who, sides) in enumerate(encoders.items()):
        progress.part(f"zero-shot: {who}", done, len(encoders))
        cosines = sides["image"].encode(labelled.test) @ class_vectors(sides["text"], names, templates).T  # (M, K)
        ranked = cosines.topk(min(TOP, classes)).indices == labels[:, None]
        first = ranked[:, 0]
        scores = {
            "accuracy": (float(first.double().mean()), 1 / classes),
            "mean per class accuracy": (mean_per_class(first, labels), 1 / classes),
        }
        if classes > TOP:
            scores[f"top-{TOP} accuracy"] = (float(ranked.any(1).double().mean()), TOP / classes)
        for metric, (mean, chance) in scores.items():
            found.append(result(run, "zero-shot", who, metric, mean, chance, labelled.name, labelled.split))
        right[who] = first[None]
    progress.part("zero-shot", len(encoders), len(encoders))
    return found, gains({f"zero-shot among {classes} classes": right})
