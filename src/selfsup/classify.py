"""A class for every sample, by a linear probe on labelled examples or a network that was fine-tuned on them."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from selfsup.data.facts import of_pictures
from selfsup.data.pixels import probe_sizes
from selfsup.data.source import GIVEN, Data, open_source
from selfsup.embedding import Encoded, encode_source, fresh_file
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.eval.features import Features
from selfsup.eval.labelled import Labelled, open_labelled
from selfsup.eval.linear import LinearProbe, fit_linear
from selfsup.eval.probes import load_classifier, load_probe, save_probe
from selfsup.image_encoder import ImageEncoder
from selfsup.prepare import columns_of, resolution_for
from selfsup.progress import Progress
from selfsup.recipes import ImageData, TextData
from selfsup.run import Run, check_writable
from selfsup.runtime import fastest_device


def _examples(encoder: Encoder, run: Run | None, like: Data, columns: tuple[str, ...], progress: Progress) -> Labelled:
    """The labelled examples, prepared as `eval` prepares them, so that its probe is found again."""
    name = os.fspath(like) if isinstance(like, str | os.PathLike) else GIVEN
    resolution = 0
    if isinstance(encoder, ImageEncoder):
        settings: ImageData | TextData = ImageData(source=name, columns=columns)
        known = None if run is None else of_pictures(run.facts)
        if known is not None:
            resolution = known.resolution
        else:
            source = open_source(like, columns_of(columns))
            source.require("image")
            resolution = resolution_for(encoder.about.size, probe_sizes(source.parts["train"].table))
    else:
        settings = TextData(source=name, columns=columns)
    labelled = open_labelled(settings, like, resolution, progress)
    if labelled is None:
        raise UserError(f"--like {name} has no labels; give one folder per class, or a table with a label column")
    return labelled


def _probe(encoder: Encoder, run: Run | None, labelled: Labelled) -> LinearProbe:
    """The probe that `eval` fitted to these examples, else one fitted now, which a run keeps."""
    probe = load_probe(run, labelled) if run is not None else None
    if probe is None:
        features = Features.of(encoder, labelled)
        seed = run.recipe.seed if run is not None else 0
        probe = fit_linear(features.train, features.labels, features.classes, seed)
        if run is not None:
            accuracy = float((probe.predict(features.test) == labelled.test_labels).double().mean())
            save_probe(run, labelled, probe, accuracy)
    return probe


def csv_file(out: str | os.PathLike) -> Path:
    """The file to write, once it is known that it can be: said before the work, not after it.

    Raises:
        UserError: it cannot be written, or is no `.csv`.
    """
    file = Path(out)
    if file.suffix != ".csv":
        raise UserError(f"--out {file}: allowed is a file that ends in .csv")
    check_writable(file)
    return file


def write_best(
    file: Path, found: Encoded, logits: Tensor, names: Sequence[str]
) -> tuple[list[str | None], list[float]]:
    """Write the likeliest class of each row; the classes, None for a row that could not be encoded, and probabilities.

    Args:
        file: to write.
        found: names and parts of N rows.
        logits: (N, K).
        names: of K classes.
    """
    chances, numbers = logits.softmax(1).max(1)
    good = torch.isfinite(chances).tolist()
    classes: list[str | None] = [str(names[number]) for number in numbers.tolist()]
    classes = [one if fine else None for one, fine in zip(classes, good, strict=True)]
    write_classes(file, found.names, found.parts, classes, chances.tolist())
    return classes, chances.tolist()


def write_classes(
    file: Path, names: Sequence[str], parts: Sequence[str], labels: Sequence[str | None], chances: Sequence[float]
) -> None:
    """Write `name`, `part`, `label` and `probability` of each row; without a label (None), the last two are empty."""
    with fresh_file(file) as fresh, open(fresh, "w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["name", "part", "label", "probability"])
        for name, part, label, chance in zip(names, parts, labels, chances, strict=True):
            writer.writerow([name, part, *(("", "") if label is None else (label, f"{chance:.4f}"))])


def columns_there(data: Data, columns: tuple[str, ...]) -> dict[str, str]:
    """The columns but for labels that data has some of: it may be plain files where the examples are a table."""
    named = {meaning: name for meaning, name in columns_of(columns).items() if meaning != "label"}
    have = {name for part in open_source(data).parts.values() for name in part.table.column_names} if named else set()
    return {meaning: name for meaning, name in named.items() if name in have}


def classify(
    place: str | os.PathLike,
    data: Data,
    like: Data,
    out: str | os.PathLike,
    columns: tuple[str, ...] = (),
    quiet: bool = False,
) -> Path:
    """Write a CSV with `name`, `part`, `label` and `probability` for each row of the data.

    A row that is empty or cannot be read has neither label nor probability.

    Args:
        place: a run, an exported folder, or a hub id.
        data: what to classify.
        like: labelled examples; where `eval` has seen them, its probe is used, or the network that it fine-tuned.
        out: file to write.
        columns: `meaning=name` pairs for the examples, and for the data where they are there.
        quiet: no progress on the terminal.

    Raises:
        UserError: examples without labels, data of another kind, or a file that cannot be written.
    """
    file, progress = csv_file(out), Progress(not quiet)
    run = Run(place) if (Path(place) / "run.json").exists() else None
    encoder = load_encoder(place).to(fastest_device())
    own = columns_there(data, columns)
    source = open_source(data, own)
    source.require(encoder.kind)  # before the work on the examples
    labelled = _examples(encoder, run, like, columns, progress)
    tuned = load_classifier(run, labelled) if run is not None else None
    encoder, probe = tuned or (encoder, _probe(encoder, run, labelled))
    found = encode_source(encoder.to(fastest_device()), source, progress)
    write_best(file, found, probe.logits(found.vectors), labelled.classes)
    return file
