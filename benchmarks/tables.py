"""The tables of docs/results.md: train and evaluate with three seeds, one job at a time; what is done is kept.

    python benchmarks/tables.py NAME --data DIR [--out runs/tables] [--seeds 0 1 2] [--keep FILE]

NAME: `glyphs` (the demo; needs no data), `cifar10` (DIR has train/ and test/ with a folder a class), `shakespeare`
(DIR has the text), `sst2`, `trec` and `understanding` (DIR has train.csv and test.csv with a text and a label; give
each set of `understanding` an --out of its own; its two objectives have one network, but for what a token may look
at), `order` (DIR has train/ and test/ with books), `sharing`, `windows`, `muon` and `dial` (DIR has books),
`pictures` (all objectives for pictures; DIR is as for `cifar10`), `fused` (two of them on one encoder beside each
alone, and beside SimCLR on the same network; pictures of 64 px), `titles` and `spans` (mined negatives; DIR is what
benchmarks/known_items.py writes; give each an --out of its own), `sts` (DIR is what benchmarks/sts_data.py writes, and
has a run of word2vec in words/; its second kind goes on from its first). Each run is the printed command; a run that is
complete is not done again, nor one whose scores are in FILE, where they are written as a line of JSON a run
(docs/results/ has such files). Progress goes to standard error, the table to standard output: a column for each kind of
run, and behind them the alternatives of the first kind that has such a score.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from beside_trainer import Text
from kept import keep, kept
from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

from selfsup.image_encoder import ImageEncoder
from selfsup.image_network import chosen
from selfsup.runtime import Runtime

SHALLOW = "--layers 1 --heads 4 --width 256"  # learns most in minutes, by pairs that are held out (docs/decisions.md)
MINED = {"in batch": "", "naive": " --mine-rule none", "positive-aware": " --mine-ranks 30 130"}
JOBS = {  # kinds of runs by table
    "glyphs": {"run": "train simclr --data sample:glyphs"},
    "cifar10": {"run": "train simclr --data {data} --minutes 16"},
    "shakespeare": {
        "run": "train causal_lm --data {data} --tokenizer char --layers 4 --heads 4 --width 128 --context 64 "
        "--batch 12 --steps 2000"
    },
    "sst2": {"run": "train causal_lm --data {data} --minutes 1"},
    "trec": {"run": "train causal_lm --data {data} --minutes 1"},
    "understanding": {
        "masked_lm": "train masked_lm --data {data} --size nano --minutes 2",
        "causal_lm": "train causal_lm --data {data} --init {decoder} --rate 8e-3 --minutes 2",
    },
    "order": {
        negatives: f"train sentence_order --data {{data}} --negatives {negatives} --context 64 --minutes 15"
        for negatives in ("both", "random")
    },
    "sharing": {
        kind: f"train masked_lm --data {{data}} --layers 12 --heads 4 --width 128 {flag}--steps 400"
        for kind, flag in {"unshared": "", "shared": "--share "}.items()
    },
    "windows": {
        kind: f"train causal_lm --data {{data}} --context 512 {flag}--batch 8 --minutes 4"
        for kind, flag in {"512": "", "64 to 512": "--context-start 64 "}.items()
    },
    "muon": {
        "muon": "train masked_lm --data {data} --steps 500",
        "adamw": "train masked_lm --data {data} --steps 500 --optimizer adamw --rate 2e-3",
    },
    "pictures": {
        name: f"train {name} --data {{data}} --minutes 10"
        for name in ("simclr", "mae", "dino", "rotation", "jigsaw", "inpainting")
    },
    "fused": {
        "simclr": "train simclr --data {data} --size nano --minutes 5",
        "simclr, transformer": "train simclr --data {data} --init {transformer} --minutes 5",
        "mae": "train mae --data {data} --size nano --minutes 5",
        "simclr+mae": "train simclr+mae --data {data} --size nano --minutes 5",
    },
    "titles": {
        kind: "train contrastive_text --data {data}/pairs --batch 64 --temperature 0.1 "
        f"{SHALLOW} --dropout 0.1 --minutes 2{flags and ' --mine-every 40'}{flags}"
        for kind, flags in MINED.items()
    },
    "spans": {
        kind: "train contrastive_text --data {data}/pairs --pairs text --context 64 --temperature 0.1 "
        f"{SHALLOW} --minutes 5{flags and ' --mine-every 300'}{flags}"
        for kind, flags in MINED.items()
    },
    "sts": {
        "no labels": "train contrastive_text --data {data}/sentences.jsonl --context 64 --vocabulary 1024 --batch 256 "
        f"{SHALLOW} --minutes 2",
        "with scores": "train contrastive_text --data {data}/graded --context 64 --init {before} --batch 64 "
        "--rate 5e-4 --dropout 0.1 --temperature 0.2 --minutes 1",
    },
    "dial": {size: f"train masked_lm --data {{data}} --size {size} --minutes 5" for size in ("nano", "tiny")},
}
RETRIEVAL = ("--task retrieval --data {data}/judged", "--task retrieval --data {data}/known")
EVALS = {  # flags of `eval`, where not once without any
    "pictures": ("--labels 1% 100%", "--labels 1% --fine-tune"), "fused": ("--labels 1% 100%",),
    "titles": RETRIEVAL, "spans": RETRIEVAL,
    "sts": ("--task sts --data {data}/stsb --words {data}/words",),
}  # fmt: skip
SCORE = ("task", "labels", "metric", "representation", "mean", "chance")  # what the table is made of


def call(*words: str) -> None:
    """Run a selfsup command, said first."""
    sys.stderr.write(f"$ selfsup {shlex.join(words)}\n")
    subprocess.run([sys.executable, "-m", "selfsup", *words], check=True, stdout=subprocess.DEVNULL)


def logged(folder: Path) -> list[dict]:
    """The lines of `evals.jsonl`."""
    file = folder / "evals.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def judged(folder: Path) -> int:
    """How often a run was evaluated: `eval` writes all it found at its end, the verdict last."""
    return sum(line["task"] == "verdict" for line in logged(folder))


def lines(folder: Path) -> list[dict]:
    """The results of a run, and its cost."""
    found = logged(folder)
    for line in found:
        if line["task"] == "retrieval":  # by people's judgements, or of known items
            line["task"] += f", {Path(line['data']).name}"
    last = {tuple(line.get(key) for key in SCORE[:4]): line for line in found}
    scores = [
        line for line in last.values() if line["task"] not in ("pretext", "health", "mining", "online knn", "verdict")
    ]
    run = json.loads((folder / "run.json").read_text())
    own = next((line for line in reversed(found) if line["task"] == "pretext"), {})
    asked = {
        name: (own[name], own["trivial"] if name == "loss" else None) for name in ("loss", "accuracy") if name in own
    }
    scores += [
        {"task": "own task, held out", "labels": 0, "metric": name, "representation": "run", "mean": value, "chance": c}
        for name, (value, c) in asked.items()
    ]
    cost = {
        "minutes": run["seconds"] / 60, "samples/s": run["samples"] / run["seconds"],
        "memory MB": run["peak_memory"]["process_mb"],
    }  # fmt: skip
    return scores + [
        {"task": "training", "labels": 0, "metric": name, "representation": "run", "mean": value, "chance": None}
        for name, value in cost.items()
    ]


def decoder(folder: Path, data: str, seed: int) -> None:
    """The network of masked_lm, but that each token sees only those before it, with fresh weights and a tokenizer."""
    text = Text("masked_lm", data, Runtime("float32"), size="nano")
    config = text.training()[0].objective.network.config.to_dict()
    torch.manual_seed(seed)
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "layer_types", "rope_parameters", "pad_token_id",
        "cls_token_id", "sep_token_id",
    )  # fmt: skip
    end = text.train.tokenizer.eos_token_id
    given = {name: config[name] for name in same} | {"bos_token_id": end, "eos_token_id": end}
    ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**given)).save_pretrained(folder)
    text.train.tokenizer.save_pretrained(folder)


def transformer(folder: Path, seed: int) -> None:
    """The dial's smallest vision transformer for pictures of 64 px, with fresh weights."""
    name, arguments = chosen(None, "nano", True, None, 64)
    torch.manual_seed(seed)
    ImageEncoder.create(name, arguments, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).save(folder)


