"""The index: the same answers as counted anew, whatever was added, removed, or killed on the way."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selfsup.errors import UserError
from selfsup.eval.bm25 import bm25
from selfsup.image_encoder import ImageEncoder
from selfsup.run import held
from selfsup.search import faiss_index, shelf
from selfsup.search.hits import Hit
from selfsup.search.index import Index
from selfsup.search.passages import Cut
from selfsup.search.postings import Postings
from selfsup.search.query import search, similar
from selfsup.search.ranking import fused
from selfsup.search.words import Counted, Words, scores
from selfsup.text_encoder import TextEncoder
from text_pairs import WORDS, random_encoder

TEXTS = [
    "the sea at night",
    "rain on the hill",
    "the road by the sea, the sea",
    "a hill",
    "...",
    "wind and rain and sea",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return random_encoder(tmp_path_factory.mktemp("encoder"))


def words_in(texts: list[str]) -> Counted:
    """Of passages that have nothing in common."""
    return Counted(Words.of(texts, [""] * len(texts)), np.ones(len(texts), bool), None)


def books(first: int, last: int, turn: int = 0) -> Dataset:
    """Documents of one to four passages; another `turn`, other words."""
    chance = np.random.default_rng([first, last, turn])
    texts = [" ".join(chance.choice(WORDS, 5 + 20 * (number % 4))) for number in range(first, last)]
    rows = range(first, last)
    return Dataset.from_dict({"id": [f"book {n}" for n in rows], "text": texts, "year": [1900 + n for n in rows]})


def answers(index: Index) -> list[list[Hit]]:
    return [search(index, asked, 4, method) for asked in ("sunrise seafall", WORDS[5]) for method in ("dense", "words")]


def close(first: list[list[Hit]], second: list[list[Hit]]) -> bool:
    """Whether two sets of answers name the same documents and passages with the same scores."""
    flat = [[(hit.id, hit.text, hit.start, hit.about) for hits in each for hit in hits] for each in (first, second)]
    values = [[hit.score for hits in each for hit in hits] for each in (first, second)]
    return flat[0] == flat[1] and np.allclose(*values, atol=1e-5)


def test_words_are_scored_as_by_the_baseline_whatever_the_segments() -> None:
    asked, documents = bm25(TEXTS, ["the sea", "hill hill rain", "nothing here"])
    expected = (asked @ documents.T).toarray()
    for cut in (0, 2, 5):
        parts = [words_in(texts) for texts in (TEXTS[:cut], TEXTS[cut:]) if texts]
        for row, query in enumerate(["the sea", "hill hill rain", "nothing here"]):
            assert np.allclose(np.concatenate(scores(parts, query)), expected[row])


def test_words_of_documents_count_once_in_what_two_passages_share() -> None:
    passages = ["the sea at", "sea at night", "rain on the", "hill", "and", "rain"]
    overlaps = ["", "sea at", "", "", "", ""]
    documents = np.array([0, 0, 1, 1, 2, 2])
    words = Words.of(passages, overlaps)
    query = "the sea rain at rain"
    for gone in ([], [2, 3]):
        there = ~np.isin(np.arange(6), gone)
        whole = [
            text for row, text in enumerate(["the sea at night", "rain on the hill", "and rain"]) if 2 * row not in gone
        ]
        found = scores([Counted(words, there, documents)], query)[0]
        expected = scores([words_in(whole)], query)[0]
        assert np.allclose(found[found > 0], expected) and (found > 0).sum() == len(whole)


def test_words_that_were_removed_do_not_count() -> None:
    kept = [0, 2, 3]
    there = np.isin(np.arange(len(TEXTS)), kept)
    alone = scores([words_in([TEXTS[row] for row in kept])], "sea hill")[0]
    found = scores([Counted(words_in(TEXTS).words, there, None)], "sea hill")[0]
    assert np.allclose(found[kept], alone) and (found[~there] == 0).all()


def test_postings_come_back_from_their_files(tmp_path: Path) -> None:
    for number, texts in enumerate((TEXTS, ["...", ""])):
        whole = Postings.of(texts)
        whole.save(tmp_path / str(number))
        read = Postings.load(tmp_path / str(number))
        assert all(np.array_equal(one, other) for one, other in zip(whole.arrays(), read.arrays(), strict=True))


@given(st.text("ab c\n", max_size=60), st.integers(1, 9), st.integers(0, 8))
def test_passages_cover_a_text(text: str, size: int, overlap: int) -> None:
    tokens = [(place, place + 1) for place in range(len(text))]
    spans = Cut(size, min(overlap, size - 1)).passages(text, tokens)
    covered = {place for start, stop in spans for place in range(start, stop)}
    assert {place for place, letter in enumerate(text) if not letter.isspace()} <= covered
    assert all(0 < stop - start <= size and text[start:stop] == text[start:stop].strip() for start, stop in spans)
    assert [start for start, _ in spans] == sorted({start for start, _ in spans})


def test_ranks_are_fused_by_hand() -> None:
    first, second = [((0, 1), 9.0), ((0, 2), 8.0)], [((0, 2), 0.3)]
    assert fused([first, second], [1, 1]) == [((0, 2), 1 / 62 + 1 / 61), ((0, 1), 1 / 61)]
    assert fused([first, second], [1, 0.5]) == [((0, 2), 1 / 62 + 0.5 / 61), ((0, 1), 1 / 61)]
    as_one = fused([first, second], [1, 1], lambda _: (0, 0))  # a document of both rows, best by the first
    assert as_one == [((0, 1), 1 / 61 + 1 / 61)]


def test_changes_add_up_to_the_index_of_what_is_left(encoder: Path, tmp_path: Path) -> None:
    index, made = Index.build(encoder, books(0, 12), tmp_path / "index", passage=16, overlap=4, quiet=True)
    assert (made.added, made.passages) == (12, len(index)) and len(index) > 12
    again = index.add(books(0, 12), quiet=True)
    assert (again.added, again.renewed, again.kept, again.passages) == (0, 0, 12, 0)
    index.add(books(12, 20), quiet=True)
    assert index.add(books(4, 8, turn=1), quiet=True).renewed == 4
    index.remove(["book 0", "book 13"])
    rows = [*books(0, 12).select([0, 1, 2, 3, 8, 9, 10, 11]), *books(12, 20), *books(4, 8, turn=1)]
    left = [row for row in rows if row["id"] not in ("book 0", "book 13")]
    anew, _ = Index.build(encoder, Dataset.from_list(left), tmp_path / "anew", passage=16, overlap=4, quiet=True)
    assert close(answers(index), answers(anew)) and len(index) == len(anew)
    assert close(answers(Index.load(tmp_path / "index")), answers(anew))
    index.save(tmp_path / "copy")
    assert close(answers(Index.load(tmp_path / "copy")), answers(anew))


def test_conditions_leave_out_what_does_not_fulfil_them(encoder: Path, tmp_path: Path) -> None:
    index, _ = Index.build(encoder, books(0, 12), tmp_path / "index", quiet=True)
    for method in ("dense", "words", "hybrid"):
        found = search(index, WORDS[3], 12, method, ["year>=1905", "year!=1907"])
        years = {hit.about["year"] for hit in found}
        assert years <= {1905, 1906, 1908, 1909, 1910, 1911} and (method == "words" or len(years) == 6)
    assert [hit.id for hit in search(index, WORDS[3], 5, "dense", ["id=book 3"])] == ["book 3"]
    for wrong, said in (("yeer=1", "year"), ("year", "COLUMN=VALUE"), ("year>old", "int64")):
        with pytest.raises(UserError, match=said):
            search(index, "sunrise", where=[wrong])


def test_what_is_liked_is_near_and_left_out(encoder: Path, tmp_path: Path) -> None:
    twin = Dataset.from_dict({"id": ["a", "b", "c"], "text": ["sunrise seafall", "sunrise seafall", "hillway"]})
    index, _ = Index.build(encoder, twin, tmp_path / "index", quiet=True)
    assert [hit.id for hit in similar(index, ["a"])] == ["b", "c"]
    assert similar(index, ["a"])[0].score == pytest.approx(1, abs=1e-5)
    assert [hit.id for hit in similar(index, ["a", "c"])] == ["b"]
    with pytest.raises(UserError, match="no document 'd'"):
        similar(index, ["d"])


def test_pictures_are_found_by_pictures(tmp_path: Path, cache) -> None:
    torch.manual_seed(0)
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
    ImageEncoder.create("vit_tiny_patch16_224", size, 16, (0.5,) * 3, (0.2,) * 3).save(tmp_path / "encoder")
    (tmp_path / "photos").mkdir()
    chance = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(chance.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "d.png").write_bytes(b"no picture")
    index, made = Index.build(tmp_path / "encoder", tmp_path / "photos", tmp_path / "index", quiet=True)
    assert made.added == len(index) == 3 and [name for name, _ in made.bad] == ["d.png"]
    for hit in (
        search(index, tmp_path / "photos" / "b.png")[0],
        search(Index.load(tmp_path / "index"), Image.open(tmp_path / "photos" / "b.png"))[0],
    ):
        assert (hit.id, hit.text, hit.state) == ("b.png", None, "same") and hit.score == pytest.approx(1, abs=1e-4)
    for asked, method, said in (
        (tmp_path / "photos" / "d.png", None, "no picture that can be read"), ("a tree", None, "no such picture"),
        (tmp_path / "photos" / "b.png", "words", "have no words"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            search(index, asked, method=method)


def test_files_that_changed_are_named_and_renewed(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("one", "two", "three"):
        (folder / f"{name}.txt").write_text(f"{name} sunrise")
    index, _ = Index.build(encoder, folder, tmp_path / "index", quiet=True)
    assert {hit.id: hit.state for hit in search(index, "sunrise")} == {
        f"{n}.txt": "same" for n in ("one", "two", "three")
    }
    (folder / "one.txt").write_text("one seafall and more")
    (folder / "two.txt").unlink()
    states = {hit.id: hit.state for hit in search(index, "sunrise")}
    assert states == {"one.txt": "changed", "two.txt": "gone", "three.txt": "same"}
    change = index.add(folder, quiet=True)
    assert (change.renewed, change.kept, change.added) == (1, 1, 0)
    assert search(index, "seafall", 1, "words")[0].id == "one.txt"
    assert search(index, str(folder / "one.txt"), 1, "words")[0].id == "one.txt"  # a file asks with its text


def test_mistakes_are_said_in_a_line(encoder: Path, tmp_path: Path) -> None:
    data, place = books(0, 3), tmp_path / "index"
    index, _ = Index.build(encoder, data, place, quiet=True)
    with pytest.raises(UserError, match="is an index already"):
        Index.build(encoder, data, place, quiet=True)
    with pytest.raises(UserError, match="is empty"):
        search(index, "  ")
    with pytest.raises(UserError, match="no document 'x'; nothing was removed"):
        index.remove(["book 1", "x"])
    assert len(Index.load(place)) == len(index)
    with pytest.raises(UserError, match="stands twice"):
        index.add(Dataset.from_dict({"id": ["a", "a"], "text": ["x", "y"]}), quiet=True)
    with pytest.raises(UserError, match="give that or fewer"):
        Index.build(encoder, data, tmp_path / "long", passage=999, quiet=True)
    with pytest.raises(UserError, match="nothing could be indexed; 0: empty"):
        Index.build(encoder, Dataset.from_dict({"text": [" ", ""]}), tmp_path / "nothing", quiet=True)
    other = tmp_path / "other"
    TextEncoder.load(encoder).fresh(1).save(other)
    with pytest.raises(UserError, match=f"built with {encoder}.*{other}"):
        Index.load(place, other)
    with held(place), pytest.raises(UserError, match="another process"):
        index.remove(["book 1"])


def _dies(work: Callable[[], object], step: int) -> None:
    """Do some work in a process that is killed at its `step`-th touch of the disk."""
    count = 0

    def touch(original: Callable) -> Callable:
        def counted(*arguments: object) -> object:
            nonlocal count
            if count == step:
                os._exit(9)
            count += 1
            return original(*arguments)

        return counted

    shelf.sync, os.replace, shutil.rmtree = touch(shelf.sync), touch(os.replace), touch(shutil.rmtree)
    work()
    os._exit(0)


@pytest.mark.parametrize("change", ["build", "add", "remove"])
def test_killed_at_any_moment_it_answers_as_before_or_after(
    encoder: Path, tmp_path: Path, change: str, monkeypatch
) -> None:
    """An addition merges two segments, a removal writes one anew, and both have graphs where FAISS is there."""
    monkeypatch.setattr(faiss_index, "LEAST", 4)
    kind, start = "hnsw" if find_spec("faiss") else "exact", tmp_path / "start"
    Index.build(encoder, books(0, 24), start, kind=kind, quiet=True)[0].add(books(24, 28), quiet=True)
    work = {
        "build": lambda place: Index.build(encoder, books(0, 4), place, kind=kind, quiet=True),
        "add": lambda place: Index.load(place).add(books(26, 32, turn=1), quiet=True),
        "remove": lambda place: Index.load(place).remove([f"book {n}" for n in (3, 25, 26, 27)]),
    }[change]
    before = None if change == "build" else answers(Index.load(start))
    done = tmp_path / "done"
    if change != "build":
        shutil.copytree(start, done)
    work(done)
    after = answers(Index.load(done))
    if change != "build":
        names = [[one.name for one in Index.load(place).contents.segments] for place in (start, done)]
        assert names[0][0] == names[1][0] and names[0][1] != names[1][1] and len(names[1]) == 2
    ended, found = set(), []
    for step in range(100):
        place = tmp_path / f"{step}"
        if change != "build":
            shutil.copytree(start, place)
        process = multiprocessing.get_context("fork").Process(target=_dies, args=(lambda p=place: work(p), step))
        process.start()
        process.join(60)
        ended.add(process.exitcode)
        if before is None and not (place / shelf.CONTENTS).exists():
            with pytest.raises(UserError, match="is no index"):
                Index.load(place)
        else:
            found = answers(Index.load(place))
            assert close(found, after) or (before is not None and close(found, before))
        if process.exitcode == 0:
            break
        built = change == "build" and (place / shelf.CONTENTS).exists()
        again = step % 3 == 0 and not built  # each would take longer than it tells
        if again and not (change == "remove" and close(found, after)):
            work(place)  # what was left is no hindrance
            assert close(answers(Index.load(place)), after)
        shutil.rmtree(place)
    assert ended == {0, 9}
