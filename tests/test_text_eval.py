"""Texts scored by their vectors: measures of rankings, BM25, intervals, pairs, collections, clusters, and bad input."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, ndcg_score, v_measure_score

import selfsup
from selfsup import cli
from selfsup.data.tokenizer import train_tokenizer
from selfsup.errors import UserError
from selfsup.eval import text_encoders
from selfsup.eval.bm25 import bm25, ranked, tf_idf
from selfsup.eval.bootstrap import average_precision_of, bootstrap, rank_correlation_of, v_measure_of
from selfsup.eval.clustering import open_classes
from selfsup.eval.collection import open_collection
from selfsup.eval.overlap import overlap
from selfsup.eval.pair_labels import labelled_pairs
from selfsup.eval.retrieval import MEASURES
from selfsup.eval.text_encoders import Asked, encoded, text_encoders_of
from selfsup.eval.text_pairs import open_pairs
from selfsup.ops import ranking
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape

SUBJECTS = {"royal": ("king", "queen", "prince", "crown"), "home": ("cat", "mat", "dog", "rug")}
SENTENCES = """the king and the queen rule the land. the queen wore a crown. the prince and the king wore a crown.
the cat sat on the mat. the dog sat on the rug. the cat and the dog slept on the mat and the rug.
the prince loved the queen of the land. the king of the land sat with the prince. a cat and a dog ate on a rug.
"""
QUIET = Progress(False)


# Measures of rankings

Matrix = list[list[float]]


def tensors(ranked: Matrix, gains: Matrix) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, gains))
    return torch.tensor(ranked), torch.tensor([[*row, *[0.0] * (width - len(row))] for row in gains])


def naive(ranked: list[float], gains: list[float], k: int, what: str) -> float:
    """Each measure of one query, written out."""
    relevant = sum(gain > 0 for gain in gains)
    if what == "ndcg":
        dcg = sum(gain / math.log2(place + 2) for place, gain in enumerate(ranked[:k]))
        best = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains, reverse=True)[:k]))
        return dcg / best if best else 0.0
    places = [place for place, gain in enumerate(ranked[:k], 1) if gain > 0]
    if what == "rank":
        return 1 / places[0] if places else 0.0
    if what == "recall":
        return len(places) / relevant if relevant else 0.0
    return sum(found / place for found, place in enumerate(places, 1)) / relevant if relevant else 0.0


def all_measures(ranked: torch.Tensor, gains: torch.Tensor, k: int) -> dict[str, torch.Tensor]:
    return {
        "ndcg": ranking.ndcg(ranked, gains, k),
        "rank": ranking.reciprocal_rank(ranked, k),
        "recall": ranking.recall(ranked, gains, k),
        "precision": ranking.average_precision(ranked, gains, k),
    }


def test_measures_by_hand():
    found, gains = tensors(
        [[0, 3, 0, 1], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], [[3, 1, 2], [1, 1], [2], [1]]
    )  # several relevant and one not found; none found; the first; the last
    assert ranking.reciprocal_rank(found, 10).tolist() == [1 / 2, 0, 1, 1 / 4]
    assert ranking.reciprocal_rank(found, 3).tolist() == [1 / 2, 0, 1, 0]
    assert ranking.recall(found, gains, 2).tolist() == pytest.approx([1 / 3, 0, 1, 0])
    assert ranking.recall(found, gains, 10).tolist() == pytest.approx([2 / 3, 0, 1, 1])
    assert ranking.average_precision(found, gains, 10).tolist() == pytest.approx([(1 / 2 + 2 / 4) / 3, 0, 1, 1 / 4])
    log = math.log2
    first = (3 / log(3) + 1 / log(5)) / (3 + 2 / log(3) + 1 / 2)
    assert ranking.ndcg(found, gains, 10).tolist() == pytest.approx([first, 0, 1, 1 / log(5)])
    none = torch.zeros(1, 4)
    assert all(float(value) == 0 for value in all_measures(none, torch.zeros(1, 0), 10).values())
    assert ranking.dcg(torch.tensor([[1.0, 1, 1]]), 2).item() == pytest.approx(1 + 1 / log(3))


@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_measures_against_scikit_learn_and_written_out(k: int):
    generator = np.random.default_rng(k)
    rows = []
    for _ in range(60):
        documents = int(generator.integers(2, 40))
        relevance = generator.integers(0, 4, documents) * (generator.random(documents) < 0.4)
        rows.append((relevance.astype(float), generator.permutation(documents).astype(float)))
    for relevance, scores in rows:
        order = np.argsort(-scores)
        kept = relevance[order].tolist()[:k]
        found, gains = tensors([kept], [relevance.tolist()])
        got = {what: float(value) for what, value in all_measures(found, gains, k).items()}
        for what, value in got.items():
            assert value == pytest.approx(naive(kept, relevance.tolist(), k, what)), what
        assert got["ndcg"] == pytest.approx(ndcg_score(relevance[None], scores[None], k=k))
        if k == 1000 and relevance.any():
            assert got["precision"] == pytest.approx(average_precision_score(relevance > 0, scores))


@pytest.mark.parametrize(("documents", "k"), [(30, 10), (6, 10), (12, 1000), (1, 10)])
def test_what_chance_gets(documents: int, k: int):
    """Against the mean over many random orders."""
    many = {1: [[1.0]], 6: [[3.0, 1], [1] * 6], 12: [[1, 1, 1], [2]], 30: [[2, 1, 1, 3], [1], [1] * 25]}[documents]
    generator = np.random.default_rng(0)
    for gains in many:
        padded = np.array([*gains, *[0.0] * (documents - len(gains))])
        orders = torch.from_numpy(np.stack([generator.permutation(padded) for _ in range(20_000)]))
        of = torch.tensor([gains]).double()
        mean = {what: float(v.mean()) for what, v in all_measures(orders, of.expand(len(orders), -1), k).items()}
        by = {
            "ndcg": ranking.ndcg_by_chance(of, documents, k),
            "rank": ranking.reciprocal_rank_by_chance(of, documents, k),
            "recall": ranking.recall_by_chance(of, documents, k),
            "precision": ranking.average_precision_by_chance(of, documents, k),
        }
        assert {what: float(v) for what, v in by.items()} == pytest.approx(mean, abs=0.01)


# Words


def test_overlap():
    assert overlap("The cat sat.", "the CAT sat!") == 1 and overlap("a cat", "the dog") == 0
    assert overlap("a a a cat", "a dog barks") == pytest.approx(2 * 1 / (2 + 3))
    assert overlap("", "") == overlap("a", "") == 0


def test_bm25_is_the_formula():
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(30)]
    documents = [" ".join(generator.choice(words, generator.integers(1, 20))) for _ in range(40)] + ["", "W1, w1! w2"]
    queries = ["w1 w2", "w3 w3 w4 unknown", "unknown", ""]
    asked, weighted = bm25(documents, queries)
    got = (asked @ weighted.T).toarray()
    split = [re.findall(r"\w+", text.lower()) for text in documents]
    mean = sum(map(len, split)) / len(split)
    for row, query in enumerate(queries):
        for column, text in enumerate(split):
            score = 0.0
            for word in query.split():
                n, f = sum(word in other for other in split), Counter(text)[word]
                rarity = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
                score += rarity * f * 2.2 / (f + 1.2 * (1 - 0.75 + 0.75 * len(text) / mean))
            assert got[row, column] == pytest.approx(score)


@pytest.mark.parametrize("weigh", [bm25, tf_idf])
def test_documents_of_equal_score_stay_in_order(weigh: Callable):
    documents = ["a dog", "the cat", "a bird", "the cat", "cat", "", "the cat"]
    found = ranked(*weigh(documents, ["the cat", "no such words", "bird cat"]), 5)
    assert found[0].tolist() == [1, 3, 6, 4, -1] and found[1].tolist() == [-1] * 5
    assert found[2, 0] == 2 and found.shape == (3, 5)
    assert ranked(*weigh(["", "."], ["a"]), 10).tolist() == [[-1, -1]]


# Intervals


def test_measures_of_rows_that_are_drawn_are_those_of_the_rows_repeated():
    generator = np.random.default_rng(0)
    values = np.round(generator.normal(size=200), 1)
    scores = np.round(values + generator.normal(size=200), 0)
    classes, found = generator.integers(0, 4, 200), generator.integers(0, 5, 200)
    for rows in (np.arange(200), generator.integers(0, 200, 200)):
        counts = np.bincount(rows, minlength=200).astype(float)
        v, s = values[rows], scores[rows]
        assert rank_correlation_of(values, scores)(counts) == pytest.approx(spearmanr(v, s).statistic)
        assert average_precision_of(values, scores > 0)(counts) == pytest.approx(average_precision_score(s > 0, v))
        assert v_measure_of(found, classes)(counts) == pytest.approx(v_measure_score(classes[rows], found[rows]))
    assert rank_correlation_of(np.ones(9), np.arange(9.0))(np.ones(9)) == 0
    assert v_measure_of(np.zeros(5, int), np.arange(5) % 2)(np.ones(5)) == 0


def test_the_interval_is_as_wide_as_the_difference_varies():
    generator = np.random.default_rng(0)
    differences, halves = [], []
    for _ in range(25):
        truth = generator.normal(size=100)
        one, other = (truth + spread * generator.normal(size=100) for spread in (1.0, 1.5))
        mean, half = bootstrap(rank_correlation_of(one, truth), rank_correlation_of(other, truth), 100, 0.05)
        differences.append(mean)
        halves.append(half)
    assert np.mean(halves) == pytest.approx(1.96 * np.std(differences), rel=0.35)


# Who is compared


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Vectors of words of a small text."""
    root = tmp_path_factory.mktemp("texts")
    (root / "text.txt").write_text(SENTENCES * 100)
    words = f"--data {root}/text.txt --out {root}/run --width 8 --row 64 --batch 4 --rate 0.1 --threads 1 --epochs 4"
    assert cli.run(["train", "word2vec", *words.split()]) == 0
    return Run(root / "run")


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Sentences with their subject."""
    generator = np.random.default_rng(seed)
    subjects = [str(name) for name in generator.choice(list(SUBJECTS), count)]
    return [(f"the {' '.join(generator.choice(SUBJECTS[name], 3))}", name) for name in subjects]


def scored_pairs(file: Path, count: int = 40, seed: int = 0) -> Path:
    one, other = sentences(count, seed), sentences(count, seed + 1)
    rows = [f"{a},{b},{4.0 if x == y else 1.0},{int(x == y)}" for (a, x), (b, y) in zip(one, other, strict=True)]
    file.write_text("\n".join(["sentence1,sentence2,score,label", *rows]) + "\n")
    return file


def rows_of(run: Run, place: Path, task: str, **more: object) -> dict[tuple[str, str], dict]:
    rows = selfsup.evaluate(run.folder, place, task=task, quiet=True, **more)
    assert rows[-1]["task"] == "verdict" and rows == run.lines("evals.jsonl")[-len(rows) :]
    assert all(row["data"] == str(place) for row in rows) and all(row["task"] == task for row in rows[:-1])
    return {(row["representation"], row["metric"]): row for row in rows[:-1]} | {("", "verdict"): rows[-1]}


def test_texts_are_encoded_once_and_stay_in_order():
    torch.manual_seed(0)
    encoder = TextEncoder.create("decoder", train_tokenizer("byte", 261, []), 32, Shape(1, 4, 32))
    texts = ["the king and the queen rule", "a cat", "", "a cat", "the dog sat"]
    got = encoded(encoder, texts, None, "run", QUIET)
    assert torch.equal(got[1], got[3])
    assert torch.allclose(got, encoder.encode(texts), atol=1e-5)
    encoder.model.get_parameter(next(name for name, _ in encoder.model.named_parameters())).data.fill_(torch.nan)
    assert (encoded(encoder, texts, "query", "run", QUIET) == 0).all()


def test_who_cannot_be_compared(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    TextEncoder.create("decoder", train_tokenizer("byte", 261, []), 32, Shape(1, 4, 32)).save(tmp_path)
    with pytest.raises(UserError, match=r"has no vectors of words; give a run of word2vec"):
        text_encoders_of(run, tmp_path, "sts")
    monkeypatch.setattr(text_encoders, "encoders_of", lambda run: {"run": object()})
    with pytest.raises(UserError, match="--task sts is for runs on text"):
        text_encoders_of(run, None, "sts")


# Pairs with scores


def test_similarity_of_texts(run: Run, tmp_path: Path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number, part in enumerate(("train", "dev", "test")):
        scored_pairs(folder / f"{part}.csv", 40 + number, 10 * number)
    found = rows_of(run, folder, "sts", words=run.folder)
    compared = ("run", "untrained", "words", "overlap", "tf-idf")
    assert found.keys() == {(who, metric) for who in compared for metric in ("Spearman", "Pearson")} | {
        (who, metric) for who in ("run", "untrained") for metric in ("alignment", "uniformity")
    } | {("", "verdict")}
    pairs = open_pairs(folder, (), None, "score", 1)[0]
    assert pairs.split == "test" and len(pairs) == 42
    encoder = run.encoder()
    first, second = (encoder.encode(side).double() for side in (pairs.first, pairs.second))
    cosines = torch.nn.functional.cosine_similarity(first, second).numpy()
    for who in ("run", "words"):
        assert found[who, "Spearman"]["mean"] == pytest.approx(spearmanr(cosines, pairs.numbers).statistic)
        assert found[who, "Pearson"]["mean"] == pytest.approx(pearsonr(cosines, pairs.numbers).statistic)
    assert found["run", "Spearman"]["split"] == "test" and 0 <= found["run", "alignment"]["mean"] <= 4
    assert found["run", "Spearman"]["mean"] > max(found["untrained", "Spearman"]["mean"], 0.5)
    assert "of rank correlation in" in found["", "verdict"]["text"]


def test_columns_have_other_names(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = scored_pairs(tmp_path / "pairs.csv")
    file.write_text(file.read_text().replace("sentence1,sentence2,score", "a,b,c", 1))
    words = ["eval", str(run.folder), "--task", "sts", "--data", str(file), "--json"]
    with pytest.raises(
        UserError, match=r"no column 'query' and no column 'positive' and no column 'score', only: a, b"
    ):
        cli.run(words)
    assert cli.run([*words, "--columns", "query=a", "positive=b", "score=c"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["split"] for row in rows} == {"train"} and rows[-1]["task"] == "verdict"


def test_rows_without_texts_or_scores_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lines = [("a", "b", 1), ("", "b", 2), ("a", None, 2), ("c", "d", None), ("e", "f", 3), ("g", "h", 0)]
    for part in ("train", "test"):
        of = [{"query": a, "positive": b, "score": c if part == "train" else None} for a, b, c in lines]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, of)))
    pairs = open_pairs(tmp_path, (), None, "score", 1)[0]
    assert pairs.split == "train" and pairs.first == ["a", "e", "g"] and pairs.numbers.tolist() == [1, 3, 0]
    assert "2 of 6 pairs of the train part left out: an empty text (row 1, 2)" in caplog.text
    assert "1 of 6 pairs of the train part left out: no score (row 3)" in caplog.text
    assert "the test part has no pair with a score; scored is the train part" in caplog.text


@pytest.mark.parametrize(
    ("number", "rows", "said"),
    [
        ("score", ["a,b,1", "a,c,high"], ("row 1", "'high'", "numbers", "--columns score=NAME")),
        ("score", ["a,b,", "a,c,"], ("none of its rows",)),
        ("score", [",b,1", " ,c,2"], ("none of its rows",)),
        ("label", ["a,b,1", "a,c,2"], ("row 1", "2", "0 and 1")),
        ("label", ["a,b,yes", "a,c,no"], ("row 0", "'yes'", "0 and 1")),
    ],
)
def test_what_is_no_pair(tmp_path: Path, number, rows: list[str], said: tuple[str, ...]):
    (tmp_path / "pairs.csv").write_text("\n".join([f"sentence1,sentence2,{number}", *rows]) + "\n")
    with pytest.raises(UserError) as error:
        open_pairs(tmp_path / "pairs.csv", (), None, number, 1)
    assert "\n" not in str(error.value) and all(words in str(error.value) for words in said), error.value


def test_columns_of_lists_and_broken_lines(tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"query": "a", "positive": ["b"], "score": 1}) + "\n")
    with pytest.raises(UserError, match="the column 'positive' holds no texts but"):
        open_pairs(file, (), None, "score", 1)
    file.write_text('{"query": "a", "positive": "b", "score": 1}\n{"query": "a", \n')
    with pytest.raises(UserError, match="cannot be read as jsonl") as error:
        open_pairs(file, (), None, "score", 1)
    assert "\n" not in str(error.value)


def test_too_few_or_equal_scores(run: Run, tmp_path: Path):
    for rows, said in ((["a,b,1", "c,d,2"], "2 pairs; give three"), (["a,b,1"] * 4, "all with the score 1")):
        (tmp_path / "pairs.csv").write_text("\n".join(["query,positive,score", *rows]) + "\n")
        with pytest.raises(UserError, match=said):
            selfsup.evaluate(run.folder, tmp_path / "pairs.csv", task="sts", quiet=True)


# Pairs with labels


def test_pairs_with_labels(run: Run, tmp_path: Path):
    found = rows_of(run, scored_pairs(tmp_path / "pairs.csv", 120), "pairs")
    compared = ("run", "untrained", "overlap", "tf-idf")
    metrics = ("average precision", "accuracy")
    assert found.keys() == {(who, metric) for who in compared for metric in metrics} | {("", "verdict")}
    assert found["run", "accuracy"]["split"] == "half by content"
    assert found["run", "average precision"]["mean"] > 0.9 and found["run", "accuracy"]["mean"] > 0.85
    assert found["run", "average precision"]["chance"] < 0.7
    fit, test = labelled_pairs(Asked(tmp_path / "pairs.csv"), None)
    assert len(fit) + len(test) == 120
    assert set(zip(fit.first, fit.second, strict=True)).isdisjoint(zip(test.first, test.second, strict=True))


def test_the_threshold_is_chosen_on_other_pairs(tmp_path: Path):
    for part, count in (("train", 30), ("valid", 20), ("test", 10)):
        scored_pairs(tmp_path / f"{part}.csv", count)
    fit, test = labelled_pairs(Asked(tmp_path), None)
    assert (fit.split, len(fit), test.split, len(test)) == ("valid", 20, "test", 10)
    (tmp_path / "test.csv").write_text("sentence1,sentence2,label\na,b,-1\nc,d,-1\n")
    fit, test = labelled_pairs(Asked(tmp_path), None)
    assert (fit.split, len(fit), test.split, len(test)) == ("train", 30, "valid", 20)


def test_labels_as_people_write_them(tmp_path: Path):
    rows = [("a", "b", True), ("c", "d", False)]
    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"query": a, "positive": b, "label": c}) for a, b, c in rows)
    )
    assert open_pairs(tmp_path / "pairs.jsonl", (), None, "label", 1)[0].numbers.tolist() == [1, 0]
    (tmp_path / "one.csv").write_text("query,positive,label\n" + "".join(f"a{n},b,1\n" for n in range(20)))
    with pytest.raises(UserError, match="all with the label 1; some of label 0 and some of 1 are needed"):
        labelled_pairs(Asked(tmp_path / "one.csv"), None)


# Retrieval


def collection(folder: Path, qrels: str | None = None, place: str = "qrels.tsv") -> Path:
    """Eight documents, of which two are empty or without a title, and three queries."""
    documents = sentences(6, 5)
    lines = [{"_id": f"d{n}", "title": "of the" if n else "", "text": text} for n, (text, _) in enumerate(documents)]
    lines += [{"_id": "d6", "title": "", "text": ""}, {"_id": "d7", "text": "the cat and the dog"}]
    queries = [{"_id": "q1", "text": "king queen"}, {"_id": "q2", "text": "cat dog"}, {"_id": 3, "text": "the mat"}]
    folder.mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n\n")
    (folder / place).parent.mkdir(exist_ok=True)
    if qrels is None:
        good = {"q1": "royal", "q2": "home"}
        rows = [f"{q}\td{n}\t{1 + n % 3}" for q, of in good.items() for n, (_, x) in enumerate(documents) if x == of]
        qrels = "\n".join(["query-id\tcorpus-id\tscore", *rows, "3\td7\t0", "q1\td6\t1", "q2\td7\t2"]) + "\n"
    (folder / place).write_text(qrels)
    return folder


def test_retrieval(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    found = rows_of(run, collection(tmp_path / "beir"), "retrieval")
    compared = ("run", "untrained", "bm25", "tf-idf")
    assert found.keys() == {(who, metric) for who in compared for metric in MEASURES} | {("", "verdict")}
    assert "1 of 8 texts are empty, kept: d6" in caplog.text
    opened = open_collection(tmp_path / "beir")
    assert opened.split == "2 queries" and opened.queries == ["king queen", "cat dog"], "one is not relevant to any"
    assert opened.documents[6] == "" and opened.documents[1].startswith("of the the ")
    encoder = run.encoder()
    near = torch.nn.functional.cosine_similarity(
        encoder.encode(opened.queries)[:, None], encoder.encode(opened.documents)[None], dim=2
    )
    relevance = torch.zeros(2, 8).double()
    relevance[opened.judged[:, 0], opened.judged[:, 1]] = opened.scores
    assert found["run", "nDCG@10"]["mean"] == pytest.approx(ndcg_score(relevance.numpy(), near.numpy(), k=10))
    assert found["run", "recall@10"]["mean"] == 1 and found["run", "recall@10"]["chance"] == 1
    assert found["bm25", "recall@10"]["mean"] < 1, "a document that shares no word is not found"
    assert found["run", "nDCG@10"]["mean"] > 0.8 and "of nDCG@10 in" in found["", "verdict"]["text"]


def test_judgements_as_beir_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q1\td0\t2.5", "q9\td0\t1", "q2\tx\t1", "q2\ty\t1", "q2\td3\t-1"]
    opened = open_collection(collection(tmp_path / "beir", "\r\n".join(rows), "qrels/test.tsv"))
    assert opened.split == "test, 1 queries" and opened.gains().tolist() == [[2.5, 1]]
    assert opened.judged.tolist() == [[0, 0], [0, 1]]
    assert opened.relevance(torch.tensor([[1, 0, 7, -1]])).tolist() == [[1, 2.5, 0, 0]]
    assert "3 of 6 judgements left out, of unknown queries (q9) and unknown documents (x, y)" in caplog.text
    bare = open_collection(collection(tmp_path / "bare", "q1\td1\t1\nq1\td1\t3\nq2\td0\t1\n"))
    assert bare.gains().tolist() == [[3], [1]] and bare.split == "2 queries", "without headings, one judged twice"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("corpus.jsonl", None, "has no corpus.jsonl; needed are"),
        ("queries.jsonl", None, "has no queries.jsonl; needed are"),
        ("qrels.tsv", None, "has no qrels.tsv and no qrels/test.tsv"),
        ("corpus.jsonl", '{"_id": "d0", "text": "a"}\n{"_id": \n', "corpus.jsonl, line 2 is no JSON"),
        ("corpus.jsonl", '{"_id": "d0", "title": "a"}\n', "line 1 has no field 'text', only: _id, title"),
        ("corpus.jsonl", '{"_id": "d0", "text": 5}\n', "line 1: 'text' has to be a text, not 5"),
        ("corpus.jsonl", '{"_id": null, "text": "a"}\n', "line 1: '_id' has to be a text or a number, not None"),
        ("corpus.jsonl", '{"_id": "d0", "text": "a"}\n' * 2, "line 2: the _id 'd0' stands for another line"),
        ("corpus.jsonl", '{"_id": "d0", "text": " "}\n', "all 1 texts are empty"),
        ("queries.jsonl", "", "queries.jsonl is empty"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\n", "has no judgements"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1 d1 1\n", "line 2: 'q1 d1 1' is no judgement"),
        ("qrels.tsv", "q1\td1\t1\nq1\td1\thigh\n", "line 2: .* the score a number"),
        ("qrels.tsv", "x\td1\t1\nq1\ty\t1\n", r"all 2 judgements are of unknown queries \(x\) and unknown"),
        ("qrels.tsv", "q1\td1\t0\n", "nothing is relevant"),
    ],
)
def test_what_is_no_collection(tmp_path: Path, file: str, content: str | None, said: str):
    folder = collection(tmp_path / "beir")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=said) as error:
        open_collection(folder)
    assert "\n" not in str(error.value)


# Clusters


def test_clusters(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [f"{text},{subject}" for text, subject in sentences(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows, ",home", "a cat,"]) + "\n")
    found = rows_of(run, tmp_path / "texts.csv", "clustering")
    assert found.keys() == {(who, "V-measure") for who in ("run", "untrained", "tf-idf")} | {("", "verdict")}
    assert found["run", "V-measure"]["mean"] > 0.9 and found["run", "V-measure"]["chance"] < 0.1
    assert "2 of 62 texts left out" in caplog.text
    texts, labels, _, split = open_classes(Asked(tmp_path / "texts.csv"), None)
    assert len(texts) == len(labels) == 60 and split == "train"


@pytest.mark.parametrize(
    ("content", "said"),
    [("text,kind\na,1\n", "no column 'label', only: text, kind; name one with --columns label=NAME"),
     ("text,label\na,1\nb,1\n", "2 texts of 1 class; texts of two classes")],
)  # fmt: skip
def test_what_cannot_be_clustered(tmp_path: Path, content: str, said: str):
    (tmp_path / "texts.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        open_classes(Asked(tmp_path / "texts.csv"), None)


# What a task takes


def test_what_a_task_does_not_take(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    pairs = scored_pairs(tmp_path / "pairs.csv")

    def refused(said: str, place: object = pairs, **more: object) -> None:
        with pytest.raises(UserError, match=said) as error:
            selfsup.evaluate(run.folder, place, quiet=True, **more)
        assert "\n" not in str(error.value)

    for task in ("sts", "pairs", "clustering", "retrieval"):
        refused("--data", None, task=task)
        refused("not take --fine-tune|nor --fine-tune", task=task, fine_tune=True)
    refused("neither --columns nor", task="retrieval", columns=("text=a",))
    refused("is unknown; did you mean 'sts'", task="stss")
    refused("with --task sts, pairs, clustering, retrieval only", words=run.folder)
    refused("with --task sts", task="words", words=run.folder)
    refused("no such run or folder", task="sts", words="nowhere")
    refused("no such folder", tmp_path / "nowhere", task="retrieval")
