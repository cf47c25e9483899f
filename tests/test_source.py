"""Source: what users have, in the forms in which they have it, and one line for every mistake."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from torch.utils.data import TensorDataset

from selfsup.data.decode import cell_bytes, open_picture, to_square
from selfsup.data.documents import documents
from selfsup.data.part import Part, label_column
from selfsup.data.source import open_source
from selfsup.errors import UserError

RNG = np.random.default_rng(0)


def picture(height: int = 6, width: int = 9, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray | None = None) -> np.ndarray:
    array = picture() if array is None else array
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(array).save(path)
    return array


def arrays(part: Part) -> list[np.ndarray]:
    """The pictures of a part as they are."""
    found = [open_picture(cell_bytes(cell)) for cell in part.table["image"]]
    return [array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array for array in map(np.asarray, found)]


def texts(part: Part) -> list[str]:
    found = [""] * len(part)
    for block in documents(part.table, []):
        found[block.row] += block.text
    return found


def labels(part: Part) -> list[str]:
    numbers, classes = label_column(part.table)
    return [classes[number] if number >= 0 else "" for number in numbers]


def same(found: list[np.ndarray], expected: Any) -> bool:
    return len(found) == len(expected) and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_folder_of_pictures_has_classes_by_subfolder(tmp_path: Path):
    saved = [save(tmp_path / name) for name in ("cat/1.png", "cat/2.PNG", "dog/1.bmp", "dog/deep/x.png")]
    save(tmp_path / "cat" / ".hidden.png")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    (part,) = open_source(tmp_path).parts.values()
    assert same(arrays(part), saved)
    assert labels(part) == ["cat", "cat", "dog", "dog/deep"]


def test_pictures_of_one_folder_have_no_classes(tmp_path: Path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.png")
    (part,) = open_source(tmp_path).parts.values()
    assert [Path(cell["path"]).name for cell in part.table["image"]] == ["a.png", "b.png"]
    assert part.table.column_names == ["image"] and labels(part) == ["", ""]


def test_parts_by_folder(tmp_path: Path):
    for name in ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "test/dog/1.png", "annotations/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        _ = save(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("{}")
    source = open_source(str(tmp_path))
    assert {name: len(part) for name, part in source.parts.items()} == {"train": 2, "valid": 1, "test": 1}
    assert labels(source.parts["train"]) == ["cat", "dog"]


def test_a_class_named_train_is_a_class(tmp_path: Path):
    for name in ("bus/1.png", "train/1.png", "car/1.png"):
        save(tmp_path / name)
    (part,) = open_source(tmp_path).parts.values()
    assert labels(part) == ["bus", "car", "train"]
    flat = tmp_path / "flat"
    for name in ("bus.png", "train.png"):
        save(flat / name)
    assert len(open_source(flat).parts["train"]) == 2


@pytest.mark.parametrize("kind", ["metadata.jsonl", "metadata.csv"])
def test_captions_beside_pictures(tmp_path: Path, kind: str):
    saved = [save(tmp_path / "shots" / f"{i}.png") for i in range(3)]
    rows = [{"file_name": f"shots/{i}.png", "text": f"caption {i}", "label": "ab"[i % 2]} for i in (2, 0)]
    lines = [json.dumps(row) for row in rows]
    if kind.endswith("csv"):
        lines = ["file_name,text,label"] + [",".join(row.values()) for row in rows]
    (tmp_path / kind).write_text("\n".join(lines))
    (part,) = open_source(tmp_path).parts.values()
    assert same(arrays(part), [saved[2], saved[0]])
    assert texts(part) == ["caption 2", "caption 0"] and labels(part) == ["a", "a"]


def test_captions_must_name_their_pictures(tmp_path: Path):
    save(tmp_path / "1.png")
    (tmp_path / "metadata.csv").write_text("name,text\n1.png,hello\n")
    with pytest.raises(UserError, match="no column 'file_name'"):
        open_source(tmp_path)


def test_texts(tmp_path: Path):
    (tmp_path / "b.txt").write_bytes("\ufeffzwei\r\nZeilen".encode())
    (tmp_path / "a.md").write_text("eins")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_text("drei")
    assert texts(open_source(tmp_path).parts["train"]) == ["eins", "zwei\nZeilen", "drei"]
    assert texts(open_source(tmp_path / "a.md").parts["train"]) == ["eins"]


def test_parts_by_file(tmp_path: Path):
    for name in ("train.txt", "valid.txt", "README.md"):
        (tmp_path / name).write_text(name)
    assert {name: texts(part) for name, part in open_source(tmp_path).parts.items()} == {
        "train": ["train.txt"],
        "valid": ["valid.txt"],
    }


ROWS = [{"body": "one, two", "species": "owl"}, {"body": "ünï\tcödé 😀", "species": "elk"}]


def write_table(path: Path, rows: list[dict] = ROWS) -> Path:
    table = Dataset.from_list(rows)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix in (".jsonl", ".json"):
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_tables_with_columns_by_meaning(tmp_path: Path, ending: str, capfd: pytest.CaptureFixture):
    file = write_table(tmp_path / f"birds{ending}")
    capfd.readouterr()
    part = open_source(file, {"text": "body", "label": "species"}).parts["train"]
    assert texts(part) == [row["body"] for row in ROWS] and labels(part) == ["owl", "elk"]
    assert capfd.readouterr() == ("", "")  # no progress bars of other libraries
    (tmp_path / "README.md").write_text("About the birds.")  # does not make the folder one of texts
    assert texts(open_source(tmp_path, {"text": "body"}).parts["train"]) == [row["body"] for row in ROWS]


def test_a_table_may_name_pictures_or_hold_them(tmp_path: Path):
    saved = [save(tmp_path / f"{i}.png") for i in range(2)]
    rows = [{"file": f"{i}.png", "kind": i} for i in range(2)]
    part = open_source(write_table(tmp_path / "list.csv", rows), {"image": "file", "label": "kind"}).parts["train"]
    assert same(arrays(part), saved) and labels(part) == ["0", "1"]
    encoded = [{"photo": (tmp_path / f"{i}.png").read_bytes()} for i in range(2)]
    held = write_table(tmp_path / "held.parquet", encoded)
    assert same(arrays(open_source(held, {"image": "photo"}).parts["train"]), saved)
    Dataset.from_list(encoded).cast_column("photo", Image()).to_parquet(tmp_path / "typed.parquet")
    assert same(arrays(open_source(tmp_path / "typed.parquet", {"image": "photo"}).parts["train"]), saved)


def test_a_table_is_read_anew_when_it_changes(tmp_path: Path):
    file = tmp_path / "data.csv"
    file.write_text("text\nold\n")
    before = open_source(file).parts["train"]
    file.write_text("text\nnew\n")
    os.utime(file, ns=(time.time_ns(), time.time_ns() + 10**9))
    after = open_source(file).parts["train"]
    assert (texts(before), texts(after)) == (["old"], ["new"]) and before.identity != after.identity


def test_another_column_is_another_identity(tmp_path: Path):
    file = write_table(tmp_path / "birds.csv")
    one, other = (open_source(file, {"text": name}).parts["train"].identity for name in ("body", "species"))
    assert one != other


def test_identity_follows_the_files(tmp_path: Path):
    save(tmp_path / "a.png")
    before = open_source(tmp_path).parts["train"].identity
    assert open_source(tmp_path).parts["train"].identity == before
    save(tmp_path / "b.png")
    after = open_source(tmp_path).parts["train"].identity
    os.utime(tmp_path / "b.png", ns=(1, 1))
    assert len({before, after, open_source(tmp_path).parts["train"].identity}) == 3


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3), (4, 5, 6, 1), (4, 5, 6, 5)])
def test_arrays(shape: tuple[int, ...]):
    data = RNG.integers(0, 256, shape, dtype=np.uint8)
    expected = data[..., 0] if shape[-1] == 1 else data
    assert same(arrays(open_source(data).parts["train"]), expected)


def test_array_types():
    data = RNG.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    for same_pixels in (
        data / 255.0,
        (data / 255).astype(np.float32),
        data.astype(np.int64),
        data.astype(np.uint16) << 8,
    ):
        assert same(arrays(open_source(same_pixels).parts["train"]), data), same_pixels.dtype
    assert same(arrays(open_source(data > 99).parts["train"]), (data > 99) * np.uint8(255))
    # A dark picture of 16 bits stays dark.
    assert same(arrays(open_source(np.full((1, 2, 2), 200, np.uint16)).parts["train"]), np.zeros((1, 2, 2)))


def test_channels_may_come_first():
    data = RNG.integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
    first = data.transpose(0, 3, 1, 2)
    for given in (torch.from_numpy(data), torch.from_numpy(first.copy()), first, torch.from_numpy(first / 255.0)):
        assert same(arrays(open_source(given).parts["train"]), data)
    five = RNG.integers(0, 256, (2, 5, 8, 9), dtype=np.uint8)
    assert same(arrays(open_source(torch.from_numpy(five)).parts["train"]), five.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("data", [np.zeros(5), np.zeros((0, 4, 4)), np.full((2, 4, 4), 7.5), np.array(3), [object()]])
def test_arrays_that_are_no_pictures(data: object):
    with pytest.raises(UserError) as caught:
        open_source(data)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_lists_of_pictures_and_strings():
    color, gray = picture(), picture(channels=1)
    images = [PILImage.fromarray(color), PILImage.fromarray(gray), PILImage.fromarray(color).convert("CMYK")]
    found = arrays(open_source(images).parts["train"])
    assert same(found[:2], [color, gray]) and found[2].shape == (6, 9, 4)
    assert same(arrays(open_source([color, gray]).parts["train"]), [color, gray])
    assert texts(open_source(["eins", "zwei"]).parts["train"]) == ["eins", "zwei"]
    assert texts(open_source(np.array(["eins", "zwei"])).parts["train"]) == ["eins", "zwei"]


def test_a_picture_handed_over_is_upright():
    turned = PILImage.fromarray(picture(6, 9))
    turned.getexif()[0x0112] = 6
    assert arrays(open_source([turned]).parts["train"])[0].shape == (9, 6, 3)


def test_a_datasets_dataset(tmp_path: Path):
    saved = [save(tmp_path / f"{i}.png") for i in range(3)]
    features = Features({"img": Image(), "label": ClassLabel(names=["owl", "elk"])})
    table = Dataset.from_dict({"img": [str(tmp_path / f"{i}.png") for i in range(3)], "label": [1, 0, -1]}, features)
    part = open_source(table, {"image": "img"}).parts["train"]
    assert same(arrays(part), saved) and labels(part) == ["elk", "owl", ""]
    parts = open_source(DatasetDict(train=table, validation=table.select([0]), test=table.select([1, 2]))).parts
    assert {name: len(part) for name, part in parts.items()} == {"train": 3, "valid": 1, "test": 2}
    same_again = open_source(table.select([2, 0]), {"image": "img"}).parts["train"]
    assert same(arrays(same_again), [saved[2], saved[0]]) and same_again.identity != part.identity


def test_a_datasets_dataset_of_nested_lists():
    data = RNG.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    assert same(arrays(open_source(Dataset.from_dict({"image": data.tolist()})).parts["train"]), data)


def test_torch_datasets():
    data = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    part = open_source(TensorDataset(data, torch.tensor([3, 1, 3, 0]))).parts["train"]
    assert same(arrays(part), data.permute(0, 2, 3, 1).numpy())
    assert labels(part) == ["3", "1", "3", "0"]
    assert len(open_source(TensorDataset(data)).parts["train"]) == 4


def test_rows_as_tuples_and_dictionaries():
    part = open_source([("eins", 1), ("zwei", 2)]).parts["train"]
    assert texts(part) == ["eins", "zwei"] and labels(part) == ["1", "2"]
    part = open_source([{"image": picture(), "label": np.int64(i), "score": torch.tensor(0.5)} for i in (4, 2)]).parts[
        "train"
    ]
    assert labels(part) == ["4", "2"] and list(part.table["score"]) == [0.5, 0.5]
    parts = open_source({"train": ["a", "b"], "test": ["c"]}).parts
    assert {name: texts(part) for name, part in parts.items()} == {"train": ["a", "b"], "test": ["c"]}
    with pytest.raises(UserError, match="one object a part"):
        open_source({"image": [picture()], "label": [1]})


def test_equal_data_has_one_identity_and_other_data_another():
    data = picture()[None]
    one, again, other = (open_source(x).parts["train"].identity for x in (data, data.copy(), 255 - data))
    assert one == again != other


def test_texts_that_are_no_strings(tmp_path: Path):
    (tmp_path / "n.csv").write_text("text\n12\n\n34\n")
    assert texts(open_source(tmp_path / "n.csv").parts["train"]) == ["12", "34"]
    assert texts(open_source(Dataset.from_dict({"text": ["a", None]})).parts["train"]) == ["a", ""]
    with pytest.raises(UserError, match="'text' holds no strings"):
        open_source(Dataset.from_dict({"text": [[1], [2]]}))


def test_samples_open_as_sources():
    source = open_source("sample:digits")
    assert {name: len(part) for name, part in source.parts.items()} == {"train": 1433, "test": 364}
    assert source.parts["train"].table.features["label"] == Value("string")
    source.require("image")


MISTAKES: dict[str, tuple[str, dict[str, str], str]] = {
    "missing": ("nowhere/at-all", {}, "no such file or folder.*sample:NAME.*hf:ID"),
    "bare hub name": ("stanfordnlp/imdb", {}, "no such file or folder.*hf:ID"),
    "sample": ("sample:digitz", {}, "did you mean 'digits'"),
    "empty folder": ("empty", {}, "no data found in 0 files; looked for pictures"),
    "useless folder": ("useless", {}, "no data found in 1 files"),
    "empty table": ("empty.csv", {}, "is empty"),
    "only a header": ("header.csv", {}, "it has no rows"),
    "broken jsonl": ("broken.jsonl", {}, "broken.jsonl: cannot be read as jsonl"),
    "broken parquet": ("broken.parquet", {}, "cannot be read as parquet"),
    "one picture": ("one.png", {}, "is one picture; give the folder"),
    "column": ("good.csv", {"text": "boddy"}, "no column 'boddy'.*did you mean 'body'"),
    "meaning": ("good.csv", {"txt": "body"}, "'txt' is no meaning; did you mean 'text'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_at_once(tmp_path: Path, mistake: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "useless").mkdir()
    (tmp_path / "useless" / "x.xyz").write_text("?")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("text,label\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "broken.parquet").write_text("PAR1 not at all")
    (tmp_path / "good.csv").write_text("body,other\nhello,1\n")
    save(tmp_path / "one.png")
    given, columns, message = MISTAKES[mistake]
    start = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        open_source(given, columns)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.perf_counter() - start < 5


def test_a_missing_meaning_is_named(tmp_path: Path):
    (tmp_path / "good.csv").write_text("body,other\nhello,1\n")
    with pytest.raises(UserError, match="no column 'text', only: body, other; name one with --columns text=NAME"):
        open_source(tmp_path / "good.csv").require("text")


def test_links_in_a_circle_and_to_nowhere(tmp_path: Path):
    saved = save(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    part = open_source(tmp_path).parts["train"]
    assert [Path(cell["path"]).name for cell in part.table["image"]] == ["1.png", "gone.png"]
    assert np.array_equal(np.asarray(open_picture(cell_bytes(part.table[0]["image"]))), saved)


def test_a_cache_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "good.csv").write_text("text\nhello\n")
    with pytest.raises(UserError, match=r"cannot write under .*name another --cache"):
        open_source(tmp_path / "good.csv", cache=str(tmp_path / "file"))


def test_a_large_photo_is_decoded_at_a_fraction_with_almost_equal_pixels(tmp_path: Path):
    wave = np.sin(np.linspace(0, 60, 1600))[None] * np.cos(np.linspace(0, 40, 1200))[:, None]
    photo = PILImage.fromarray(np.stack([(wave * 100 + 128).astype(np.uint8)] * 3, 2))
    photo.save(tmp_path / "photo.jpg", quality=95)
    found = to_square(open_picture((tmp_path / "photo.jpg").read_bytes()), 64, 3)
    with PILImage.open(tmp_path / "photo.jpg") as image:
        whole = image.resize((64, 64), PILImage.Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.asarray(whole)).max() <= 3
