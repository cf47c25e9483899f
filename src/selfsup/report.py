"""The pictures in a run's folder: loss curve, sheet of views, nearest neighbors, map of the embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfsup.data.captions import CaptionStore
from selfsup.data.draw import Draw
from selfsup.data.pixels import PixelStore
from selfsup.data.reader import Reader
from selfsup.encoder import evaluating
from selfsup.image_encoder import ImageEncoder
from selfsup.objective import Objective
from selfsup.ops.topk import top_k
from selfsup.pictures import Picture, neighbors, sheet
from selfsup.plots import embedding_map, loss_curve, map_points, similarity_matrix
from selfsup.predictors.pair import Pair
from selfsup.run import Run, writing

SHEET = 8  # pictures on a sheet of views
QUERIES, FOUND = 8, 6  # rows and columns of the nearest neighbors
PAIRS = 12  # in the matrix of pictures and captions
POINTS = 1000  # pictures on the map: t-SNE takes four seconds for them
FEW = 50  # held-out pictures below which training pictures are shown


def _channels_last(image: Tensor) -> np.ndarray:
    return image.clamp(0, 1).permute(1, 2, 0).numpy()


def draw_losses(run: Run) -> None:
    """`pictures/loss.png`: training and held-out loss against the loss of knowing nothing."""
    training, held_out = run.lines("metrics.jsonl"), run.lines("evals.jsonl")
    held_out = [line for line in held_out if line["task"] == "pretext"]
    series = {
        name: (np.array([line["step"] for line in lines]), np.array([line[key] for line in lines]))
        for name, lines, key in (("training", training, "loss"), ("held-out", held_out, "mean"))
        if lines
    }
    loss_curve(run.folder / "pictures" / "loss.png", series, training[-1]["trivial"] if training else None)


def draw_views(run: Run, objective: Objective, reader: Reader) -> None:
    """`pictures/views.png`: what the network is shown of a few examples."""
    rows = torch.from_numpy(np.unique(np.linspace(0, len(reader) - 1, SHEET).astype(np.int64)))
    draw = Draw(run.recipe.seed, -1, rows)
    device = next(objective.parameters()).device
    batch = {name: value.to(device) for name, value in reader.gather(draw).items()}
    with evaluating(objective):
        shown = objective.pictures(batch, draw.to(device))
    if shown:
        pages = [[Picture(_channels_last(images[i]), name) for name, images in shown.items()] for i in range(len(rows))]
        sheet(run.folder / "pictures" / "views.png", pages, f"{run.recipe.objective}: what the network is shown")


def draw_embeddings(run: Run, encoder: ImageEncoder, store: PixelStore) -> None:
    """`pictures/neighbors.png` and `pictures/map.png`: pictures as the encoder sees them."""
    some = store.subset(np.unique(np.linspace(0, len(store) - 1, min(POINTS, len(store))).astype(np.int64)))
    features = torch.nn.functional.normalize(encoder.encode(some), dim=1)
    queries = np.unique(np.linspace(0, len(some) - 1, QUERIES).astype(np.int64))
    score, found = top_k(features[queries], features, min(FOUND + 1, len(some)))
    shown = [Picture(picture) for picture in some.pixels(queries)]
    near = []
    for query, scores, rows in zip(queries, score.tolist(), found.tolist(), strict=True):
        others = [(s, row) for s, row in zip(scores, rows, strict=True) if row != query][:FOUND]
        near.append([Picture(some.pixels([row])[0], f"{s:.2f}") for s, row in others])
    neighbors(run.folder / "pictures" / "neighbors.png", shown, near, "Nearest pictures")
    labels = some.label_rows() if some.classes else None
    embedding_map(
        run.folder / "pictures" / "map.png", map_points(features, run.recipe.seed), labels, list(some.classes) or None
    )


def draw_pairs(run: Run, pair: Pair, store: CaptionStore) -> None:
    """`pictures/similarity.png` and `pictures/captions.png`: pictures and captions in their common space."""
    distinct = np.sort(np.unique(store.pictures.digests[store.pictures.rows], return_index=True)[1])
    rows = distinct[np.unique(np.linspace(0, len(distinct) - 1, min(POINTS, len(distinct))).astype(np.int64))]
    captions, sides = store.captions(), pair.sides()
    texts = [captions[row][0] for row in rows]
    some = store.pictures.subset(rows)
    seen, told = sides["image"].encode(some), sides["text"].encode(texts)
    few = np.unique(np.linspace(0, len(rows) - 1, PAIRS).astype(np.int64))
    shown = [Picture(some.pixels([row])[0], texts[row]) for row in few]
    where = run.folder / "pictures"
    similarity_matrix(where / "similarity.png", shown, (seen[few] @ told[few].T).numpy(), "Pictures and captions")
    queries = few[:: max(len(few) // QUERIES, 1)][:QUERIES]
    score, found = top_k(told[queries], seen, min(FOUND, len(rows)))
    near = [
        [Picture(some.pixels([row])[0], f"{s:.2f}") for s, row in zip(scores, places, strict=True)]
        for scores, places in zip(score.tolist(), found.tolist(), strict=True)
    ]
    asked = [Picture(some.pixels([row])[0], texts[row]) for row in queries]
    neighbors(where / "captions.png", asked, near, "Captions with their own picture, and the pictures found for them")


def report(run: Run, objective: Objective, reader: Reader, store: object) -> None:
    """Draw all pictures that suit the run.

    Args:
        run: the finished run.
        objective: its live module.
        reader: held-out rows, or training rows where nothing is held out.
        store: what the reader reads.
    """
    with writing(run.folder / "pictures"):
        (run.folder / "pictures").mkdir(exist_ok=True)
        draw_losses(run)
        draw_views(run, objective, reader)
        encoder = next(iter(objective.encoders().values()))
        pictures = store.pictures if isinstance(store, CaptionStore) else store
        if isinstance(encoder, ImageEncoder) and isinstance(pictures, PixelStore) and len(pictures) > QUERIES:
            draw_embeddings(run, encoder, pictures)
        for predictor in objective.predictors():
            if isinstance(predictor, Pair) and isinstance(store, CaptionStore) and len(store) > QUERIES:
                draw_pairs(run, predictor, store)
