"""Whether the documents that answer a query are those whose vectors lie nearest to its own (Thakur et al. 2021, BEIR).

Documents are ranked by cosine, all of them; of equal ones the one that stands first in the collection comes first.
Beside: BM25 and TF-IDF, which rank what shares a word with the query. nDCG counts graded scores as they are; for the
other measures a document with a score above 0 is relevant.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from selfsup.errors import UserError
from selfsup.eval.bm25 import bm25, ranked, tf_idf
from selfsup.eval.collection import FILES, Collection, open_collection
from selfsup.eval.result import Result, result
from selfsup.eval.text_encoders import Asked, Reads, encoded, text_encoders_of
from selfsup.eval.verdict import Gain, gains
from selfsup.ops import ranking
from selfsup.ops.topk import top_k
from selfsup.progress import Progress
from selfsup.run import Run

DEEP = 1000  # documents that are ranked, for the mean average precision too
WORDS = {"bm25": bm25, "tf-idf": tf_idf}
Scored = Callable[[Tensor, Tensor], Tensor]
Chance = Callable[[Tensor, int], Tensor]
MEASURES: dict[str, tuple[Scored, Chance]] = {
    "nDCG@10": (
        lambda found, judged: ranking.ndcg(found, judged, 10),
        lambda judged, n: ranking.ndcg_by_chance(judged, n, 10),
    ),
    "MRR@10": (
        lambda found, _: ranking.reciprocal_rank(found, 10),
        lambda judged, n: ranking.reciprocal_rank_by_chance(judged, n, 10),
    ),
    "recall@10": (
        lambda found, judged: ranking.recall(found, judged, 10),
        lambda judged, n: ranking.recall_by_chance(judged, n, 10),
    ),
    "recall@100": (
        lambda found, judged: ranking.recall(found, judged, 100),
        lambda judged, n: ranking.recall_by_chance(judged, n, 100),
    ),
    f"MAP@{DEEP}": (
        lambda found, judged: ranking.average_precision(found, judged, DEEP),
        lambda judged, n: ranking.average_precision_by_chance(judged, n, DEEP),
    ),
}
MAIN = "nDCG@10"


def nearest(encoder: Reads, collection: Collection, who: str, progress: Progress) -> Tensor:
    """(Q, k) int64: the documents by rank, of the highest cosine with each query."""
    queries = F.normalize(encoded(encoder, collection.queries, "query", who, progress), dim=1)
    documents = F.normalize(encoded(encoder, collection.documents, "document", who, progress), dim=1)
    return top_k(queries, documents, DEEP)[1]


def evaluate_retrieval(run: Run, asked: Asked, progress: Progress) -> tuple[list[Result], list[Gain]]:
    """A collection searched by the run, its untrained network, and words.

    Args:
        run: of a text objective.
        asked: `data` is a folder; see `open_collection`.
        progress: shows the work.

    Raises:
        UserError: no such folder, or a run that does not read text.
    """
    if not isinstance(asked.data, str | os.PathLike):
        raise UserError(f"--task retrieval needs --data: a folder with {FILES}")
    encoders = text_encoders_of(run, asked.words, "retrieval")
    collection = open_collection(Path(asked.data))
    gains_of, count = collection.gains(), len(collection.documents)
    chances = {metric: float(chance(gains_of, count).mean()) for metric, (_, chance) in MEASURES.items()}
    found, main = [], {}
    for who in (*encoders, *WORDS):
        if who in encoders:
            order = nearest(encoders[who], collection, who, progress)
        else:
            progress.part(f"{who}: documents", 0, count)
            order = ranked(*WORDS[who](collection.documents, collection.queries), DEEP)
        relevance = collection.relevance(order)
        for metric, (measure, _) in MEASURES.items():
            scores = measure(relevance, gains_of)  # (Q,)
            line = result(run, "retrieval", who, metric, float(scores.mean()), chances[metric], collection.name,
                          collection.split)  # fmt: skip
            found.append(line)
            if metric == MAIN:
                main[who] = scores[None]
    progress.part("retrieval", len(encoders), len(encoders))
    return found, gains({f"of {MAIN} in {collection.name}": main})
