"""How often the question of an objective cannot be answered on some data, by rows that it was not trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from selfsup.answers import confusions, record_of, table_of, together
from selfsup.construct import construct
from selfsup.data.captions import CaptionStore
from selfsup.data.pixels import PixelStore
from selfsup.data.reader import Reader
from selfsup.data.selection import Selection
from selfsup.data.source import Data
from selfsup.data.token_store import TokenStore
from selfsup.data.weights import weights_table
from selfsup.embedding import fresh_file
from selfsup.errors import UserError
from selfsup.fields import flag_of
from selfsup.folds import Scores, contents, cut, others, scored, trained
from selfsup.least import LEAST, MOST, TEXTS, draw_sheet, extremes, pages_of, texts_in, texts_page
from selfsup.objective import Objective, load_objective
from selfsup.prepare import Prepared, prepare
from selfsup.progress import Progress
from selfsup.recipes import ImageData, Optimizer, Recipe
from selfsup.resolve import located, resolve
from selfsup.run import check_writable, held, write_text
from selfsup.runtime import Runtime, signals
from selfsup.settings import to_json
from selfsup.training import naming_relief
from selfsup.weighting import require_row_losses

ASKED = "asked.json"  # what the folder is for
READING = ("workers", "cache", "cache_gb")  # settings that change no number
Pages = dict[str, np.ndarray]


@dataclass(frozen=True)
class Audit:
    """An audit about to begin, or to go on.

    Attributes:
        recipe: resolved.
        prepared: the data.
        reader: of all rows.
        content: (N,) equal for equal rows, where that is known.
        fold_of: (N,) the fold of each row.
        draws: how often each row is asked.
        folder: of everything that is kept.
        runtime: where it runs.
        progress: shows the work.
    """

    recipe: Recipe
    prepared: Prepared
    reader: Reader
    content: np.ndarray | None
    fold_of: np.ndarray
    draws: int
    folder: Path
    runtime: Runtime
    progress: Progress

    @property
    def folds(self) -> int:
        """Number of parts of the rows."""
        return int(self.fold_of.max()) + 1

    @property
    def pictures(self) -> PixelStore | None:
        """The pictures of the rows, if they are pictures."""
        store = self.prepared.train
        store = store.pictures if isinstance(store, CaptionStore) else store
        return store if isinstance(store, PixelStore) and len(store) == len(self.reader) else None

    def objective(self) -> Objective:
        """The objective before its first step."""
        store = self.prepared.train
        tokenizer = store.tokenizer_folder if isinstance(store, TokenStore | CaptionStore) else None
        with naming_relief(None, self.recipe.config):
            return construct(self.recipe, self.prepared.facts, tokenizer, None)

    def claim(self) -> None:
        """Take a free folder, or go on with one that holds the same audit.

        Raises:
            UserError: it holds something else, or the objective cannot be audited.
        """
        recipe, file = self.recipe, self.folder / ASKED
        plain = to_json(recipe)
        plain["data"] = {name: value for name, value in plain["data"].items() if name not in READING}
        asked = {
            "recipe": plain, "folds": self.folds, "draws": self.draws,
            "content": self.prepared.facts.content,
        }  # fmt: skip
        asked = json.loads(json.dumps(asked))
        if file.exists():
            known = json.loads(file.read_text())
            other = differing({**known, "steps": None}, {**asked, "steps": None})
            if other:
                what = ", ".join("content of the data" if place == "content" else flag_of(place) for place in other[:3])
                raise UserError(f"{self.folder} holds an audit with another {what}; give another --out")
            return
        if self.folder.is_file() or {entry.name for entry in self.folder.iterdir()} - {"lock"}:
            raise UserError(f"{self.folder} is not empty and holds no audit; give another --out")
        objective, fewest = self.objective().to(self.runtime.device), int(np.bincount(self.fold_of).min())
        if objective.couples_rows and fewest < 2:
            raise UserError(
                f"--folds {self.folds}: a fold has {fewest} row, and {recipe.objective} compares rows; give fewer"
            )
        require_row_losses(objective, self.reader, recipe, self.runtime, f"selfsup audit {recipe.objective}")
        write_text(file, json.dumps({**asked, "steps": None}, indent=2))

    def fold(self, number: int) -> tuple[Scores, np.ndarray, Pages]:
        """What was answered on the rows of a fold, and pages of some of them; done first where it was not."""
        file = self.folder / f"fold-{number}.npz"
        if not file.exists():
            self._ask(number, file)
        with np.load(file) as found:
            arrays = {name: found[name] for name in found.files}
        about, shown = json.loads(str(arrays.pop("about"))), arrays.pop("shown")
        pages = {name: arrays.pop(f"page/{name}") for name in about.pop("pages")}
        return Scores(**arrays, **about), shown, pages

    def _ask(self, number: int, file: Path) -> None:
        """Train on the other rows, ask these, and write what was answered."""
        recipe, runtime, progress = self.recipe, self.runtime, self.progress
        rows, rest = np.flatnonzero(self.fold_of == number), others(self.fold_of, number, self.content is None)
        progress.say(f"fold {number + 1} of {self.folds}: {len(rest):,} rows to train on, {len(rows):,} to be asked")
        objective, asked = self.objective(), json.loads((self.folder / ASKED).read_text())
        with signals() as caught, naming_relief(objective, recipe.config):
            part = Selection(self.reader, rest)
            steps, learned = trained(objective, part, recipe, runtime, asked["steps"], progress, caught)
            write_text(self.folder / ASKED, json.dumps({**asked, "steps": steps}, indent=2))  # the same in every fold
            scores = scored(objective, self.reader, rows, recipe, runtime, self.draws, progress, caught)
        shown = rows[np.concatenate(extremes(scores.difficulty, self._content_of(rows), LEAST, MOST)).astype(int)]
        pages = pages_of(objective, self.reader, shown, recipe.seed)
        about = {
            "metrics": scores.metrics, "guesses": scores.guesses, "questions": scores.questions, "learned": learned,
            "pages": list(pages),
        }  # fmt: skip
        arrays: dict[str, Any] = {name: value for name, value in vars(scores).items() if isinstance(value, np.ndarray)}
        arrays |= {f"page/{name}": page for name, page in pages.items()}
        with fresh_file(file) as fresh, open(fresh, "wb") as target:
            np.savez(target, about=json.dumps(about), shown=shown, **arrays)

    def _content_of(self, rows: np.ndarray) -> np.ndarray | None:
        return None if self.content is None else self.content[rows]

    def draw_least(self, scores: Scores, shown: dict[int, Pages]) -> None:
        """`least.png`, or for text `least.txt`: the least answerable rows, and some that are most answerable.

        Args:
            scores: of all rows.
            shown: pages of some rows, among them these.
        """
        pictures, name = self.pictures, self.recipe.objective
        labels = pictures.label_rows() if pictures is not None and pictures.classes else None

        def title(row: int) -> str:
            wrong = confusions(scores.answers[row : row + 1], scores.questions, 1)
            words = [f"{scores.loss[row]:.2f}", *(f"{one['asked']} as {one['answered']}" for one in wrong)]
            if pictures is not None and labels is not None and labels[row] >= 0:
                words.append(pictures.classes[labels[row]])
            return ", ".join(words)

        if shown and all(shown.values()):
            least, most = extremes(scores.difficulty, self.content, LEAST, MOST)
            rows, said = [*least, *most], f"{name}: the {len(least)} least answerable, and {len(most)} of the most"
            draw_sheet(self.folder / "least.png", [shown[row] for row in rows], [title(row) for row in rows], said)
            return
        store = self.prepared.train
        if isinstance(store, TokenStore):
            least, most = extremes(scores.difficulty, self.content, TEXTS, TEXTS // 4)
            read = {
                heading: [
                    (
                        f"row {row}, difficulty {scores.difficulty[row]:.2f}, loss {title(row)}",
                        texts_in(self.reader, store.tokenizer, row, self.recipe.seed),
                    )
                    for row in rows
                ]
                for heading, rows in (("least answerable", least), ("most answerable", most))
            }
            write_text(self.folder / "least.txt", texts_page(read))

    def finish(self) -> tuple[dict[str, Any], np.ndarray]:
        """The report of all folds, which have to be done: what `audit.json` holds, and (N,) weights."""
        parts = [self.fold(number) for number in range(self.folds)]
        scores, pictures = together([part for part, _, _ in parts]), self.pictures
        steps = json.loads((self.folder / ASKED).read_text())["steps"]
        labels, classes = None, ()
        if pictures is not None and pictures.classes:
            labels, classes = pictures.label_rows(), pictures.classes
        record = {
            "objective": self.recipe.objective, "data": self.recipe.data.source, "rows": len(self.reader),
            "folds": self.folds, "draws": self.draws, "steps": steps,
            **record_of(self.recipe.objective, scores, labels, classes),
        }  # fmt: skip
        pages = {
            row: {name: page[place] for name, page in some.items()}
            for _, shown, some in parts
            for place, row in enumerate(shown.tolist())
        }
        self.draw_least(scores, pages)
        table = table_of(scores, self.fold_of, None if pictures is None else pictures.names(), labels, classes)
        with fresh_file(self.folder / "rows.parquet") as fresh:
            parquet.write_table(table, fresh)
        write_text(self.folder / "audit.json", json.dumps(record, indent=2))
        return record, table["weight"].to_numpy()


def differing(known: object, asked: object, name: str = "") -> list[str]:
    """Names of the values in which two nests of dicts are not equal."""
    if isinstance(known, dict) and isinstance(asked, dict):
        return [at for key in sorted({*known, *asked}) for at in differing(known.get(key), asked.get(key), key)]
    return [] if known == asked else [name]


def audit(
    recipe: Recipe, out: str | Path, folds: int = 2, draws: int = 4, weights: str | Path | None = None,
    data: Data | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Ask an objective's question of every training row, by networks that were trained on other ones.

    Args:
        recipe: of each of the short runs; see `selfsup.recipe`.
        out: folder for what is found, and for the folds that are done: the same call goes on with the others.
        folds: parts of the rows; each is asked by a network trained on the others.
        draws: how often each row is asked, under other random numbers.
        weights: Parquet file to write, with a weight for every row.
        data: objects given in Python, in place of the source that the recipe names.
        quiet: no progress on the terminal.

    Returns:
        What `audit.json` holds.

    Raises:
        UserError: something the user can mend.
        Stopped: a signal came; the folds that are done are kept.
    """
    folder, target = Path(out), None if weights is None else Path(weights)
    for flag, count, least in (("--folds", folds, 2), ("--draws", draws, 1)):
        if count < least:
            raise UserError(f"{flag} {count}: allowed is {least} or more")
    for path in (folder, target):
        if path is not None:
            check_writable(path)
    if target is not None and target.exists() and not (folder / "audit.json").exists():
        raise UserError(f"--weights {target}: is there already; name another file")
    if not isinstance(recipe.optimizer, Optimizer):
        raise UserError(f"{recipe.objective} changes its weights by itself: it has no loss of each row to judge it by")
    recipe = located(replace(recipe, data=replace(recipe.data, weights=None)), data)
    runtime = Runtime(recipe.precision, isinstance(recipe.data, ImageData))
    if runtime.world > 1:
        raise UserError("selfsup audit runs in one process; start it without accelerate or torchrun")
    progress = Progress(shown=not quiet)
    prepared = prepare(recipe.data, data, runtime.device.type == "cuda", progress)
    recipe = resolve(recipe, prepared, runtime.device, runtime.precision)
    reader = load_objective(recipe.objective).reader(recipe.config, prepared.train)
    content = contents(prepared.train, len(reader))
    fold_of = cut(content, len(reader), folds)
    if fold_of.max() + 1 < folds:
        raise UserError(f"--folds {folds}: there are {fold_of.max() + 1} different rows; give fewer")
    begun = Audit(recipe, prepared, reader, content, fold_of, draws, folder, runtime, progress)
    with held(folder):
        begun.claim()
        record, found = begun.finish()
    if target is not None:
        with fresh_file(target) as fresh:
            parquet.write_table(weights_table(found, prepared.facts.content), fresh)
        progress.say(f"{target}: a weight for each of {len(found):,} rows, {found.mean():.3f} on average")
    progress.say(f"{folder} holds the report, every row, and the least answerable ones")
    return record
