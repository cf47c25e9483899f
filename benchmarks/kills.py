"""Fifty times `kill -9` at random moments, ten at least while the store is built, while training, while saving.

    python benchmarks/kills.py [--quick] [--what simclr dino inpainting causal_lm]

`what` are objectives for pictures or text, in the size of their `tiny()`.

Each killed run is started or resumed again until it ends, and is then compared with a run that was left alone: weights
and optimizers bit for bit, and every line of metrics but for what the clock says. Ends with an error if one differs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from side_by_side import arguments, say

PHASES = ("store", "training", "saving")
USUAL = ("simclr", "dino", "inpainting", "causal_lm")
TIMES = {"samples_per_s", "wait"}


def work(name: str, data: str, folder: str, cache: str, phase: str | None, delay: float) -> None:
    """Train or resume; killed `delay` seconds after a phase was entered for the second time, if one is named."""
    import torch

    import selfsup
    import selfsup.data.pixels as pixels
    import selfsup.data.tokens as tokens
    import selfsup.training as training
    from selfsup.loop import Training
    from selfsup.objective import load_objective
    from selfsup.recipes import Budget
    from selfsup.run import Run

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    training.report = lambda *_: None
    os.environ["SELFSUP_CACHE"] = cache
    entered = {"store": 1, "training": 0, "saving": 0}  # a store is built once

    def timed(inner, here: str):  # noqa: ANN001, ANN202
        def call(*values, **settings):  # noqa: ANN002, ANN003, ANN202
            entered[here] += 1
            if here == phase and entered[here] == 2:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return inner(*values, **settings)

        return call

    pixels.stored, tokens.stored = timed(pixels.stored, "store"), timed(tokens.stored, "store")
    Training.step = timed(Training.step, "training")
    Run.save = timed(Run.save, "saving")
    tiny = load_objective(name).tiny()
    recipe = replace(
        tiny,
        data=replace(tiny.data, source=data, cache=cache),
        budget=Budget(steps=24),
        precision="float32",
        watch=replace(tiny.watch, save_every=3, log_every=1),
    )
    if (Path(folder) / "run.json").exists():
        selfsup.resume(folder, quiet=True)
    else:
        selfsup.train(recipe, folder, quiet=True)
    os._exit(0)  # a timer that has not gone off yet must not keep us


def sources(root: Path) -> dict[str, str]:
    """Small pictures and a text."""
    from PIL import Image

    generator = np.random.default_rng(0)
    (root / "photos").mkdir()
    for number in range(600):
        Image.fromarray(generator.integers(0, 256, (24, 24), np.uint8)).save(root / "photos" / f"{number}.png")
    words = ["".join(generator.choice(list("abcdefgh"), 4)) for _ in range(300)]
    (root / "words.txt").write_text(" ".join(generator.choice(words, 30_000)))
    return {"ImageData": str(root / "photos"), "TextData": str(root / "words.txt")}


def lines(folder: Path, name: str) -> list[dict]:
    """The lines of a log, without times."""
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in found]


def differences(first: Path, second: Path) -> list[str]:
    """What is not the same in two runs."""
    import torch

    found = [name for name in ("metrics.jsonl", "evals.jsonl") if lines(first, name) != lines(second, name)]
    states = [torch.load(folder / "checkpoints" / "24" / "state.pt", weights_only=True) for folder in (first, second)]

    def compare(a: object, b: object, path: str) -> None:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            found.extend([path] if not torch.equal(a, b) else [])
        elif isinstance(a, dict) and isinstance(b, dict):
            found.extend([path] if a.keys() != b.keys() else [])
            for key in a.keys() & b.keys():
                compare(a[key], b[key], f"{path}/{key}")
        elif isinstance(a, list) and isinstance(b, list):
            for number, pair in enumerate(zip(a, b, strict=True)):
                compare(*pair, f"{path}/{number}")
        elif a != b:
            found.append(path)

    compare(states[0], states[1], "state")
    return found


def main() -> None:
    """Kill, resume, compare."""
    from selfsup.objective import load_objective

    given = arguments(__doc__).parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "timm", "transformers", "datasets", "selfsup.training", "selfsup.eval.card"]
    )
    names = given.what or USUAL
    each = 1 if given.quick else -(-50 // (len(names) * len(PHASES)))
    choose, wrong, done = random.Random(0), 0, {phase: 0 for phase in PHASES}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        found = sources(root)
        data = {name: found[type(load_objective(name).tiny().data).__name__] for name in names}

        def child(*values: object) -> int | None:
            process = context.Process(target=work, args=values)
            process.start()
            process.join()
            return process.exitcode

        for name in names:
            straight = root / f"{name}-straight"
            child(name, data[name], str(straight), str(root / "cache"), None, 0.0)
            began = time.perf_counter()
            assert child(name, data[name], str(root / f"{name}-again"), str(root / "cache"), None, 0.0) == 0
            say(f"{name}: a straight run takes {time.perf_counter() - began:.1f} s")
            # Delays spread over what each phase lasts, and beyond it into what follows.
            longest = {"store": 0.4, "training": 0.6, "saving": 0.05}
            for phase in PHASES:
                count = 0
                while count < each:
                    number = f"{name}-{phase}-{count}"
                    cache = root / (f"cache-{number}" if phase == "store" else "cache")
                    folder, codes = root / number, []
                    delay = choose.uniform(0, longest[phase])
                    codes.append(child(name, data[name], str(folder), str(cache), phase, delay))
                    if codes[0] == 0:  # it was done before the time was up
                        longest[phase] *= 0.8
                        for part in (folder, cache) if phase == "store" else (folder,):
                            os.rename(part, root / f"done-{part.name}-{time.time_ns()}")
                        continue
                    codes.append(child(name, data[name], str(folder), str(cache), None, 0.0))
                    wanted = codes == [-signal.SIGKILL, 0]
                    unlike = differences(straight, folder) if wanted else [f"exit codes {codes}"]
                    wrong += bool(unlike)
                    count, done[phase] = count + 1, done[phase] + 1
                    verdict = "differs: " + ", ".join(unlike[:5]) if unlike else "equal"
                    say(f"{number}: killed after {delay * 1e3:.0f} ms; {verdict}")
    sys.stdout.write(json.dumps({"benchmark": "kills", "killed": done, "differ": wrong}) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
