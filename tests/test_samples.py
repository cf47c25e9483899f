"""The samples: equal on every call, well formed, answerable, and nothing held out that was seen in training."""

from __future__ import annotations

import sysconfig
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import center_of_mass
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from selfsup.data import samples
from selfsup.data.samples import FONTS, OFFSET, POINT_SIZES, SAMPLES, load_sample
from selfsup.errors import UserError

Parts = dict[str, dict[str, list]]


@pytest.fixture(scope="module")
def loaded() -> dict[str, Parts]:
    return {name: load_sample(name) for name in SAMPLES}


@pytest.fixture(scope="module")
def cmaps() -> dict[str, set[str]]:
    """What each font has, by another reader of font files."""
    found = {}
    for font in [*FONTS["train"], *FONTS["test"]]:
        with TTFont(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf", lazy=True) as table:
            found[font] = {chr(code) for code in table.getBestCmap()}
    return found


@pytest.mark.parametrize("name", ["digits", "glyphs", "code"])  # prose reads in the order of code
def test_two_calls_are_equal(loaded: dict[str, Parts], name: str) -> None:
    again = load_sample(name)
    assert again.keys() == loaded[name].keys()
    for part, columns in again.items():
        assert columns.keys() == loaded[name][part].keys()
        for column, values in columns.items():
            pairs = zip(values, loaded[name][part][column], strict=True)
            assert all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", SAMPLES)
def test_columns_fit_together(loaded: dict[str, Parts], name: str) -> None:
    for part, columns in loaded[name].items():
        assert part in ("train", "test") and columns.keys() <= {"image", "label", "text"}
        assert len({len(values) for values in columns.values()}) == 1
        assert all(type(text) is str and text for text in columns.get("text", []) + columns.get("label", []))
        for image in columns.get("image", []):
            assert image.dtype == np.uint8 and image.shape == columns["image"][0].shape
            assert image.flags.owndata or name == "digits"  # 10,000 views of temporary buffers would pin them all
    assert "\n" not in SAMPLES[name]


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_labels_of_test_are_known_from_train(loaded: dict[str, Parts], name: str) -> None:
    train, test = loaded[name]["train"], loaded[name]["test"]
    assert set(test["label"]) <= set(train["label"])
    seen = {image.tobytes() for image in train["image"]}
    assert not any(image.tobytes() in seen for image in test["image"])


def test_digits_are_those_of_scikit_learn(loaded: dict[str, Parts]) -> None:
    parts, bunch = loaded["digits"], load_digits()
    ours = parts["train"]["image"] + parts["test"]["image"]
    labels = parts["train"]["label"] + parts["test"]["label"]
    restored = sorted((label, *np.rint(image / 255 * 16).ravel()) for image, label in zip(ours, labels, strict=True))
    assert restored == sorted((str(digit), *row) for row, digit in zip(bunch.data, bunch.target, strict=True))
    for digit in map(str, range(10)):
        held_out = parts["test"]["label"].count(digit)
        assert held_out / (held_out + parts["train"]["label"].count(digit)) == pytest.approx(0.2, abs=0.005)


def test_no_font_is_in_both_parts() -> None:
    assert not FONTS["train"].keys() & FONTS["test"].keys()
    assert set(" ".join(FONTS["test"].values()).split()) <= set(" ".join(FONTS["train"].values()).split())


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_glyph_that_a_font_has_is_there_once_a_size(
    loaded: dict[str, Parts], cmaps: dict[str, set[str]], part: str
) -> None:
    labels = sorted(set(loaded["glyphs"]["train"]["label"]))
    expected = [
        f"{unicodedata.name(character).lower()}, {style}"
        for font, style in FONTS[part].items()
        for character in labels
        if character in cmaps[font]
    ]
    assert sorted(loaded["glyphs"][part]["text"]) == sorted(expected * len(POINT_SIZES))


def test_glyph_counts(loaded: dict[str, Parts], cmaps: dict[str, set[str]]) -> None:
    train, test = loaded["glyphs"]["train"], loaded["glyphs"]["test"]
    labels = set(train["label"])
    assert 4000 <= len(train["image"]) <= 12000 and len(test["image"]) >= 1000 and 300 <= len(labels) <= 500
    assert train["image"][0].shape == (32, 32)
    assert all(sum(label in cmap for cmap in cmaps.values()) >= 12 for label in labels)


def test_twins_are_left_out_and_look_alikes_are_not(loaded: dict[str, Parts]) -> None:
    labels = set(loaded["glyphs"]["train"]["label"])
    # Latin, Greek and Cyrillic letters of one shape; then Greek and Cyrillic ones.
    for kept, *dropped in (
        (0x41, 0x391, 0x410), (0x42, 0x392, 0x412), (0x48, 0x397, 0x41D), (0x4F, 0x39F, 0x41E), (0x50, 0x3A1, 0x420),
        (0x6F, 0x3BF, 0x43E), (0x70, 0x440), (0x393, 0x413), (0x3A0, 0x41F), (0x3BA, 0x43A),
    ):  # fmt: skip
        assert chr(kept) in labels and not labels.intersection(map(chr, dropped))
    assert set("0O1lI|/()[]{}.,:;'EFQCG\u0416\u044f\u0431\u0449\u03a8\u03c9\u03bb\u2192\u21d0\u2211\u221e") <= labels


def test_glyphs_are_the_font_moved_a_little(loaded: dict[str, Parts], cmaps: dict[str, set[str]]) -> None:
    """Against plain Pillow: one baseline a font, no more than the stated shift and turn, nothing cut off."""
    train = loaded["glyphs"]["train"]
    font, style = next(iter(FONTS["train"].items()))
    labels = sorted(cmaps[font] & set(train["label"]))
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    shifts = []
    for size_number, size in enumerate(POINT_SIZES):
        face = ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
        for number, character in enumerate(labels):
            row = size_number * len(labels) + number
            assert train["label"][row] == character and train["text"][row].endswith(f", {style}")
            plain = Image.new("L", (40, 40))
            left = round(20 - face.getlength(character) / 2)
            ImageDraw.Draw(plain).text((left, 29), character, fill=255, font=face, anchor="ls")
            ink, expected = train["image"][row].astype(float), np.asarray(plain, float)
            scale = len(expected) / len(ink)
            assert ink.sum() * scale**2 == pytest.approx(expected.sum(), rel=0.15), character
            center = (np.array(center_of_mass(ink)) + 0.5) * scale - 0.5
            shifts.append(center - center_of_mass(expected))
    slack = 1.5  # three degrees at the corner of a glyph, and the rounding of the plain one to whole pixels
    extent = np.abs(shifts).max(axis=0)  # (2,)
    assert (extent < OFFSET + slack).all() and (extent > OFFSET * 0.7).all()
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.6


def test_raw_pixels_leave_something_to_learn(loaded: dict[str, Parts]) -> None:
    train, test = loaded["glyphs"]["train"], loaded["glyphs"]["test"]
    some = slice(None, None, 7)
    rows = [normalize(np.stack(part["image"]).reshape(-1, 1024).astype(np.float32)) for part in (train, test)]
    knn = KNeighborsClassifier(1, algorithm="brute").fit(rows[0], train["label"])
    assert 0.4 < knn.score(rows[1][some], test["label"][some]) < 0.75


def test_prose_and_code(loaded: dict[str, Parts]) -> None:
    prose, code = loaded["prose"]["train"]["text"], loaded["code"]["train"]["text"]
    assert len(prose) > 250 and 1_000_000 < sum(map(len, prose)) < 10_000_000
    assert len(code) > 300 and 4_000_000 < sum(map(len, code)) <= samples.MOST_CODE
    assert min(map(len, prose + code)) >= samples.SHORTEST
    assert len(set(prose)) == len(prose)
    # JSON's encoder stands in both: as source with its keywords, as prose without.
    sentence = "encoder for Python data structures."
    (source,), (text,) = ([document for document in documents if sentence in document] for documents in (code, prose))
    assert "import re" in source and "import re" not in text
    assert text.index(sentence) < text.index("Return a JSON string representation")
    assert prose[0].startswith('The "assert" statement')


def test_sources_skip_tests_and_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x = 'long enough to be a document'\n" * 20
    files = {"b.py": long + "#b", "a/c.py": long + "#c", "test/t.py": long, "site-packages/p.py": long, "short.py": "x"}
    for path, source in {**files, "_sysconfigdata_x.py": long, "config-3/y.py": long}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    (tmp_path / "latin.py").write_bytes(long.encode() + b"# \xe9\xff")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert load_sample("code")["train"]["text"] == [long + "#c", long + "#b"]
    monkeypatch.setattr(samples, "MOST_CODE", len(long) + 10)
    assert load_sample("code")["train"]["text"] == [long + "#c"]


def test_docstrings_stand_in_order_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["One " * 99 + ".", "Two.", "Three.", "Four."]
    lines = '"""%s"""|class A:|  """%s"""|  def f(self):|    """%s"""|    1/0|async def g():|  """%s"""|1/0'
    (tmp_path / "good.py").write_text(lines.replace("|", "\n") % tuple(words))
    (tmp_path / "bad.py").write_text('"""' + "no docstring " * 99)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert load_sample("prose")["train"]["text"][-1] == "\n\n".join(words)


def test_python_without_sources_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(UserError, match="without its sources"):
        load_sample("prose")


def test_unknown_name_is_answered_with_the_nearest() -> None:
    answer = "there is no sample 'glyph': did you mean 'glyphs'? allowed: code, digits, glyphs, prose"
    with pytest.raises(UserError) as error:
        load_sample("glyph")
    assert str(error.value) == answer
