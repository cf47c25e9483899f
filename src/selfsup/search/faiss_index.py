"""FAISS over the vectors of a segment, which stay in their file: exact, or by a graph of near neighbors (HNSW).

Malkov and Yashunin 2018, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
World graphs"; Douze et al. 2024, "The Faiss library".
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from selfsup.errors import UserError
from selfsup.ops.topk import top_k
from selfsup.progress import Progress

Kind = Literal["exact", "flat", "hnsw"]
GRAPH, QUALITY = "graph", "graph.json"
LEAST = 1000  # rows from which on a segment has a graph; of fewer an exact search takes no longer
LINKS = 32  # M: neighbors of a row in the upper layers, twice as many in the lowest
BREADTH = 40  # efConstruction: rows that are looked at to find these
EFFORTS = (16, 32, 64, 128, 256, 512, 1024)  # efSearch that are tried: rows that are looked at to answer
ENOUGH = 0.95  # recall
NEAR = 10  # rows of each answer that recall is about
QUERIES = 256
MARGIN = 2  # times as many rows as asked for are looked at in a graph: of the last of them it misses more
MOST = 4096  # rows that are asked of a graph before an exact search is taken
ROUNDING = 1e-6  # by which the same cosine, summed in another order, may differ
BLOCK = 8192  # rows that go into a graph between two lines of progress


def faiss_module() -> ModuleType:
    """The module `faiss`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError("--index flat and hnsw need FAISS, which is not here; pip install 'selfsup[faiss]'") from error
    return faiss


@dataclass(frozen=True)
class Quality:
    """How well a graph answers.

    Attributes:
        recall: share of the ten nearest rows that are found.
        effort: efSearch with which it was measured, and which is used.
    """

    recall: float
    effort: int

    def __str__(self) -> str:
        return f"recall@10 {self.recall:.2f} at efSearch {self.effort}"


@dataclass(frozen=True)
class Finder:
    """What finds the rows near a vector.

    Attributes:
        index: of FAISS.
        effort: efSearch; None for an exact search.
        below: what `index` looks into and does not keep alive by itself.
    """

    index: Any
    effort: int | None
    below: tuple[Any, ...]

    @classmethod
    def flat(cls, vectors: np.ndarray) -> Finder:
        """An exact search of (N, D) float32 vectors of length 1, of which no copy is made."""
        faiss = faiss_module()
        index = faiss.IndexFlatIP(vectors.shape[1])
        # The index that has none yet has no owner of its vectors either, and a view wants to be told of one.
        index.codes = faiss.MaybeOwnedVectorUInt8.create_view(
            faiss.swig_ptr(vectors.view(np.uint8).reshape(-1)), vectors.nbytes, index.codes.owner
        )
        index.ntotal = len(vectors)
        return cls(index, None, (vectors,))

    @classmethod
    def graph(cls, folder: Path, vectors: np.ndarray) -> Finder:
        """The graph that `build` wrote, mapped into memory, over its vectors."""
        faiss = faiss_module()
        flat = cls.flat(vectors)
        index = faiss.read_index(str(folder / GRAPH), faiss.IO_FLAG_SKIP_STORAGE | faiss.IO_FLAG_MMAP_IFC)
        index.storage, index.own_fields = flat.index, False
        return cls(index, quality_of(folder).effort, (flat,))

    @classmethod
    def of(cls, kind: Kind, folder: Path, vectors: np.ndarray) -> Finder | None:
        """That of a segment; None where it is searched exactly, without FAISS."""
        if kind == "flat":
            return cls.flat(vectors)
        return cls.graph(folder, vectors) if kind == "hnsw" and (folder / GRAPH).exists() else None

    def nearest(self, vector: np.ndarray, k: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The k rows with the largest cosines, largest first; None where an exact search has to find them.

        FAISS can leave out rows on its way through a graph, but then ends where it began when none of those near the
        query counts: of ten nearest rows, two were found. So more rows are asked for until enough of them count.

        Args:
            vector: (D,) float32 of length 1.
            k: how many.
            allowed: (N,) bool, the rows that count.

        Returns:
            Cosines (k,) float32 and rows (k,) int64; all rows that count where these are fewer than k.
        """
        count, rows = int(np.count_nonzero(allowed)), len(allowed)
        if count == rows:
            values, found = self._search(vector, min(k, rows))
            return (values, found) if len(found) == min(k, rows) else None
        asked = int(MARGIN * k * rows / max(count, 1))
        while self.effort is not None and 2 * count >= rows and asked <= min(MOST, rows // 4):
            values, found = self._search(vector, asked)
            kept = allowed[found]
            if np.count_nonzero(kept) >= k:
                return values[kept][:k], found[kept][:k]
            asked *= 4
        return None

    def _search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of all rows; a graph of which parts hang together may give fewer."""
        faiss = faiss_module()
        settings = None
        if self.effort is not None:
            settings = faiss.SearchParametersHNSW(efSearch=max(self.effort, int(MARGIN * k)))
        values, rows = self.index.search(vector[None], k, params=settings)
        found = rows[0] >= 0
        return values[0][found], rows[0][found]


def quality_of(folder: Path) -> Quality:
    """What `build` measured."""
    return Quality(**json.loads((folder / QUALITY).read_text(encoding="utf-8")))


def build(folder: Path, vectors: np.ndarray, progress: Progress) -> Quality:
    """Write the graph of a segment beside its vectors, and how well it answers.

    While it grows, FAISS holds a copy of the vectors in memory; none is written.

    Args:
        folder: of the segment.
        vectors: (N, D) float32 of length 1.
        progress: is told how far it is.
    """
    faiss = faiss_module()
    index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BREADTH
    for start in range(0, len(vectors), BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
        progress.part("graph", index.ntotal, len(vectors))
    faiss.serialize_index(index, faiss.IO_FLAG_SKIP_STORAGE).tofile(folder / GRAPH)
    found = measured(index, vectors)
    (folder / QUALITY).write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found


def measured(index: Any, vectors: np.ndarray) -> Quality:  # noqa: ANN401 - of FAISS
    """Recall of a graph with the least effort that is enough, or the largest, over some of its own rows.

    A row is not counted among its own neighbors. Of rows that lie equally near any is right.
    """
    faiss = faiss_module()
    own = np.unique(np.linspace(0, len(vectors) - 1, QUERIES).astype(np.int64))
    queries = np.ascontiguousarray(vectors[own])
    exact, _ = top_k(torch.from_numpy(queries), torch.from_numpy(np.asarray(vectors)), NEAR + 1)
    last = exact[:, -1:].numpy() - ROUNDING  # the row itself is one of the eleven, so this is the tenth of the others
    found = Quality(0.0, EFFORTS[0])
    for effort in EFFORTS:
        values, rows = index.search(queries, NEAR + 1, params=faiss.SearchParametersHNSW(efSearch=effort))
        right = (values >= last) & (rows != own[:, None]) & (rows >= 0)
        found = Quality(round(float(right.sum(1).clip(max=NEAR).mean()) / NEAR, 4), effort)
        if found.recall >= ENOUGH:
            break
    return found
