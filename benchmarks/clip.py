"""CLIP from a folder of pictures with captions, end to end, beside open_clip: same towers, first weights, batch, steps.

    python benchmarks/clip.py [--quick] [--data FOLDER] [--what speed memory] [--size nano] [--seed 0]

`speed`: batches of 256 in float32 and in bfloat16. open_clip reads the files, or pictures decoded beforehand, with 0, 1
or 2 loader processes, whichever is fastest for it; the bare step is its own on one batch that stays where it is.
Quality is the share of held-out pictures and captions that find each other among the first 1 and 10 after all steps.
`memory`: batches of 4,096 in chunks of 128 beside open_clip's `--accum-freq 16`, and what processes of their own need
for these and for a batch of 256, always of the letters of `sample:glyphs`, which `speed` has too without --data: a
folder with `train` and `test`, each with `metadata.jsonl` (file_name, and text or texts). See `beside_open_clip.py`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from beside_lightly import finished
from beside_open_clip import METADATA, OpenClip
from PIL import Image
from side_by_side import Side, arguments, highest, in_turn, publish, say
from torch import Tensor

import selfsup
from selfsup.construct import construct
from selfsup.data.captions import CaptionStore
from selfsup.data.samples import load_sample
from selfsup.eval.captions import Links, found_at
from selfsup.loop import Training
from selfsup.objective import load_objective
from selfsup.ops.contrastive import BLOCK
from selfsup.planning import make_plan
from selfsup.prepare import Prepared, prepare
from selfsup.progress import Progress
from selfsup.resolve import resolve
from selfsup.runtime import Runtime

BATCH, LARGE = 256, 4096
DEPTHS = (1, 10)
PLAIN = {"network": "vit_tiny_patch16_224", "patch": 16}  # chunks do not go with batch norm; few patches make it fast
DIFFERS = {
    "network": "none; open_clip cannot pass arguments on to timm, so that its trunk is replaced by selfsup's own",
    "text": "selfsup passes captions of about equal length together, open_clip pads all to the longest of the data",
    "loss": "selfsup spreads the target over rows of equal picture or caption, to open_clip these are negatives",
    "crops": "selfsup: bilinear with antialiasing, open_clip: bicubic",
}


def letters(folder: Path) -> Path:
    """`sample:glyphs` as PNG files with `metadata.jsonl`."""
    for part, columns in load_sample("glyphs").items():
        (folder / part).mkdir(parents=True)
        rows = [{"file_name": f"{number}.png", "text": text} for number, text in enumerate(columns["text"])]
        for row, image in zip(rows, columns["image"], strict=True):
            Image.fromarray(image).convert("RGB").save(folder / part / row["file_name"])
        (folder / part / METADATA).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def begun(folder: Path, batch: int, steps: int, settings: dict[str, Any]) -> tuple[Training, Prepared]:
    """A run of selfsup about to begin."""
    # The optimizer of the papers and of open_clip: it is not what is compared.
    alike = {"optimizer": "adamw", "rate": 1e-3}
    recipe = selfsup.recipe("clip", data=str(folder), batch=batch, steps=steps, **alike, **settings)
    runtime = Runtime(recipe.precision)
    prepared = prepare(recipe.data, None, runtime.device.type == "cuda", Progress(False))
    assert isinstance(prepared.train, CaptionStore)
    recipe = resolve(recipe, prepared, runtime.device, runtime.precision)
    objective = construct(recipe, prepared.facts, prepared.train.tokenizer_folder, None)
    reader = load_objective("clip").reader(recipe.config, prepared.train)
    return Training(objective, reader, recipe, runtime), prepared


def selfsup_steps(training: Training) -> Callable[[], None]:
    """Does the next step of a run, data included."""
    steps = training.recipe.budget.steps
    assert steps is not None
    plan, stream = make_plan(training.recipe.optimizer, 0, steps), enumerate(training.read(0, steps))

    def step() -> None:
        training.step(*next(stream), plan)

    return step


def timed(step: Callable[[], None], count: int) -> Side:
    """Who does so many steps in a round."""

    def seconds() -> float:
        began = time.perf_counter()
        for _ in range(count):
            step()
        return finished() - began

    return Side(seconds)


def settings_of(training: Training) -> dict[str, Any]:
    """What both sides have alike."""
    recipe, about = training.recipe, training.objective.pair.image.about
    text, optimizer = training.objective.pair.text.model.config, recipe.optimizer
    return {
        "batch": optimizer.batch, "steps": recipe.budget.steps, "network": about.network, "arguments": about.arguments,
        "pixels": about.size, "text": {
            "layers": text.num_hidden_layers, "heads": text.num_attention_heads, "width": text.hidden_size,
            "vocabulary": text.vocab_size,
        }, "output": recipe.config.output, "precision": recipe.precision, "optimizer": optimizer.optimizer,
        "rate": optimizer.rate, "decay": optimizer.decay, "betas": optimizer.betas, "clip": optimizer.clip,
        "schedule": optimizer.schedule, "seed": recipe.seed,
    }  # fmt: skip


def held_out(prepared: Prepared) -> Links:
    """The held-out pictures and captions."""
    store = prepared.held_out
    assert isinstance(store, CaptionStore)
    return Links.of(store.pictures, store.captions())


def retrieval(pictures: Tensor, texts: Tensor, links: Links) -> dict[str, float]:
    """R@1 and R@10 both ways."""
    pictures, texts = F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1)
    ways = {
        "picture to text": (pictures, texts, links.pairs),
        "text to picture": (texts, pictures, links.pairs[:, ::-1]),
    }
    return {
        f"R@{k}, {way}": round(float(hits.double().mean()), 4)
        for way, asked in ways.items()
        for k, hits in zip(DEPTHS, found_at(*asked, DEPTHS), strict=True)
    }


def vectors(training: Training, links: Links) -> tuple[Tensor, Tensor]:
    """Of selfsup."""
    sides = training.objective.pair.sides()
    return sides["image"].encode(links.pictures), sides["text"].encode(links.texts)


def their_vectors(peer: OpenClip, links: Links) -> tuple[Tensor, Tensor]:
    """Of open_clip, from the same pictures."""
    return F.normalize(peer.encoder().encode(links.pictures), dim=-1), peer.texts(links.texts)


def check_start(training: Training, peer: OpenClip, links: Links) -> None:
    """Both networks are the same function of whole pictures and captions."""
    few = replace(links, pictures=links.pictures.subset(np.arange(32)), texts=links.texts[:32])
    for ours, theirs in zip(vectors(training, few), their_vectors(peer, few), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    peer.network.train()


def best_reading(training: Training, folder: Path, count: int, most: int) -> tuple[dict[str, Any], dict[str, float]]:
    """How the peer's loader is fastest, and milliseconds a step of every way that was tried.

    Args:
        training: of selfsup.
        folder: the data.
        count: steps of each way.
        most: loader processes.
    """
    ways: dict[float, dict[str, Any]] = {}
    said = {}
    for kept in (False, True):
        for workers in range(most + 1):
            peer = OpenClip(training, folder, kept, workers)
            peer.next()  # workers start, buffers fill
            took = timed(peer.next, count).seconds() / count
            ways[took] = {"kept": kept, "workers": workers}
            name = f"{'decoded beforehand' if kept else 'files'}, {workers} workers"
            said[name] = round(1000 * took, 1)
            say(f"open_clip, {name}: {said[name]} ms a step")
    return ways[min(ways)], said


def memory(folder: Path, who: str, batch: int, settings: dict[str, Any], accumulate: int = 1) -> float:
    """Most memory of a process in two steps, reading included, above what it had with everything built, in MB."""
    training, _ = begun(folder, batch, 2, settings)
    if who == "selfsup":
        step = selfsup_steps(training)
    else:
        peer = OpenClip(training, folder, False, 0, accumulate)
        step = peer.next
    with highest() as most:
        for _ in range(2):
            step()
    return round(most(), 1)


def alone(calls: dict[str, tuple[Any, ...]]) -> dict[str, float]:
    """`memory` in processes of their own, whose allocator gives back what is freed in place of keeping it."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
            found = {name: processes.submit(memory, *call) for name, call in calls.items()}
            return {name: one.result() for name, one in found.items()}
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def speed(folder: Path, precision: str, settings: dict[str, Any], quick: bool) -> None:
    """Batches of 256."""
    batch, steps, rounds = (BATCH // 8, 2, 1) if quick else (BATCH, 20, 5)
    settings = {**settings, "precision": precision}
    training, prepared = begun(folder, batch, steps * (rounds + 1), settings)
    way, tried = best_reading(training, folder, *((1, 1) if quick else (4, 2)))
    other, bare, links = OpenClip(training, folder, **way), OpenClip(training, folder, False, 0), held_out(prepared)
    check_start(training, other, links)
    resident = [bare.moved(batch) for batch in bare.read()]
    training.objective.train()
    sides = timed(selfsup_steps(training), steps), timed(other.next, steps)
    times = in_turn(rounds, *sides, timed(lambda: bare.step(resident), steps))
    found = retrieval(*vectors(training, links), links), retrieval(*their_vectors(other, links), links)
    names = ("selfsup", "open_clip")
    used = {} if quick else alone({name: (folder, name, batch, settings) for name in names})
    for side, name, seconds, quality in zip(sides, names, times[:2], found, strict=True):
        pairs = round(batch * steps / statistics.median(seconds), 1)
        side.about = {"pairs_per_s": pairs, "memory_mb": used.get(name), **quality, **settings_of(training)}
    sides[0].about |= {"workers": training.recipe.data.workers, "context": training.recipe.config.context}
    sides[1].about |= {**way, "context": other.context, "ms_a_step": tried}
    publish("clip", f"speed {precision}", "open_clip", times, sides, DIFFERS, ("open_clip_torch", "timm"))


def chunked(folder: Path, settings: dict[str, Any], quick: bool) -> None:
    """Batches of 4,096 in chunks, beside a batch of 256 that is not divided."""
    # Chunks of half a batch: their activations leave room for the gradients of the weights, which stand beside
    # activations from the second chunk on, and for the graph of a chunk (about 0.8 MB each).
    chunk, whole, batch, rounds = (16, 32, 128, 1) if quick else (BATCH // 2, BATCH, LARGE, 2)
    settings = {**settings, **PLAIN, "precision": "float32"}
    training, _ = begun(folder, batch, rounds + 1, {**settings, "chunk": chunk})
    peer = OpenClip(training, folder, True, 0, batch // whole)
    sides = timed(selfsup_steps(training), 1), timed(peer.next, 1)
    times = in_turn(rounds, *sides)
    in_chunks = {**settings, "chunk": chunk}
    calls: dict[str, tuple[Any, ...]] = {
        "batch": (folder, "selfsup", batch, in_chunks), "batch of 256": (folder, "selfsup", whole, settings),
        "two chunks": (folder, "selfsup", 2 * chunk, in_chunks),
        "open_clip": (folder, "open_clip", batch, settings, batch // whole),
    }  # fmt: skip
    used = {} if quick else alone(calls)
    theirs = used.pop("open_clip", None)
    more, output = batch - whole, training.recipe.config.output
    ((raw, _),) = next(training.read(0, 1))
    allowed = {
        "raw batch": sum(value.nbytes for value in raw.values()) * more / batch / 2**20,
        "embeddings and their gradients": 2 * 2 * more * output * 4 / 2**20,
        "a block of logits": (min(BLOCK[0], batch**2) - whole**2) * 4 / 2**20,
    }
    both = settings_of(training)
    for side, seconds in zip(sides, times, strict=True):
        side.about = {"seconds_a_step": round(statistics.median(seconds), 2), **both}
    sides[0].about |= {
        "chunk": chunk, "memory_mb": used,
        "more_mb": {name: round(used["batch"] - mb, 1) for name, mb in used.items() if name != "batch"},
        "allowed_mb": {name: round(value, 2) for name, value in {"all": sum(allowed.values()), **allowed}.items()},
    }  # fmt: skip
    sides[1].about |= {"memory_mb": theirs, "accum_freq": batch // whole, "kept": True, "workers": 0}
    publish("clip", "memory", "open_clip", times, sides, DIFFERS, ("open_clip_torch", "timm"))


def main() -> None:
    """All cases in turn."""
    parser = arguments(__doc__)
    parser.add_argument("--size", default="nano", help="of both networks")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        glyphs = letters(Path(scratch) / "glyphs")
        settings = {"size": given.size, "seed": given.seed, "cache": str(Path(scratch) / "cache")}
        for what in given.what or ("speed", "memory"):
            if what == "memory":
                chunked(glyphs, settings, given.quick)
            else:
                for precision in ("float32", "bfloat16")[: 1 if given.quick else 2]:
                    speed(Path(given.data or glyphs), precision, settings, given.quick)


if __name__ == "__main__":
    main()
