"""FAISS behind the index: the same cosines as exact search, and a recall that is what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from selfsup.errors import UserError
from selfsup.ops.inner_products import inner_products
from selfsup.progress import Progress
from selfsup.search import faiss_index
from selfsup.search.faiss_index import Finder, Quality, quality_of
from selfsup.search.index import Index
from selfsup.search.query import nearest_rows, search
from text_pairs import WORDS, random_encoder

WIDTH = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A folder with a graph, and 3,000 vectors in 30 clusters, mapped into memory."""
    pytest.importorskip("faiss")
    chance = np.random.default_rng(0)
    found = chance.standard_normal((30, WIDTH))[np.arange(3000) % 30] + 0.5 * chance.standard_normal((3000, WIDTH))
    folder = tmp_path_factory.mktemp("graph")
    found = F.normalize(torch.from_numpy(found).float(), dim=1).numpy()
    found[7:100:30] = found[7]  # equal ones
    found.tofile(folder / "vectors")
    vectors = np.memmap(folder / "vectors", np.float32, "c", shape=found.shape)
    faiss_index.build(folder, vectors, Progress(False))
    return folder, vectors


def exact(vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray) -> np.ndarray:
    return np.sort((vectors @ query)[allowed])[::-1][:k]


@given(st.integers(1, 9000), st.floats(0, 1), st.integers(0, 9))
def test_inner_products_are_those_of_a_matrix_product(count: int, share: float, seed: int) -> None:
    chance = np.random.default_rng(seed)
    keys, query = chance.standard_normal((count, 5), np.float32), chance.standard_normal(5, np.float32)
    allowed = chance.random(count) < share
    assert np.allclose(inner_products(keys, query, np.ones(count, bool)), keys @ query, atol=1e-5)
    found = inner_products(keys, query, allowed)
    assert np.allclose(found[allowed], (keys @ query)[allowed], atol=1e-5) and (found[~allowed] == -np.inf).all()


def test_flat_is_exact_and_copies_nothing(place: tuple[Path, np.ndarray]) -> None:
    _, vectors = place
    finder, every = Finder.flat(vectors), np.ones(3000, bool)
    assert not finder.index.codes.is_owned
    for row in (0, 7, 2999):
        values, _ = finder.nearest(vectors[row], 20, every)
        assert np.allclose(values, exact(vectors, vectors[row], 20, every), atol=1e-6)
    assert len(finder.nearest(vectors[0], 5000, every)[0]) == 3000


@pytest.mark.parametrize("what", ["all", "most", "other clusters", "few"])
def test_a_graph_finds_what_it_says(place: tuple[Path, np.ndarray], what: str) -> None:
    """Also where a whole cluster is left out around the query."""
    folder, vectors = place
    quality, finder, row = quality_of(folder), Finder.graph(folder, vectors), np.arange(3000)
    assert not finder.below[0].index.codes.is_owned and (folder / "graph").stat().st_size < 3000 * (WIDTH * 4 + 250)
    assert quality.recall >= faiss_index.ENOUGH and finder.effort == quality.effort
    kept = {"all": row >= 0, "most": row % 7 > 2, "other clusters": row % 30 > 2, "few": row % 30 == 1}[what]
    right, asked = 0, 0
    for query in vectors[:3000:50]:
        found = finder.nearest(query, 10, kept)
        if found is not None:
            values, rows = found
            assert kept[rows].all() and np.allclose(values, vectors[rows] @ query, atol=1e-6)
            right, asked = right + (values >= exact(vectors, query, 10, kept)[-1] - 1e-6).sum(), asked + 10
    assert asked == 600 if what != "few" else asked == 0  # then all are looked at
    assert right >= (quality.recall - 0.03) * asked
    assert len(finder.nearest(vectors[0], 200, np.ones(3000, bool))[0]) == 200  # more than efSearch


def test_recall_counts_what_is_missed(place: tuple[Path, np.ndarray], monkeypatch) -> None:
    """Of an index that answers every question with the row itself and the nine nearest others."""
    _, vectors = place

    class Lazy:
        def search(self, queries: np.ndarray, k: int, params: object) -> tuple[np.ndarray, np.ndarray]:
            values, rows = Finder.flat(vectors).index.search(queries, k)
            values[:, 10:], rows[:, 10:] = -np.inf, -1
            return values, rows

    quality = faiss_index.measured(Lazy(), vectors)
    assert quality == Quality(pytest.approx(0.9, abs=0.01), 1024)  # equal rows take the place of the row itself
    assert faiss_index.measured(Finder.flat(vectors).index, vectors) == Quality(1.0, 16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return random_encoder(tmp_path_factory.mktemp("encoder"))


def test_an_index_of_each_kind_answers_alike(encoder: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(faiss_index, "LEAST", 100)
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(WORDS, 12)) for _ in range(360)]
    rows = Dataset.from_dict({"id": [str(n) for n in range(360)], "text": texts, "year": list(range(360))})
    found = {}
    for kind in ("exact", "flat", "hnsw"):
        index, made = Index.build(encoder, rows.select(range(300)), tmp_path / kind, kind=kind, quiet=True)
        assert index.contents.about["index"] == kind and (made.quality is None) == (kind != "hnsw")
        assert index.add(rows.select(range(300, 360)), quiet=True).quality is None  # too few for a graph
        index.remove(["3", "5"])
        index = Index.load(tmp_path / kind)
        assert [one.finder is None for one in index.segments] == {
            "exact": [True, True], "flat": [False, False], "hnsw": [False, True]
        }[kind]  # fmt: skip
        found[kind] = [
            [(hit.id, round(hit.score, 4)) for hit in search(index, asked, 9, "dense", where)]
            for asked in WORDS[:5]
            for where in ([], ["year>=20"], ["year<9"])
        ]
    assert found["exact"] == found["flat"] == found["hnsw"]
    assert index.remove([str(n) for n in range(100, 300)]).quality is not None  # a new graph of 158 rows
    vector, there = torch.from_numpy(np.array(index.segments[0].vectors[0])), [one.there for one in index.segments]
    assert nearest_rows(index, vector, there, 1)[0][0] == (0, 0)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="need FAISS"):
        Index.load(tmp_path / "flat")


def test_without_faiss_a_line_says_what_to_type(encoder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'selfsup\[faiss\]'"):
        Index.build(encoder, ["a text"], tmp_path / "index", kind="hnsw", quiet=True)
    assert not (tmp_path / "index").exists()
