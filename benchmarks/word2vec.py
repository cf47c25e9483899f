"""Word vectors beside gensim: same sentences, vocabulary, dimension, window, negatives, epochs and threads.

    python benchmarks/word2vec.py [--quick] [--data novels/] [--tests word_similarity/]
        [--what skip-gram cbow threads deterministic n-grams] [--seeds 0 1 2] [--epochs 3]

The text is cut into sentences, one a line; gensim reads that file (`corpus_file`) with the number of workers that is
fastest for it. Time is that of training: gensim's without its pass for the vocabulary, selfsup's without the store and
with a look at held-out text and a checkpoint at the end only, as gensim has none; `usual_words_per_s` is with ten of
each. Both tables are judged by the same code: tests of words, and the loss on held-out text. The last three cases put
selfsup, as it is, beside itself with another setting.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from gensim.models import Word2Vec as Gensim
from gensim.models.word2vec import LineSentence
from side_by_side import Side, arguments, highest, publish, say

import selfsup
from selfsup.checks import validate
from selfsup.data.samples import load_sample
from selfsup.data.word_tokenizer import WORD, plain
from selfsup.eval.word_tests import answers, lookup, open_word_tests, rank_correlation
from selfsup.objective import load_objective
from selfsup.objectives.word2vec import Word2Vec
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.runtime import Runtime
from selfsup.training import train

SIZES = {"width": 100, "window": 5, "negatives": 5, "min_count": 5}
ONLY_TRAIN = {"check_every": 1 << 20, "save_every": 1 << 20}  # gensim neither looks at held-out text nor saves
HELD_OUT = 20  # one sentence in so many
ASIDE: dict[str, dict[str, Any]] = {
    "threads": {"threads": 1},
    "deterministic": {"deterministic": True},
    "n-grams": {"ngrams": (3, 6)},
}


def texts(data: str | None) -> Iterator[str]:
    """Documents."""
    if data is None:
        yield from load_sample("prose")["train"]["text"]
        return
    for file in sorted(Path(data).rglob("*.txt")):
        yield file.read_text(encoding="utf-8-sig")


def write_sentences(data: str | None, folder: Path) -> int:
    """`train.txt` and `valid.txt`, a sentence a line, words with a space between; returns the words to train on."""
    find, count, number = regex.compile("(?V1)" + WORD).findall, 0, 0
    with open(folder / "train.txt", "w") as train_file, open(folder / "valid.txt", "w") as valid_file:
        for text in texts(data):
            for sentence in re.split(r"(?<=[.!?])[\"'\u201d\u2019]?\s+|\n\s*\n", text):
                words = find(plain(sentence, "lower"))
                if len(words) < 2:
                    continue
                number += 1
                held_out = number % HELD_OUT == 0
                (valid_file if held_out else train_file).write(" ".join(words) + "\n")
                count += 0 if held_out else len(words)
    return count


@dataclass(frozen=True)
class Judge:
    """Scores two tables, whoever made them.

    Attributes:
        run: of selfsup, whose vocabulary, held-out text and settings are used.
        tests: folder of tests of words.
    """

    run: Run
    tests: Path | None

    def scores(self, objective: Word2Vec) -> dict[str, float]:
        """Rank correlations and accuracies in percent, and the held-out loss a pair."""
        encoder = objective.encoder
        found = {}
        for test in open_word_tests(self.tests) if self.tests else []:
            known = [words for words in test.words if all(word.lower() in encoder.ids for word in words)]
            vectors = lookup(encoder, [word for words in known for word in words])
            if test.scores:
                rows = [test.scores[i] for i, words in enumerate(test.words) if words in set(known)]
                cosines = np.array([float(vectors[a] @ vectors[b]) for a, b in known])
                found[test.name] = 100 * rank_correlation(cosines, np.array(rows))
            else:
                found[test.name] = 100 * float(answers(encoder, known, vectors).double().mean())
        recipe = self.run.recipe
        prepared = prepare(self.run.data, None, False, Progress(False))
        reader = load_objective("word2vec").reader(recipe.config, prepared.held_out)
        loss = validate(objective, reader, recipe, Runtime("float32", on_cpu=True), 1 << 30)["loss"]
        return {**{name: round(value, 2) for name, value in found.items()}, "held-out loss": round(loss, 4)}

    def of_gensim(self, model: Gensim) -> dict[str, float]:
        """The scores of gensim's two tables, in the place of selfsup's."""
        objective = self.run.objective()
        assert isinstance(objective, Word2Vec)
        ids = objective.encoder.ids
        assert set(ids) == set(model.wv.index_to_key), "the vocabularies differ"
        with torch.no_grad():
            for place, word in enumerate(model.wv.index_to_key):
                objective.inputs.weight[ids[word]] = torch.from_numpy(model.wv.vectors[place])
                objective.outputs[ids[word]] = torch.from_numpy(model.syn1neg[place])
        return self.scores(objective)


def gensim_model(corpus: Path, cbow: bool, seed: int, workers: int, epochs: int) -> tuple[Gensim, float, float]:
    """A trained model, its seconds and its memory in MB."""
    model = Gensim(
        vector_size=SIZES["width"], window=SIZES["window"], negative=SIZES["negatives"], sg=int(not cbow), hs=0,
        min_count=SIZES["min_count"], sample=1e-3, seed=seed + 1, workers=workers, epochs=epochs,
    )  # fmt: skip
    with highest() as most:
        model.build_vocab(corpus_file=str(corpus))
        began = time.perf_counter()
        model.train(
            corpus_file=str(corpus), total_examples=model.corpus_count, total_words=model.corpus_total_words,
            epochs=epochs,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    return model, seconds, most()


def our_run(
    folder: Path, out: Path, method: str, seed: int, epochs: float, settings: dict[str, Any]
) -> tuple[Run, float]:
    """A finished run, and its memory in MB."""
    recipe = selfsup.recipe("word2vec", data=str(folder), method=method, seed=seed, epochs=epochs, **settings)
    with highest() as most:
        run = train(recipe, out, quiet=True)
    return run, most()


def best_workers(corpus: Path, cbow: bool) -> int:
    """Gensim's fastest number of workers, by one epoch each."""
    tried = {count: gensim_model(corpus, cbow, 0, count, 1)[1] for count in range(1, torch.get_num_threads() + 2)}
    say("  gensim, one epoch: " + ", ".join(f"{count} workers {seconds:.1f} s" for count, seconds in tried.items()))
    return min(tried, key=lambda count: tried[count])


