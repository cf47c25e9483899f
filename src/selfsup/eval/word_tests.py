"""What vectors of words know: how alike two words are, by people's judgment, and which word a relation leads to.

Similarity (WordSim-353, SimLex-999 and their like): Spearman's correlation of cosines with the scores. Analogies
(Mikolov et al. 2013): a is to b as c is to the word nearest to b - a + c, all of length 1, the three left out. What has
a word that is not known is left out, and how many are left is said; with n-grams every word of a pair has a vector.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.source import Data
from selfsup.errors import UserError
from selfsup.eval.bootstrap import best_gain, rank_correlation_of
from selfsup.eval.probes import encoders_of
from selfsup.eval.result import Result, result
from selfsup.eval.verdict import ERROR, Gain, gains
from selfsup.nn.word_table import ngrams
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.word_vectors import WordVectors

AT_ONCE = 512  # questions


@dataclass(frozen=True)
class WordTest:
    """One file of questions.

    Attributes:
        name: of the file.
        words: pairs of words, or the four words of an analogy.
        scores: what people said of the pairs; none for analogies.
    """

    name: str
    words: list[tuple[str, ...]]
    scores: list[float]


def read_word_test(file: Path) -> WordTest:
    """A test in a text file: two words and a score a line, or four words; lines with # or : in front are none.

    Raises:
        UserError: it is neither.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text ({error}); give a test of words") from error
    rows = [line.replace("\t", " ").replace(",", " ").split() for line in lines]
    rows = [row for row in rows if row and row[0][0] not in "#:"]
    if rows and len(rows[0]) == 3 and not _is_number(rows[0][2]):
        rows = rows[1:]  # a header
    if rows and all(len(row) == 4 for row in rows):
        return WordTest(file.stem, [tuple(row) for row in rows], [])
    if rows and all(len(row) == 3 and _is_number(row[2]) for row in rows):
        return WordTest(file.stem, [(row[0], row[1]) for row in rows], [float(row[2]) for row in rows])
    raise UserError(f"{file}: allowed are lines of two words and a score, or of the four words of an analogy")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def open_word_tests(place: Path) -> list[WordTest]:
    """The test in a file, or all in a folder."""
    files = sorted(f for f in place.iterdir() if f.suffix in (".txt", ".tsv", ".csv")) if place.is_dir() else [place]
    files = [file for file in files if not file.name.lower().startswith("readme")]
    if not files or not place.exists():
        raise UserError(f"{place} has no tests of words: give a .txt, .tsv or .csv file, or a folder of such")
    return [read_word_test(file) for file in files]


def lookup(encoder: WordVectors, words: list[str]) -> dict[str, Tensor]:
    """(D,) of length 1 for each word that has a vector."""
    found = {}
    for word in dict.fromkeys(words):
        try:
            found[word] = F.normalize(encoder.word(word), dim=0)
        except UserError:
            continue
    return found


def spelled_alike(first: str, second: str) -> float:
    """Cosine of the three-character stretches of two words: what can be told without any training."""
    a, b = set(ngrams(first, 3, 3)), set(ngrams(second, 3, 3))
    return len(a & b) / math.sqrt(max(len(a) * len(b), 1))


def rank_correlation(cosines: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's, with 0 where all are equal."""
    return rank_correlation_of(cosines, scores)(np.ones(len(scores)))


def answers(encoder: WordVectors, questions: list[tuple[str, ...]], vectors: dict[str, Tensor]) -> Tensor:
    """(N,) bool: whether each analogy is solved."""
    table = F.normalize(encoder.table(), dim=1)
    table[[number for number, word in enumerate(encoder.words) if word not in encoder.ids]] = 0
    ids = {word: next(encoder.ids[form] for form in encoder.forms(word) if form in encoder.ids) for word in vectors}
    right = []
    for start in range(0, len(questions), AT_ONCE):
        some = questions[start : start + AT_ONCE]
        a, b, c = (torch.stack([vectors[question[part]] for question in some]) for part in range(3))
        cosines = (b - a + c) @ table.T  # (Q, V)
        for row, question in enumerate(some):
            cosines[row, [ids[word] for word in question[:3]]] = -torch.inf
        right.append(cosines.argmax(1) == torch.tensor([ids[question[3]] for question in some]))
    return torch.cat(right)


Judged = tuple[list[Result], list[Gain], str]


def _similarity(run: Run, encoders: dict[str, WordVectors], test: WordTest, error: float) -> Judged:
    """Rank correlations of all encoders, and of the spelling."""
    known = lookup(encoders["run"], [word for pair in test.words for word in pair])
    rows = [number for number, pair in enumerate(test.words) if all(word in known for word in pair)]
    said = f"{len(rows)} of {len(test.words)} pairs"
    if len(rows) < 3:
        return [], [], said
    pairs, scores = [test.words[row] for row in rows], np.array([test.scores[row] for row in rows])
    cosines = {}
    for name, encoder in encoders.items():
        vectors = lookup(encoder, [word for pair in pairs for word in pair])
        cosines[name] = np.array([float(vectors[a] @ vectors[b]) for a, b in pairs])
    cosines["raw"] = np.array([spelled_alike(a, b) for a, b in pairs])
    found = [
        result(run, "similarity", name, "rank correlation", rank_correlation(of, scores), 0.0, test.name, said)
        for name, of in cosines.items()
    ]
    measures = {name: rank_correlation_of(of, scores) for name, of in cosines.items()}
    return found, [best_gain(measures, len(rows), f"of rank correlation in {test.name}", error)], said


def _analogies(run: Run, encoders: dict[str, WordVectors], test: WordTest) -> Judged:
    """Accuracies of all encoders."""
    encoder = encoders["run"]
    known = {word for q in test.words for word in q if any(form in encoder.ids for form in encoder.forms(word))}
    questions = [question for question in test.words if known.issuperset(question)]
    said = f"{len(questions)} of {len(test.words)} questions"
    if not questions:
        return [], [], said
    words = [word for question in questions for word in question]
    right = {name: answers(encoder, questions, lookup(encoder, words))[None] for name, encoder in encoders.items()}
    chance = 1 / len(encoders["run"].ids)
    found = [
        result(run, "analogies", name, "accuracy", float(of.double().mean()), chance, test.name, said)
        for name, of in right.items()
    ]
    return found, gains({f"in {test.name}": right}), said


def evaluate_words(run: Run, data: Data | None, progress: Progress) -> tuple[list[Result], list[Gain]]:
    """All tests of words in a file or folder: the run, its untrained table, and for pairs the spelling of both words.

    Raises:
        UserError: no test, none with known words, or a run without vectors of words.
    """
    if not isinstance(data, str | os.PathLike):
        raise UserError("--task words needs --data: a file of pairs with scores or of analogies, or a folder of such")
    encoders = {name: e for name, e in encoders_of(run).items() if isinstance(e, WordVectors)}
    if not encoders:
        raise UserError(f"--task words is for vectors of words; {run.folder} has none, a run of word2vec does")
    tests = open_word_tests(Path(data))
    results: list[Result] = []
    found: list[Gain] = []
    for number, test in enumerate(tests):
        progress.part(f"words: {test.name}", number, len(tests))
        judged = (
            _similarity(run, encoders, test, ERROR / len(tests)) if test.scores else _analogies(run, encoders, test)
        )
        results, found = results + judged[0], found + judged[1]
        progress.say(f"{test.name}: {judged[2]} have only words that are known; the others are left out")
    progress.part("words", len(tests), len(tests))
    if not results:
        raise UserError(
            f"{data}: too few of its words are known to {run.folder}; train on more text, or with --ngrams 3 6"
        )
    return results, found
