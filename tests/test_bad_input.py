"""The user's mistakes: exit code 2, one line that names the thing and what to do, and nothing on disk is touched."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from selfsup import cli
from selfsup.data.tokenizer import train_tokenizer

pytestmark = pytest.mark.usefixtures("short_fits")

PICTURE_RUN = "--pixels 16 --hidden 8 --output 8 --batch 16 --steps 2"
TEXT_RUN = "--tokenizer byte --context 16 --layers 1 --heads 2 --width 8 --batch 4 --steps 2"


def pictures(folder: Path, count: int, seed: int) -> Path:
    """A folder of gray pictures of noise."""
    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng([seed, number]).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs and data, whole and broken."""
    root = tmp_path_factory.mktemp("bad")
    for name in ("one_class/cat", "two_classes/cat", "two_classes/dog"):
        pictures(root / name, 20, len(name))
    pictures(root / "photos", 40, 0)
    pictures(root / "unlabelled", 3, 1)
    cli.run(["train", "simclr", "--data", f"{root}/two_classes", "--out", f"{root}/run", *PICTURE_RUN.split()])
    cli.run(["train", "simclr", "--data", f"{root}/photos", "--out", f"{root}/moved", *PICTURE_RUN.split()])
    pictures(root / "photos" / "later", 3, 2)
    pictures(root / "single", 1, 3)
    pictures(root / "half" / "train" / "cat", 5, 4)
    pictures(root / "half" / "train" / "dog", 5, 5)
    pictures(root / "half" / "test", 5, 6)
    rows = [f"photos/{number}.png,cat" for number in range(20)]
    (root / "one_label.csv").write_text("\n".join(["image,label", *rows]))
    (root / "few.csv").write_text("image,label\nphotos/0.png,cat\nphotos/1.png,dog\n")
    (root / "one_text_label.csv").write_text("text,label\n" + "a fine day,good\n" * 20)
    (root / "some.txt").write_text("a few words to learn from, " * 60)
    cli.run(["train", "causal_lm", "--data", f"{root}/some.txt", "--out", f"{root}/lm", *TEXT_RUN.split()])
    cli.run(["train", "masked_lm", "--data", f"{root}/some.txt", "--out", f"{root}/masked", *TEXT_RUN.split()])
    (root / "texts.csv").write_text("text,label\na fine day,good\na sad day,bad\n")
    maskless = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer("bpe", 261, []).backend_tokenizer, eos_token="[SEP]"
    )
    maskless.save_pretrained(root / "maskless")
    (root / "blank.txt").write_text("\n  \n")
    (root / "early").mkdir()  # killed before its first checkpoint
    shutil.copy(root / "run" / "run.json", root / "early")
    shutil.copytree(root / "run", root / "torn")
    whole = (root / "run" / "run.json").read_text()
    (root / "torn" / "run.json").write_text(whole[: len(whole) // 2])
    for name in ("empty", "foreign", "corrupt"):
        (root / name).mkdir()
    (root / "foreign" / "thesis.tex").write_text("years of work")
    for number in range(3):
        (root / "corrupt" / f"{number}.jpg").write_bytes(b"no picture")
    (root / "latin.txt").write_bytes("\xe9t\xe9 et \xe9toile ".encode("latin-1") * 50)
    (root / "table.csv").write_text("body\n" + "some words\n" * 30)
    (root / "lacks.py").write_text('"""Nothing yet."""\n')
    (root / "broken.py").write_text('"""A slip."""\ndef recipe(:\n')
    return root


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything in a folder; of folders no time, because a lock may come and go."""
    found = {path: path.stat() for path in root.rglob("*") if "__pycache__" not in path.parts}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items() if path.is_file()} | {
        str(path): (0, 0) for path in found if path.is_dir()
    }


# Words of the command, {} for the folder above; and what the line must say, in this order.
MISTAKES = {
    "unknown verb": ("trian simclr", "'trian'", "did you mean 'train'"),
    "train without a name": ("train", "train what?", "simclr"),
    "unknown objective": ("train simcrl --out {}/new", "'simcrl'", "did you mean 'simclr'"),
    "objective file that is not there": ("train {}/none.py --out {}/new", "none.py: no such file"),
    "objective file that lacks parts": ("train {}/lacks.py --out {}/new", "lacks.py lacks Config, backbones, build"),
    "objective file with a slip": ("train {}/broken.py --out {}/new", "broken.py", "line 2", "invalid syntax"),
    "mistyped flag": ("train simclr --out {}/new --temprature 1", "--temprature", "did you mean '--temperature'"),
    "mistyped flag of a verb": ("eval {}/run --jsn", "--jsn", "did you mean '--json'"),
    "wrong type": ("train simclr --out {}/new --batch many", "--batch many", "whole number"),
    "half a batch": ("train simclr --out {}/new --batch 2.5", "--batch 2.5", "whole number"),
    "wrong type in a verb": ("generate {}/lm --tokens few", "--tokens few", "whole number"),
    "flag without its value": ("train simclr --out {}/new --rate", "--rate needs a value"),
    "out of range": ("train simclr --out {}/new --temperature -1", "--temperature -1", "greater than 0"),
    "out of range, one of two": ("train simclr --out {}/new --betas 0.9 3", "--betas 3", "less than or equal to 1"),
    "no such choice": ("train simclr --out {}/new --optimizer adam", "--optimizer adam", "did you mean 'adamw'"),
    "no steps": ("train simclr --out {}/new --steps 0", "--steps 0", "greater than 0"),
    "two budgets": ("train simclr --out {}/new --steps 3 --epochs 2", "only one of --steps", "--steps, --epochs"),
    "a size for given weights": (
        "train simclr --data {}/photos --init {}/run --size tiny --out {}/new", "only one of", "--size, --init",
    ),
    "layers for given weights": (
        "train causal_lm --data {}/some.txt --init {}/lm --layers 3 --out {}/new", "only one of", "--layers, --init",
    ),
    "a tokenizer for given weights": (
        "train causal_lm --data {}/some.txt --init {}/lm --tokenizer char --out {}/new", "--tokenizer char", "--init",
    ),
    "no --out": ("train simclr --steps 3", "needs --out"),
    "no run": ("eval", "selfsup eval needs RUN;"),
    "a word too many": ("eval {}/run {}/photos", "no place for", "photos"),
    "resume by no steps": ("resume {}/run --more 0", "--more 0", "1 or more"),
    "missing data": ("train simclr --data {}/none --out {}/new", "none: no such file or folder", "sample:"),
    "unknown sample": ("train simclr --data sample:digit --out {}/new", "'digit'", "did you mean 'digits'"),
    "empty folder": ("train simclr --data {}/empty --out {}/new", "empty", "no data"),
    "corrupt pictures": ("train simclr --data {}/corrupt --out {}/new", "could be read", "corrupt"),
    "text that is not UTF-8": ("train causal_lm --data {}/latin.txt --out {}/new", "latin.txt", "UTF-8"),
    "text for pictures": ("train simclr --data {}/some.txt --out {}/new", "some.txt", "no column 'image'", "--columns"),
    "pictures for text": ("train causal_lm --data {}/photos --out {}/new", "photos", "no column 'text'"),
    "no such meaning": ("train causal_lm --data {}/table.csv --columns txt=body --out {}/new", "'txt'", "did you mean"),
    "no such column": ("train causal_lm --data {}/table.csv --columns text=bdy --out {}/new", "'bdy'", "'body'"),
    "columns without =": ("train causal_lm --data {}/table.csv --columns body --out {}/new", "body", "MEANING=NAME"),
    "cache below a file": (
        "train simclr --data {}/photos --cache {}/some.txt --batch 16 --out {}/new", "cannot write the prepared data",
        "another --cache",
    ),
    "existing run": ("train simclr --steps 2 --out {}/run", "already holds a run", "selfsup resume"),
    "foreign folder": ("train simclr --steps 2 --out {}/foreign", "foreign is not empty", "another --out"),
    "out is a file": ("train simclr --steps 2 --out {}/some.txt", "some.txt", "another --out"),
    "unwritable out": ("train simclr --steps 2 --out {}/some.txt/run", "cannot write", "some.txt/run", "another --out"),
    "batch too large": ("train simclr --data sample:digits --batch 5000 --out {}/new", "--batch 5000", "fits is 14"),
    "unknown network": ("train simclr --data sample:digits --network resnt18 --out {}/new", "resnt18", "resnet18"),
    "chunk with batch norm": ("train simclr --data sample:digits --chunk 8 --out {}/new", "--chunk 8", "batch norm"),
    "micro where rows are compared": ("train simclr --data sample:digits --micro 2 --out {}/new", "--micro", "--chunk"),
    "micro that does not divide": (
        "train causal_lm --data {}/some.txt --batch 2 --micro 3 --out {}/new", "--batch 2", "sizes that work: ",
    ),
    "heads that do not divide": (
        "train causal_lm --data {}/some.txt --heads 3 --width 8 --out {}/new", "--width 8", "--heads 3", "--width 9",
    ),
    "small vocabulary": ("train causal_lm --data {}/some.txt --vocabulary 100 --out {}/new", "--vocabulary 100", "261"),
    "a vocabulary for bytes": (
        "train causal_lm --data {}/some.txt --tokenizer byte --vocabulary 300 --out {}/new", "--vocabulary 300", "drop",
    ),
    "a vocabulary for given weights": (
        "train causal_lm --data {}/some.txt --init {}/lm --vocabulary 300 --out {}/new", "--vocabulary 300", "drop",
    ),
    "a tokenizer without a mask": (
        "train masked_lm --data {}/some.txt --tokenizer {}/maskless --out {}/new", "no mask token", "bpe, char or byte",
    ),
    "data of the hub, offline": ("train simclr --data hf:some/thing --out {}/new", "hf:some/thing", "network"),
    "weights of the hub, offline": (
        "train simclr --data sample:digits --init hf:some/thing --out {}/new", "hf:some/thing", "check the id",
    ),
    "text weights of the hub, offline": (
        "train causal_lm --data {}/some.txt --init hf:some/thing --out {}/new", "hf:some/thing", "no tokenizer there",
    ),
    "tokenizer of the hub, offline": (
        "train causal_lm --data {}/some.txt --tokenizer hf:some/thing --out {}/new", "--tokenizer hf:some/thing", "bpe",
    ),
    "weights that are not there": ("train simclr --data sample:digits --init {}/none --out {}/new", "none", "hf:ID"),
    "weights of another kind": (
        "train simclr --data sample:digits --init {}/lm --out {}/new", "lm has no encoder 'image'", "allowed: text",
    ),
    "resume of no run": ("resume {}/foreign", "foreign holds no run.json", "selfsup train"),
    "resume of nothing": ("resume {}/none", "none does not exist"),
    "resume with other data": ("resume {}/moved --more 2", "photos has changed", "--init"),
    "resume of a torn run": ("resume {}/torn", "torn", "run.json", "JSON"),
    "show of a torn run": ("show {}/torn", "run.json", "JSON"),
    "show of nothing": ("show {}/none", "none does not exist"),
    "eval of no run": ("eval {}/foreign", "foreign holds no run.json"),
    "eval before a checkpoint": ("eval {}/early", "early has no checkpoint", "selfsup resume"),
    "eval with one class": ("eval {}/run --data {}/one_label.csv", "only the label 'cat'", "two classes"),
    "eval of one picture": ("eval {}/run --data {}/single", "single", "1 picture and no label", "two or more"),
    "eval with a test part without labels": ("eval {}/run --data {}/half", "half", "test part has no labels"),
    "eval of one example a class": ("eval {}/run --data {}/few.csv", "few.csv", "too few"),
    "eval with an amount that is none": ("eval {}/run --labels some", "--labels some", "10%", "5"),
    "eval with too large a share": ("eval {}/run --labels 200%", "--labels 200%", "10%"),
    "eval with more of a class than there are": ("eval {}/run --labels 500", "too few for --labels", "100%"),
    "fine-tuning without labels": ("eval {}/run --data {}/unlabelled --fine-tune", "no labels to fine-tune", "--data"),
    "eval of a text run with one label": ("eval {}/lm --data {}/one_text_label.csv", "only the label 'good'"),
    "doctor of no run": ("doctor {}/foreign", "foreign holds no run.json"),
    "doctor before a checkpoint": ("doctor {}/early", "early has no checkpoint", "selfsup resume"),
    "classify without --like": ("classify {}/run {}/photos --out {}/c.csv", "with --like"),
    "classify by no run": ("classify {}/none {}/photos --like {}/two_classes --out {}/c.csv", "no such run or folder"),
    "classify like unlabelled": (
        "classify {}/run {}/photos --like {}/unlabelled --out {}/c.csv", "--like", "no labels", "one folder per class",
    ),
    "classify to a bad ending": ("classify {}/run {}/photos --like {}/two_classes --out {}/c.txt", "c.txt", ".csv"),
    "classify text by pictures": (
        "classify {}/run {}/some.txt --like {}/two_classes --out {}/c.csv", "no column 'image'",
    ),
    "classify below a file": (
        "classify {}/run {}/unlabelled --like {}/two_classes --out {}/some.txt/c.csv", "cannot write", "some.txt",
    ),
    "labels to watch that are none": (
        "train simclr --data {}/photos --eval-every 2 --eval-data {}/unlabelled --batch 16 --out {}/new",
        "--eval-every 2", "no labels", "--eval-data",
    ),
    "labels to watch, never": (
        "train simclr --data {}/photos --eval-data {}/two_classes --out {}/new", "--eval-data", "--eval-every",
    ),
    "a tracker that is not there": (
        "train simclr --data {}/photos --tracker wandb --out {}/new", "--tracker wandb", "pip install wandb",
    ),
    "eval of pictures with text": ("eval {}/run --data {}/some.txt", "some.txt", "no column 'image'"),
    "compare of nothing": ("compare --data {}/two_classes", "nothing to compare: give runs"),
    "compare without data": ("compare {}/run", "needs --data"),
    "compare of no run": ("compare {}/run {}/none --data {}/two_classes", "none", "no such run or folder"),
    "compare of a foreign folder": ("compare {}/foreign --data {}/two_classes", "foreign", "neither a run"),
    "compare before a checkpoint": ("compare {}/early --data {}/two_classes", "early", "selfsup resume"),
    "compare of two kinds": (
        "compare {}/lm {}/run --data {}/two_classes", "run reads pictures and", "lm texts", "runs of one kind",
    ),
    "compare of pictures with text": ("compare {}/run --data {}/texts.csv", "texts.csv holds no pictures"),
    "compare with an empty folder": ("compare {}/run --data {}/empty", "empty"),
    "compare without labels": ("compare {}/run --data {}/two_classes {}/unlabelled", "unlabelled has no labels"),
    "compare with one class": ("compare {}/run --data {}/one_label.csv", "only the label 'cat'", "two classes"),
    "compare to a bad ending": ("compare {}/run --data {}/two_classes --out {}/t.csv", "t.csv", ".jsonl"),
    "compare drawn to a bad ending": ("compare {}/run --data {}/two_classes --plot {}/t.pdf", "t.pdf", ".png"),
    "compare below a file": ("compare {}/run --data {}/two_classes --plot {}/some.txt/t.png", "cannot write"),
    "compare with a column that is nowhere": (
        "compare {}/run --data {}/two_classes --columns label=kind", "label=kind", "no column 'kind'",
    ),
    "embed without --out": ("embed {}/run --data {}/photos", "needs --out"),
    "embed of nothing": ("embed {}/none --data {}/photos --out {}/v.npy", "none", "no such run or folder"),
    "embed of no run": ("embed {}/foreign --data {}/photos --out {}/v.npy", "foreign", "neither a run"),
    "embed before a checkpoint": ("embed {}/early --data {}/photos --out {}/v.npy", "early", "selfsup resume"),
    "embed to a bad ending": ("embed {}/run --data {}/photos --out {}/v.csv", "v.csv", ".npy, .parquet"),
    "embed below a file": ("embed {}/run --data {}/unlabelled --out {}/some.txt/v.npy", "cannot write", "some.txt"),
    "embed of text by pictures": ("embed {}/run --data {}/some.txt --out {}/v.npy", "no column 'image'"),
    "generate by pictures": ("generate {}/run hello", "run", "generates text", "causal_lm"),
    "generate by an encoder": ("generate {}/lm/model/text hello", "text", "generates text"),
    "generate by an image encoder": ("generate {}/run/model/image hello", "image", "generates text"),
    "generate by no run": ("generate {}/foreign hello", "foreign", "generates text"),
    "generate below zero": ("generate {}/lm hello --temperature -1", "--temperature -1", "negative"),
    "generate with no share": ("generate {}/lm hello --top-p 0", "--top-p 0", "above 0"),
    "generate with more than all": ("generate {}/lm hello --top-p 1.5", "--top-p 1.5", "at most 1"),
    "generate until nothing": ("generate {}/lm hello --stop= x", "--stop ''", "not empty"),
    "fill without a mask": ("fill {}/masked hello", "no [MASK] in the text"),
    "fill of too much": ("fill {}/masked [MASK]" + "x" * 40, "43 tokens", "reads 16"),
    "fill with no guess": ("fill {}/masked [MASK] --top-k 0", "--top-k 0", "1 or more"),
    "fill by a language model": ("fill {}/lm [MASK]", "lm", "fills in words", "masked_lm or sentence_order"),
    "fill by pictures": ("fill {}/run [MASK]", "run", "fills in words"),
    "fill before a checkpoint": ("fill {}/early [MASK]", "early", "fills in words", "first checkpoint"),
    "continue without --candidates": ("continue {}/lm hello", "needs --candidates"),
    "continue with no file": ("continue {}/lm hello --candidates {}/none", "--candidates", "No such file", "a line"),
    "continue with a folder": ("continue {}/lm hello --candidates {}/photos", "photos", "directory", "a line"),
    "continue with an empty file": ("continue {}/lm hello --candidates {}/blank.txt", "blank.txt", "no passage"),
    "continue with what is no text": ("continue {}/lm hello --candidates {}/latin.txt", "latin.txt", "not UTF-8"),
    "continue with too long a passage": ("continue {}/lm hello --candidates {}/some.txt", "tokens", "reads 16"),
    "continue by a masked one": (
        "continue {}/masked hello --candidates {}/some.txt", "masked", "ranks passages", "sentence_order or causal_lm",
    ),
    "a prompt without shots": (
        "classify {}/lm {}/texts.csv --like {}/texts.csv --out {}/c.csv --prompt {text}", "--prompt", "add --shots",
    ),
    "draws and a seed without shots": (
        "classify {}/lm {}/texts.csv --like {}/texts.csv --out {}/c.csv --draws 2 --seed 1", "--draws, --seed without",
    ),
    "a prompt without a label": (
        "classify {}/lm {}/texts.csv --like {}/texts.csv --out {}/c.csv --shots 1 --prompt {text}",
        "--prompt", "{label} once",
    ),
    "fewer shots than none": (
        "classify {}/lm {}/texts.csv --like {}/texts.csv --out {}/c.csv --shots -1", "--shots -1", "0 or more shots",
    ),
    "more shots than examples": (
        "classify {}/lm {}/texts.csv --like {}/texts.csv --out {}/c.csv --shots 3", "--shots 3", "2 labelled texts",
    ),
    "shots without labels": (
        "classify {}/lm {}/texts.csv --like {}/some.txt --out {}/c.csv --shots 1", "--like", "some.txt has no labels",
    ),
    "shots of one label": (
        "classify {}/lm {}/texts.csv --like {}/one_text_label.csv --out {}/c.csv --shots 1", "only the label 'good'",
    ),
    "shots for a masked model": (
        "classify {}/masked {}/texts.csv --like {}/texts.csv --out {}/c.csv --shots 1", "masked", "generates text",
    ),
    "shots for pictures": (
        "classify {}/lm {}/photos --like {}/texts.csv --out {}/c.csv --shots 1", "photos", "no column 'text'",
    ),
    "export of no run": ("export {}/foreign {}/new", "foreign holds no run.json"),
    "export before a checkpoint": ("export {}/early {}/new", "early has no model", "selfsup resume"),
    "export to a full folder": ("export {}/run {}/foreign", "foreign is not empty", "another folder"),
    "export below a file": ("export {}/run {}/some.txt/new", "cannot write", "some.txt"),
}  # fmt: skip


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """The one line with which a command is refused."""
    monkeypatch.setattr(sys, "argv", ["selfsup", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and lines[0].startswith("selfsup: "), lines
    return lines[0]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_line(mistake: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    command, *said = MISTAKES[mistake]
    before = state(place)
    line = refused(command.replace("{}", str(place)).split(), monkeypatch, capsys)
    assert state(place) == before
    rest = line
    for part in said:
        assert part in rest, line
        rest = rest.split(part, 1)[1]
    assert len(line) < 640


def test_a_torn_last_line_is_left_out(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A run killed while it wrote a line goes on, and nothing is appended to the torn one."""
    run = shutil.copytree(place / "run", tmp_path / "run")
    for name in ("metrics.jsonl", "evals.jsonl"):
        with open(run / name, "a") as file:
            file.write('{"step": 2, "loss": 1.')
    assert cli.run(["eval", str(run)]) == cli.run(["show", str(run)]) == 0
    lines = [line for line in (run / "evals.jsonl").read_text().splitlines() if not line.endswith("1.")]
    assert {json.loads(line)["task"] for line in lines} == {
        "pretext", "health", "knn", "linear", "verdict",
    }  # fmt: skip
    assert cli.run(["resume", str(run), "--more", "1"]) == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 3 and steps == sorted(set(steps))