def beside_itself(what: str, asked: argparse.Namespace, folder: Path, words: int) -> None:
    """Skip-gram as it is, beside itself with one other setting."""
    usual, other = dict(SIZES), SIZES | ASIDE[what]
    seconds: tuple[list[float], list[float]] = ([], [])
    memory: tuple[list[float], list[float]] = ([], [])
    scores: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for side, settings in enumerate((usual, other)):
        our_run(folder / "text", folder / f"warm-{what}-{side}", "skip-gram", 0, 0.1, settings)
    for number, seed in enumerate(asked.seeds):
        for side in (number % 2, 1 - number % 2):
            place = folder / f"{what}-{side}-{seed}"
            run, most = our_run(folder / "text", place, "skip-gram", seed, asked.epochs, (usual, other)[side])
            seconds[side].append(run.record["seconds"])
            memory[side].append(most)
            objective = run.objective()
            assert isinstance(objective, Word2Vec)
            scores[side].append(Judge(run, asked.tests).scores(objective))
        say(f"  seed {seed}: {seconds[0][-1]:.1f} s {scores[0][-1]}; {what} {seconds[1][-1]:.1f} s {scores[1][-1]}")
    sides = [Side(lambda: 0.0, about) for about in abouts(words * asked.epochs, seconds, memory, scores)]
    name = " ".join(f"{name} {value}" for name, value in ASIDE[what].items())
    publish("word2vec", what, f"selfsup with {name}", seconds, (sides[0], sides[1]), ASIDE[what], ("numba",))


