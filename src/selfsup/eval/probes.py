"""The scores of representations on labelled data: kNN, and linear probes with few labels and with all."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selfsup.backbones import TowerBackbone
from selfsup.data.pixels import PixelStore
from selfsup.data.store import fingerprint
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.eval.features import Features, Representation, raw_pixels
from selfsup.eval.few_labels import Level
from selfsup.eval.labelled import Labelled
from selfsup.eval.linear import LinearProbe
from selfsup.eval.result import Result, number
from selfsup.eval.tfidf import TfIdf
from selfsup.eval.verdict import always
from selfsup.image_encoder import ImageEncoder
from selfsup.progress import Progress
from selfsup.run import Run, write_text, writing
from selfsup.runtime import fastest_device

log = logging.getLogger("selfsup")
CALIBRATION = 4096  # pictures that an untrained network's batch norms take their statistics from


@dataclass(frozen=True)
class Score:
    """The answers of one representation to one question, right or wrong.

    Attributes:
        task: `knn`, `linear` or `fine-tune`.
        representation: who answered.
        level: how many labels were seen.
        right: (draws, M) bool.
    """

    task: str
    representation: str
    level: Level
    right: Tensor


def encoders_of(run: Run, side: str | None = None) -> dict[str, Encoder]:
    """The encoders to compare: of the run, untrained, and as the run started where it was given weights.

    Batch norms of an untrained network get one pass of statistics later, without which it would be judged by chance.

    Args:
        run: any.
        side: of two towers, `image` or `text`; that of pictures when not given.
    """
    before = run.untrained().encoders()
    first = before[side] if side else next(iter(before.values()))
    found = {"run": run.encoder(side), "untrained": first}
    backbone = run.recipe.backbone
    if isinstance(backbone, TowerBackbone):
        backbone = backbone.text if side == "text" else backbone.image
    if backbone.init:
        found |= {"untrained": first.fresh(run.recipe.seed), "start": first}
    return {name: encoder.to(fastest_device()) for name, encoder in found.items()}


def calibrate(encoder: Encoder, labelled: Labelled) -> None:
    """Give the batch norms of an untrained network the statistics of labelled pictures; there are none for texts."""
    if isinstance(encoder, ImageEncoder):
        encoder.calibrate(labelled.sample(CALIBRATION, 1).train)


def raw_input(labelled: Labelled, size: int) -> Representation:
    """The samples themselves: pictures of `size` pixels, or the words of texts."""
    train, test = labelled.train, labelled.test
    if isinstance(train, PixelStore) and isinstance(test, PixelStore):
        return Features(raw_pixels(train, size), raw_pixels(test, size), labelled)
    return TfIdf(labelled)


def representations(run: Run, labelled: Labelled) -> dict[str, Callable[[], Representation]]:
    """Who is compared, each made when its turn comes: the encoders, and the raw input."""
    encoders = encoders_of(run)
    calibrate(encoders["untrained"], labelled)
    found: dict[str, Callable[[], Representation]] = {
        name: lambda encoder=encoder: Features.of(encoder, labelled) for name, encoder in encoders.items()
    }
    trained = encoders["run"]
    size = trained.about.size if isinstance(trained, ImageEncoder) else 0
    return {**found, "raw": lambda: raw_input(labelled, size)}


def usable(levels: Sequence[Level], labelled: Labelled) -> list[Level]:
    """The levels that these labels allow; what is left out is said.

    Raises:
        UserError: they allow none.
    """
    classes = len(labelled.classes)
    for level in levels:
        if not level.fits(labelled.labels, classes):
            log.info(
                "%s: %s of %d labels in %d classes is too few, left out", labelled.name, level, len(labelled.labels),
                classes,
            )  # fmt: skip
    found = [level for level in levels if level.fits(labelled.labels, classes)]
    if not found:
        raise UserError(f"{labelled.name}: {len(labelled.labels)} labels are too few for --labels; try --labels 100%")
    return found


def knn_score(name: str, representation: Representation, labelled: Labelled) -> Score:
    """The answers of the nearest neighbors, which see all labels."""
    return Score("knn", name, Level(share=1.0), (representation.knn() == labelled.test_labels)[None])


def linear_score(
    name: str,
    representation: Representation,
    labelled: Labelled,
    level: Level,
    seed: int,
    tell: Callable[[], None] = lambda: None,
) -> Score:
    """The answers of linear probes, one a draw of the labels; what is chosen is chosen on the first.

    Args:
        name: who answers.
        representation: what the probes see.
        labelled: the data.
        level: how many labels.
        seed: of the probes.
        tell: called before each.
    """
    representation.choose(level.rows(labelled.labels, 0), seed)
    right = []
    for draw in range(level.draws):
        tell()
        right.append(representation.linear(level.rows(labelled.labels, draw), seed) == labelled.test_labels)
    return Score("linear", name, level, torch.stack(right))


def score(
    made: Mapping[str, Callable[[], Representation]],
    labelled: Labelled,
    levels: Sequence[Level],
    seed: int,
    progress: Progress,
    keep: Callable[[LinearProbe, float], None],
) -> list[Score]:
    """The answers of all representations, each with the same draws of labels.

    Whatever is chosen is chosen on the part to fit on, for each level on its first draw of labels; the part to score on
    is looked at once.

    Args:
        made: by name, how to make each; one at a time is held.
        labelled: the data.
        levels: amounts of labels for the linear probe.
        seed: of the probes.
        progress: shows the work.
        keep: is given the run's probe on all labels, and its accuracy.
    """
    found: list[Score] = []
    total = len(made) * (1 + sum(level.draws for level in levels))
    done = itertools.count()
    for name, make in made.items():
        progress.part(f"probes: {name}", next(done), total)
        representation = make()
        found.append(knn_score(name, representation, labelled))
        for level in levels:

            def tell(what: str = f"probes: {name}, {level} of the labels") -> None:
                progress.part(what, next(done), total)

            found.append(linear_score(name, representation, labelled, level, seed, tell))
            if name == "run" and level.whole and isinstance(representation, Features) and representation.probe:
                keep(representation.probe, float(found[-1].right.double().mean()))
    progress.part("probes", total, total)
    return found


def line(labelled: Labelled, one: Score) -> Result:
    """The result of a score, without step and seed."""
    accuracy = one.right.double().mean(1)  # (draws,)
    found = number(one.task, one.representation, "accuracy", float(accuracy.mean()), labelled.chance, labelled.name,
                   labelled.split)  # fmt: skip
    found["labels"] = one.level.seen(len(labelled.labels), len(labelled.classes))
    if one.level.per_class:
        found["per_class"] = one.level.per_class
    if len(accuracy) > 1:
        found["sd_labels"] = float(accuracy.std(correction=1))
    return found


def lines(run: Run, labelled: Labelled, scores: Sequence[Score]) -> list[Result]:
    """One result for each score."""
    return [{**line(labelled, one), "step": run.step, "seed": run.recipe.seed} for one in scores]


def answers(labelled: Labelled, scores: Sequence[Score]) -> dict[str, dict[str, Tensor]]:
    """What `verdict.gains` compares: the answers at each level, beside chance; of kNN none, it sees all labels."""
    found: dict[str, dict[str, Tensor]] = {}
    for one in scores:
        if one.task != "knn":
            where = f"at {one.level} of the labels" if one.level.share else f"at {one.level.per_class} labels a class"
            where += ", fine-tuned" if one.task == "fine-tune" else ""
            of = found.setdefault(where, {"chance": always(labelled.labels, labelled.test_labels, len(one.right))})
            of[one.representation] = one.right
    return found


# The fitted probe, kept in the run


def place_of(run: Run, identity: str) -> Path:
    """The folder of the probe that was fitted to this data, on the encoder of the last checkpoint."""
    return run.folder / "probes" / fingerprint([identity, run.step])


def save_probe(run: Run, labelled: Labelled, probe: LinearProbe, accuracy: float) -> None:
    """Keep a probe for `classify`."""
    _save(place_of(run, labelled.identity), run, labelled, probe, accuracy)


def _save(folder: Path, run: Run, labelled: Labelled, probe: LinearProbe, accuracy: float) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.save(folder / "probe.safetensors")
        about = {"data": labelled.name, "step": run.step, "accuracy": accuracy, "classes": labelled.classes}
        write_text(folder / "probe.json", json.dumps(about, indent=2))


def load_probe(run: Run, labelled: Labelled) -> LinearProbe | None:
    """The probe that was fitted to this data, if there is one."""
    folder = place_of(run, labelled.identity)
    return LinearProbe.load(folder / "probe.safetensors") if (folder / "probe.json").exists() else None


def save_classifier(run: Run, labelled: Labelled, encoder: Encoder, head: LinearProbe, accuracy: float) -> None:
    """Keep a network that was trained on this data, with its head, for `classify`."""
    folder = place_of(run, labelled.identity) / "fine-tuned"
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        encoder.save(folder / "network")
    _save(folder, run, labelled, head, accuracy)


def load_classifier(run: Run, labelled: Labelled) -> tuple[Encoder, LinearProbe] | None:
    """The network that was trained on this data, with its head, if there is one."""
    folder = place_of(run, labelled.identity) / "fine-tuned"
    if not (folder / "probe.json").exists():
        return None
    accuracy = json.loads((folder / "probe.json").read_text())["accuracy"]
    log.info("by the network that eval fine-tuned on %s (accuracy %.3f)", labelled.name, accuracy)
    return load_encoder(folder / "network"), LinearProbe.load(folder / "probe.safetensors")