def commit() -> str:
    """The commit of this tree."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True)
    return done.stdout.decode().strip() or "unknown"


def results(name: str, data: str, out: Path, seeds: list[int], file: Path | None) -> dict[str, list[list[dict]]]:
    """The evaluations of all kinds and seeds, training what is missing."""
    found: dict[str, list[list[dict]]] = {kind: [] for kind in JOBS[name]}
    known = {(run["kind"], run["seed"]): run["scores"] for run in kept(file)}
    for seed in seeds:
        folder = before = out
        for kind, command in JOBS[name].items():
            before, folder = (
                folder,
                out / "-".join([name, *([] if kind == "run" else [kind.replace(" ", "_")]), str(seed)]),
            )
            if (kind, seed) in known:
                found[kind].append(known[kind, seed])
                continue
            code = out / f"{folder.name}.commit"
            if not (folder / "run.json").exists():
                start = out / f"start-{seed}"
                if "{decoder}" in command:
                    decoder(start, data, seed)
                if "{transformer}" in command:
                    transformer(start, seed)
                places = {"data": data, "decoder": start, "transformer": start, "before": before}
                job = [word.format(**places) for word in command.split()]
                out.mkdir(parents=True, exist_ok=True)
                code.write_text(commit())  # what trains it: the evaluation may come later
                call(*job, "--seed", str(seed), "--out", str(folder))
            elif not judged(folder):
                call("resume", str(folder))
            for flags in EVALS.get(name, ("",))[judged(folder) :]:
                call("eval", str(folder), *flags.format(data=data).split())
            found[kind].append(lines(folder))
            scores = [{name: line[name] for name in SCORE} for line in lines(folder)]
            trained = code.read_text() if code.exists() else "unknown"
            keep({"kind": kind, "seed": seed, "commit": trained, "command": command, "scores": scores}, file)
    return found


def table(runs: dict[str, list[list[dict]]]) -> str:
    """Mean and deviation over seeds for each task, metric and representation, as Markdown."""
    cells: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    owner: dict[tuple[str, str, str], str] = {}
    for kind, line in ((kind, line) for kind, seeds in runs.items() for seed in seeds for line in seed):
        key = (line["task"], f"{line['labels']:.0%}" if line["labels"] else "", line["metric"])
        row, own, who = cells.setdefault(key, {}), owner.setdefault(key, kind) == kind, line["representation"]
        if who == "run" or own or who == "untrained":
            name = kind if who == "run" else who if own else f"{who} {kind}"
            row.setdefault(name, []).append(line["mean"])
        if who == "run" and own and line["chance"] is not None:  # a compressor of bytes knows another number by chance
            row.setdefault("chance", []).append(line["chance"])
    others = dict.fromkeys(name for row in cells.values() for name in row if name not in {*runs, "chance"})
    names = [*runs, *others, "chance"]
    head = "| task | labels | metric | " + " | ".join(names) + " |\n|---|---|---|" + "---|" * len(names)
    body = []
    for (task, labels, metric), row in cells.items():
        percent, digits = 100 if "accuracy" in metric else 1, 3 if task.startswith(("retrieval", "sts")) else 2
        shown = []
        for name in names:
            values = [percent * value for value in row.get(name, [])]
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            figure = f"{statistics.mean(values):.{digits}f}" if values else ""
            shown.append(f"{figure} ± {sd:.{digits}f}" if sd > 0.5 / 10**digits else figure)
        body.append(f"| {task} | {labels} | {metric}{' %' if percent == 100 else ''} | " + " | ".join(shown) + " |")
    return "\n".join([head, *body])


def paired(runs: dict[str, list[list[dict]]]) -> str:
    """The run less its untrained network, or less training from scratch, seed by seed: mean and deviation."""
    found = []
    for kind, seeds in runs.items():
        values: dict[tuple, dict[str, list[float]]] = {}
        for line in (line for seed in seeds for line in seed if line["metric"] == "accuracy"):
            of = values.setdefault((line["task"], f"{line['labels']:.0%}"), {})
            of.setdefault(line["representation"], []).append(100 * line["mean"])
        for (task, labels), of in values.items():
            other = next((name for name in ("untrained", "scratch") if name in of), None)
            if other and len(seeds) > 1 and len(of["run"]) == len(of[other]) == len(seeds):
                less = [a - b for a, b in zip(of["run"], of[other], strict=True)]
                mean, sd = statistics.mean(less), statistics.stdev(less)
                found.append(f"{kind}, {task}, {labels}: {mean:+.1f} ± {sd:.1f} points over {other}")
    return "\n".join(found)


def main() -> None:
    """Do the jobs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=sorted(JOBS))
    parser.add_argument("--data", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    found = results(given.name, given.data, given.out, given.seeds, given.keep)
    sys.stdout.write(f"{table(found)}\n\n{paired(found)}\n")


if __name__ == "__main__":
    main()