def abouts(
    done: float, seconds: Sequence[list[float]], memory: Sequence[list[float]], scores: Sequence[list[dict[str, float]]]
) -> list[dict[str, Any]]:
    """Speed, memory and quality of each side."""
    return [
        {"words_per_s": round(done / statistics.median(taken)), "memory_mb": round(max(most)), "quality": summary(rows)}
        for taken, most, rows in zip(seconds, memory, scores, strict=True)
    ]


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and deviation over seeds."""
    found = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        found[name] = {"mean": round(statistics.mean(values), 4)}
        if len(values) > 1:
            found[name]["sd"] = round(statistics.stdev(values), 4)
    return found


def compare(method: str, asked: argparse.Namespace, folder: Path, words: int) -> None:
    """One method, all seeds in turn."""
    cbow, corpus = method == "cbow", folder / "text" / "train.txt"
    settings = SIZES | ONLY_TRAIN
    our_run(folder / "text", folder / f"warm-{method}", method, 0, 0.1, settings)  # compiles, and prepares the store
    workers = best_workers(corpus, cbow)
    ours, theirs, usual, seconds = [], [], [], ([], [])
    memory: tuple[list[float], list[float]] = ([], [])
    for number, seed in enumerate(asked.seeds):
        pair = {}
        for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            if side == "ours":
                run, most = our_run(folder / "text", folder / f"{method}-{seed}", method, seed, asked.epochs, settings)
                pair["ours"] = run
                seconds[0].append(run.record["seconds"])
                memory[0].append(most)
            else:
                pair["theirs"], taken, most = gensim_model(corpus, cbow, seed, workers, asked.epochs)
                seconds[1].append(taken)
                memory[1].append(most)
        place = folder / f"usual-{method}-{seed}"
        usual.append(our_run(folder / "text", place, method, seed, asked.epochs, dict(SIZES))[0].record["seconds"])
        judge = Judge(pair["ours"], asked.tests)
        objective = pair["ours"].objective()
        assert isinstance(objective, Word2Vec)
        ours.append(judge.scores(objective))
        theirs.append(judge.of_gensim(pair["theirs"]))
        mine, other = (f"{taken[-1]:.1f} s" for taken in seconds)
        say(f"  seed {seed}: selfsup {mine} (usually {usual[-1]:.1f}) {ours[-1]}; gensim {other} {theirs[-1]}")
    about = abouts(words * asked.epochs, seconds, memory, (ours, theirs))
    recipe = Run(folder / f"{method}-{asked.seeds[0]}").record["recipe"]
    about[0] |= {"threads": torch.get_num_threads(), "settings": {**recipe["config"], **recipe["optimizer"]}}
    about[0] |= {"usual_words_per_s": round(words * asked.epochs / statistics.median(usual))}
    about[1] |= {"workers": workers}
    differs = {
        "noise": "selfsup: shared by a block of words; gensim: drawn for each pair",
        "order": "selfsup: rows of text at random; gensim: as in the file",
        "rate": f"selfsup: {recipe['optimizer']['rate']}, for CBOW three times that; gensim: 0.025; both fall linearly",
    }
    sides = Side(lambda: 0.0, about[0]), Side(lambda: 0.0, about[1])
    publish("word2vec", method, "gensim", seconds, sides, differs, ("gensim", "numba"))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tests", type=Path, help="folder of tests of words")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    if asked.quick:
        asked.seeds, asked.epochs = asked.seeds[:1], 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "text").mkdir()
        words = write_sentences(asked.data, folder / "text")
        count = sum(1 for _ in LineSentence(str(folder / "text" / "train.txt")))
        say(f"{words:,} words in {count:,} sentences")
        for what in asked.what or ("skip-gram", "cbow", *ASIDE):
            (beside_itself if what in ASIDE else compare)(what, asked, folder, words)


if __name__ == "__main__":
    main()
