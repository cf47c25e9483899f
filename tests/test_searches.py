"""The verb search, as people type it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

import selfsup
from selfsup import cli
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.search.index import Index
from selfsup.search.query import passages, search
from selfsup.search.sheet import draw_hits
from text_pairs import random_encoder

BOOKS = [
    {"id": "a", "text": "sunrise over the road, and rainfall later", "year": 1990},
    {"id": "b", "text": "hillside by the seaway " * 20, "year": 2001},
    {"id": "c", "text": "windfall", "year": 2001},
]


@pytest.fixture
def say(capsys: pytest.CaptureFixture):
    """Runs a command and gives what it prints."""

    def printed(words: str) -> str:
        capsys.readouterr()
        assert cli.run(["search", *shlex.split(words)]) == 0
        return capsys.readouterr().out

    return printed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder `text`, documents `books.jsonl`, and an index of these, `books`."""
    root = tmp_path_factory.mktemp("searches")
    random_encoder(root)
    (root / "books.jsonl").write_text("".join(json.dumps(book) + "\n" for book in BOOKS))
    words = f"build {root}/text {root}/books.jsonl --out {root}/books --passage 16 --overlap 4"
    assert cli.run(["search", *words.split()]) == 0
    return root


@pytest.fixture(scope="module")
def picture_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder") / "image"
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
    ImageEncoder.create("vit_tiny_patch16_224", size, 16, (0.5,) * 3, (0.2,) * 3).save(folder)
    return folder


