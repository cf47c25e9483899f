"""Several runs on several label sets: what each transfers, beside what it has to beat, as one table and one picture."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfsup.data.pixels import PixelStore, probe_sizes
from selfsup.data.source import open_source
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.eval.entrants import READS, Entrant, entrants_of, read_by_all, readers_at, run_at
from selfsup.eval.few_labels import LEVELS, Level
from selfsup.eval.labelled import Labelled, open_labelled
from selfsup.eval.ledger import Ledger
from selfsup.eval.panel import panels_of, short_names
from selfsup.eval.probes import usable
from selfsup.eval.result import Result, number
from selfsup.eval.standing import standing
from selfsup.eval.transfer import Transfer
from selfsup.image_encoder import ImageEncoder
from selfsup.plots import score_panels
from selfsup.prepare import columns_of, resolution_for
from selfsup.progress import Progress
from selfsup.recipes import ImageData, TextData
from selfsup.run import check_writable

log = logging.getLogger("selfsup")


@dataclass(frozen=True)
class LabelSet:
    """Labelled data, what it is read by, and the amounts of labels that it allows.

    Attributes:
        labelled: the data.
        kind: what is read of it, `image` or `text`.
        levels: amounts of labels.
        repeated: the places whose encoders see its gray pictures in several channels.
    """

    labelled: Labelled
    kind: str
    levels: list[Level]
    repeated: list[str]


def compare(
    places: Sequence[str | os.PathLike],
    data: Sequence[str | os.PathLike],
    columns: tuple[str, ...] = (),
    labels: Sequence[str] = LEVELS,
    fine_tune: bool = False,
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
    quiet: bool = False,
) -> list[Result]:
    """Score several runs on several label sets; the last results are a verdict for each set.

    Of every encoder: kNN, linear probes, the layer that transfers best, the effective rank of its vectors; of every run
    what it has cost. The raw input, each network untrained, and the start of a run that was given weights stand beside.
    All see the same pictures, at the size that the largest encoder wants.

    Args:
        places: runs, exported folders and hub ids that read the same kind of data; of two towers that which reads it.
        data: labelled pictures or texts, each a path, `sample:NAME` or `hf:ID`.
        columns: `meaning=name` pairs, each for the data that has a column of this name.
        labels: amounts of labels for the probes: `10%` is a share, `5` is five a class.
        fine_tune: also train every network with these labels, beside the same from scratch.
        out: file of JSON lines that each result is written to when it is found; what stands there is not found again.
        plot: file for a picture of the scores.
        quiet: no progress on the terminal.

    Raises:
        UserError: runs of different kinds, data that one of them does not read or that has no labels, or a file that
            cannot be written.
    """
    runs, sets = (list(dict.fromkeys(map(_plain, given))) for given in (places, data))
    if not runs or not sets:
        raise UserError("nothing to compare: give runs, and labelled data with --data")
    levels = [Level.parse(text) for text in dict.fromkeys(labels)]
    picture = _picture(plot)
    ledger, progress = Ledger(None if out is None else Path(out)), Progress(not quiet)
    readers = {place: readers_at(place) for place in runs}
    kinds = read_by_all(readers)
    opened = [
        _open(name, kept, {kind: {place: readers[place][kind] for place in runs} for kind in kinds}, levels, progress)
        for name, kept in zip(sets, _columns(sets, columns), strict=True)
    ]
    entrants = {
        kind: entrants_of({place: readers[place][kind] for place in runs}, kind)
        for kind in dict.fromkeys(one.kind for one in opened)
    }
    for one in opened:
        if one.repeated:
            named = ", ".join(one.repeated)
            log.warning("%s: gray pictures, repeated for each channel of %s", one.labelled.name, named)
    rows: list[Result] = []
    verdicts: list[Result] = []
    for one in opened:
        transfers = _on_set(one, entrants[one.kind], fine_tune, ledger, progress)
        rows += [row for transfer in transfers for row in transfer.rows]
        verdicts.append(_verdict(transfers, short_names(sets)[one.labelled.name], short_names(runs)))
    rows += [row for place in runs for row in _cost(place, ledger)]
    if picture is not None:
        score_panels(picture, panels_of(rows))
    return rows + verdicts


def _plain(place: str | os.PathLike) -> str:
    """A path as it is written without detours; ids of the hub as they are."""
    name = os.fspath(place)
    return os.path.normpath(name) if Path(name).exists() else name


def _picture(plot: str | os.PathLike | None) -> Path | None:
    """The file of the picture, once it is known that it can be written."""
    if plot is None:
        return None
    file = Path(plot)
    if file.suffix != ".png":
        raise UserError(f"--plot {file}: the allowed ending is .png")
    check_writable(file)
    return file


def _columns(sets: Sequence[str], columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """For each set the pairs whose column it has; others may be meant for other sets."""
    names = {pair: name for pair in columns for name in columns_of((pair,)).values()}
    if not names:
        return [()] * len(sets)
    have = [{name for part in open_source(one).parts.values() for name in part.table.column_names} for one in sets]
    for pair, name in names.items():
        if not any(name in there for there in have):
            raise UserError(f"--columns {pair}: there is no column {name!r} in {', '.join(sets)}")
    return [tuple(pair for pair, name in names.items() if name in there) for there in have]


def _open(
    name: str,
    columns: tuple[str, ...],
    readers: dict[str, dict[str, Encoder]],
    levels: list[Level],
    progress: Progress,
) -> LabelSet:
    """A label set made ready, and checked against who is to read it.

    Args:
        name: of the source.
        columns: `meaning=name` pairs that it has.
        readers: by what is read, the encoder of each place.
        levels: amounts of labels.
        progress: shows the work.
    """
    source = open_source(name, columns_of(columns))
    have = source.parts["train"].table.column_names
    kind = next((kind for kind in readers if kind in have), None)
    if kind is None:
        wanted, columns_there = " or ".join(READS[kind] for kind in readers), ", ".join(have)
        raise UserError(f"{name} holds no {wanted}, which the runs read, only columns: {columns_there}")
    source.require(kind)
    if kind == "image":
        sizes = [encoder.about.size for encoder in readers[kind].values() if isinstance(encoder, ImageEncoder)]
        resolution = resolution_for(max(sizes), probe_sizes(source.parts["train"].table))
        labelled = open_labelled(ImageData(source=name, columns=columns), None, resolution, progress)
    else:
        labelled = open_labelled(TextData(source=name, columns=columns), None, 0, progress)
    if labelled is None:
        raise UserError(f"{name} has no labels; give one folder per class, or a table with a label column")
    count, classes = len(labelled.labels), len(labelled.classes)
    ordered = sorted(usable(levels, labelled), key=lambda level: level.seen(count, classes))  # the fewest labels first
    return LabelSet(labelled, kind, ordered, _repeated(labelled, readers[kind]))


def _repeated(labelled: Labelled, encoders: Mapping[str, Encoder]) -> list[str]:
    """The places whose encoders see gray pictures in several channels; other channels have to fit."""
    if not isinstance(labelled.train, PixelStore):
        return []
    name, channels = labelled.name, labelled.train.channels
    seen = {place: len(one.about.mean) for place, one in encoders.items() if isinstance(one, ImageEncoder)}
    for place, wanted in seen.items():
        if channels not in (1, wanted):
            raise UserError(f"{name}: its pictures have {channels} channels, {place} sees {wanted}; leave one out")
    return [place for place, wanted in seen.items() if wanted != channels]


def _on_set(
    one: LabelSet, entrants: Sequence[Entrant], fine_tune: bool, ledger: Ledger, progress: Progress
) -> list[Transfer]:
    """All scores on one label set."""
    name, found = one.labelled.name, []
    total, done = len(entrants) * (3 + len(one.levels) * (1 + fine_tune)), itertools.count()

    def tell(what: str) -> None:
        progress.part(what, next(done), total)

    for entrant in entrants:
        transfer = Transfer(entrant, one.labelled, ledger, tell, progress)
        try:
            _ask(transfer, one.levels, fine_tune)
        except UserError as error:  # such as a network that has diverged
            raise UserError(f"{entrant.name} on {name}: {error}") from error
        transfer.forget()
        found.append(transfer)
    progress.part(name, total, total)
    return found


def _verdict(transfers: Sequence[Transfer], data: str, names: Mapping[str, str]) -> Result:
    """The best run on one label set, and whether it was worth it.

    Args:
        transfers: all scores there.
        data: what to call the set.
        names: what to call each run.
    """
    labelled = transfers[0].labelled
    runs = {one.entrant.name: one.scores for one in transfers if one.entrant.representation == "run"}
    baselines = {one.entrant.name: one.scores for one in transfers if one.entrant.name not in runs}
    found = standing(labelled, {names[place]: scores for place, scores in runs.items()}, baselines)
    best = next(place for place, name in names.items() if name == found.best)
    row = number("verdict", "run", "worth it", float(found.worth), 0.0, labelled.name, labelled.split)
    return {**row, "run": best, "text": f"{data}: {found.said}"}


def _ask(transfer: Transfer, levels: Sequence[Level], fine_tune: bool) -> None:
    """All questions, those first that a table begins with."""
    transfer.knn()
    for level in levels:
        transfer.linear(level)
    transfer.best_layer()
    transfer.rank()
    for level in levels if fine_tune else []:
        transfer.fine_tuned(level)


def _cost(place: str, ledger: Ledger) -> list[Result]:
    """What a run has cost, as far as it is known; nothing of what is no run."""
    run = run_at(place)
    if run is None:
        return []
    record, recipe = run.record, run.recipe
    energy = record.get("energy", {})
    how = "; ".join(part["how"] for part in energy.values() if isinstance(part, dict))
    known = {"seconds": record.get("seconds"), "samples": record.get("samples"), "kWh": energy.get("kwh")}
    found = []
    for metric, value in known.items():
        if value is not None:
            row = number("cost", "run", metric, value, 0.0, recipe.data.source, "train")
            row |= {"step": run.step, "seed": recipe.seed, "run": place} | ({"how": how} if metric == "kWh" else {})
            found.append(ledger.once([place, "cost", metric, value, run.step], lambda row=row: (row, None))[0])
    return found