def test_help_names_every_part(say, capsys: pytest.CaptureFixture) -> None:
    shown = say("--help")
    for part in cli.search_parts():
        assert f"\n  {part} " in shown
        with pytest.raises(SystemExit):
            cli.run(["search", part, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: selfsup search {part} ")
    for words in (["search"], ["search", "bild"]):
        with pytest.raises(UserError, match="allowed: add, "):
            cli.run(words)


def test_a_day_of_an_index(say, place: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert "3 documents added; " in say(f"build {place}/text {place}/books.jsonl --out {index} --passage 16")
    assert say(f"add {index} {place}/books.jsonl") == f"{index}: 3 documents as they were\n"
    (tmp_path / "more.csv").write_text("id,text,year\nc,windfall and sunrise,2001\nd,roadside,2020\n")
    change = json.loads(say(f"add {index} {tmp_path}/more.csv --json"))
    assert (change["added"], change["renewed"], change["kept"]) == (1, 1, 0)
    assert say(f"remove {index} a d") == f"{index}: 2 documents removed\n"
    assert [json.loads(line)["id"] for line in say(f"query {index} sunrise --method words --json").splitlines()] == [
        "c"
    ]


def test_hits_are_shown_with_their_passages(say, place: Path) -> None:
    lines = say(f"query {place}/books 'seaway hillside' -k 2").splitlines()
    assert lines[0].split()[0] == "1" and lines[0].split()[2:] == ["b", "year=2001"]
    assert "hillside by the seaway" in lines[1] and len([line for line in lines if line[2].isdigit()]) == 2
    (found,) = say(f"query {place}/books rainfall --method words --json").splitlines()
    hit = json.loads(found)
    assert hit["text"] == BOOKS[0]["text"][hit["start"] : hit["stop"]] and hit["about"] == {"year": 1990}
    assert "picture" not in hit
    (place / "question.txt").write_text("rainfall\n")
    assert say(f"query {place}/books {place}/question.txt --method words --json").splitlines() == [found]


def test_python_finds_what_the_verb_prints(say, place: Path, tmp_path: Path) -> None:
    index = selfsup.Index.load(place / "books")
    shown = say(f"query {place}/books 'seaway hillside' -k 2 --json").splitlines()
    assert [hit.spoken() for hit in index.query("seaway hillside", 2)] == [json.loads(line) for line in shown]
    index.save(tmp_path / "copy")
    assert selfsup.Index.load(tmp_path / "copy").query("seaway hillside", 2) == index.query("seaway hillside", 2)


def test_an_encoder_that_moved_is_named(say, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "text", tmp_path / "text")
    say(f"build {tmp_path}/text {place}/books.jsonl --out {tmp_path}/index")
    (tmp_path / "text").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"index was built with .*text; say where that is with --encoder"):
        say(f"query {tmp_path}/index sunrise")
    assert " a " in say(f"query {tmp_path}/index sunrise --encoder {tmp_path}/moved -k 1 --method words")


def test_conditions_and_profiles(say, place: Path) -> None:
    found = say(f"query {place}/books 'sunrise windfall' --where year>=2000 year<2010 --json").splitlines()
    assert {json.loads(line)["id"] for line in found} <= {"b", "c"}
    assert say(f"query {place}/books sunrise --method words --where year=2001") == "nothing found\n"
    near = [json.loads(line)["id"] for line in say(f"similar {place}/books a b --json").splitlines()]
    assert near == ["c"]


def test_answers_list_their_sources(say, place: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("sunrise over the road. " * 300)
    run = "train causal_lm --context 128 --tokenizer byte --layers 1 --heads 2 --width 16 --batch 4 --steps 2"
    assert cli.run([*run.split(), "--data", str(book), "--out", str(tmp_path / "run")]) == 0
    asked = f"ask {place}/books 'what about rainfall' --generator {tmp_path}/run -k 2 --tokens 20"
    shown = say(asked)
    answer, sources = shown.split("\n\nsources:\n")
    assert shown == say(asked) and sources.splitlines()[0].split()[0] == "1"
    told = json.loads(say(f"{asked} --json"))
    assert told["answer"] == answer and told["sources"][0]["number"] == 1
    assert told["sources"][0]["id"] in {book["id"] for book in BOOKS}
    with pytest.raises(UserError, match="passages"):
        cli.run(["search", *shlex.split(f"{asked} --prompt question")])


def test_passages_may_be_of_one_document(say, place: Path) -> None:
    found = [json.loads(line) for line in say(f"query {place}/books hillside -k 3 --passages --json").splitlines()]
    assert [hit["id"] for hit in found[:2]] == ["b", "b"] and len({hit["start"] for hit in found}) == len(found)


def test_any_table_can_be_indexed(say, place: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": 1,
            "text": "sunrise",
            "source": "web",
            "number": 4,
            "start": "x",
            "day": "2020-01-01",
            "size": float("nan"),
        },
        {"id": None, "text": "rainfall"},
        {"id": 2, "text": "windfall", "source": "book", "number": 5, "day": "2021-01-01"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = tmp_path / "index"
    assert "not indexed: row 1: no id" in say(f"build {place}/text {tmp_path}/rows.jsonl --out {index}")
    (found,) = say(f"query {index} sunrise --where source=web number<4.5 --json").splitlines()
    about = json.loads(found)["about"]
    assert about["source"] == "web" and about["number"] == 4 and about["day"].startswith("2020-01-01")
    (tmp_path / "more.jsonl").write_text('{"id": 3, "text": "sunrise again", "number": "many"}\n')
    say(f"add {index} {tmp_path}/more.jsonl")
    assert [json.loads(line)["id"] for line in say(f"query {index} sun --where number=many --json").splitlines()] == [
        "3"
    ]
    with pytest.raises(UserError, match="the column holds"):
        say(f"query {index} sun --where day=soon")


def test_a_long_document_leaves_room_for_others(place: Path, tmp_path: Path) -> None:
    data = Dataset.from_dict({"id": ["long", "s", "t"], "text": ["sunrise seafall " * 900, "roadside", "hillfall"]})
    index, made = selfsup.Index.build(place / "text", data, tmp_path / "index", passage=8, overlap=0, quiet=True)
    assert made.passages > 300
    assert {hit.id for hit in index.query("sunrise seafall", 3, "dense")} == {"long", "s", "t"}
    assert len(passages(index, "sunrise seafall", 150, "dense")) == 150


def test_files_of_others_are_left_alone(place: Path, tmp_path: Path) -> None:
    for name in ("segment-of-my-thesis.txt", "gone-fishing.txt"):
        (tmp_path / name).write_text("mine")
    words = ["search", "build", f"{place}/text", f"{place}/books.jsonl", "--out"]
    with pytest.raises(UserError, match="holds other files"):
        cli.run([*words, str(tmp_path)])
    with pytest.raises(UserError, match="is a file"):
        cli.run([*words, str(tmp_path / "gone-fishing.txt")])
    assert cli.run([*words, str(tmp_path / "index")]) == 0
    (tmp_path / "index" / "segment-notes").write_text("mine")
    assert cli.run(["search", "remove", str(tmp_path / "index"), "a"]) == 0
    assert (tmp_path / "index" / "segment-notes").exists() and (tmp_path / "gone-fishing.txt").exists()
    shutil.rmtree(next((tmp_path / "index").glob("segment-0*")) / "words")
    with pytest.raises(UserError, match="is damaged"):
        selfsup.Index.load(tmp_path / "index")


def test_what_is_known_of_files_is_renewed(picture_encoder: Path, tmp_path: Path, say, cache, monkeypatch) -> None:
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (16, 16), "red" if name == "a" else "blue").save(tmp_path / "photos" / f"{name}.png")

    def note(year: int) -> None:
        (tmp_path / "photos" / "metadata.csv").write_text(f"file_name,year\na.png,{year}\nb.png,2000\n")

    monkeypatch.chdir(tmp_path)
    note(2010)
    say(f"build {picture_encoder} photos --out index")
    note(1950)
    assert say("add index photos") == "index: 1 document renewed, 1 as they were\n"
    shown = say("similar index b.png --where year<1960 --json")
    monkeypatch.chdir(tmp_path.parent)
    assert json.loads(shown)["state"] == "same"
    assert json.loads(say(f"similar {tmp_path}/index b.png --json"))["state"] == "same"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("query {0}/books ' '", "the question is empty"),
        ("query {0}/books sea --method dens", "did you mean 'dense'"),
        ("query {0}/books sea -k 0", "-k 0: allowed is"),
        ("query {0}/books sea --where yeer=3", "did you mean 'year'"),
        ("query {0}/books sea --where year", "--where 'year': allowed is"),
        ("query {0}/books sea --where year=soon", "the column holds int64"),
        ("query {0}/books sea --out {0}/hits.png", "--out is for pictures"),
        ("query {0}/nothing sea", "is no index"),
        ("similar {0}/books z", "has no document 'z'"),
        ("build {0}/text {0}/books.jsonl --out {0}/new --passage 0", "--passage 0: allowed is"),
        ("build {0}/text {0}/books.jsonl --out {0}/new --overlap -2", "--overlap -2: allowed is"),
        ("remove {0}/books a z", "has no document 'z'; nothing was removed"),
        ("build {0}/text {0}/books.jsonl --out {0}/books", "is an index already; selfsup search add"),
        ("build {0}/text {0}/books.jsonl --out {0}", "holds other files"),
        ("build {0}/text {0}/books.jsonl --out {0}/new --columns text=body", "body"),
        ("build {0}/text {0}/empty --out {0}/new", "empty"),
        ("build {0}/nothing {0}/books.jsonl --out {0}/new", "nothing"),
    ],
)
def test_mistakes_get_one_line(place: Path, words: str, said: str) -> None:
    (place / "empty").mkdir(exist_ok=True)
    with pytest.raises(UserError) as caught:
        cli.run(["search", *shlex.split(words.format(place))])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (place / "new").exists() or not any((place / "new").glob("index.json"))


def test_pages_of_pictures(picture_encoder: Path, tmp_path: Path, say, cache) -> None:
    chance = np.random.default_rng(0)
    for name in ("cats/a", "cats/b", "dogs/c"):
        file = tmp_path / "photos" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (20, 40, 3), np.uint8)).save(file)
    index, page = tmp_path / "index", tmp_path / "hits.png"
    say(f"build {picture_encoder} {tmp_path}/photos --out {index}")
    shown = say(f"query {index} {tmp_path}/photos/cats/a.png -k 2 --out {page}")
    number, score, *named = shown.split()[:4]
    assert number == "1" and float(score) > 0.99 and named == ["cats/a.png", "label=cats"]
    with Image.open(page) as drawn:
        assert drawn.width > 600 and len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    assert "cats" not in say(f"query {index} {tmp_path}/photos/cats/a.png --where label=dogs")
    say(f"similar {index} cats/a.png dogs/c.png --out {page}")
    with pytest.raises(UserError, match=r"allowed ending is \.png"):
        say(f"similar {index} cats/a.png --out {tmp_path}/hits.jpg")


def test_pictures_without_files_are_kept_small(picture_encoder: Path, tmp_path: Path, cache) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 200, 100, 3), np.uint8)
    data = Dataset.from_dict({"image": [Image.fromarray(one) for one in pictures], "id": ["x", "y", "z"]})
    index, _ = Index.build(picture_encoder, data, tmp_path / "index", quiet=True)
    hits = search(index, Image.fromarray(pictures[1]), 3)
    assert hits[0].id == "y" and {hit.source for hit in hits} == {None}
    assert hits[0].picture is not None
    (tmp_path / "y.png").write_bytes(hits[0].picture)
    with Image.open(tmp_path / "y.png") as kept:
        assert kept.size == (48, 96)
        assert abs(np.asarray(kept).mean() - pictures[1].mean()) < 3
    draw_hits(tmp_path / "page.png", hits, "three")
    assert (tmp_path / "page.png").exists()
