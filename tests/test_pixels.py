"""Prepared pictures: right pixels, bad ones named and replaced, equal with and without the cache."""

from __future__ import annotations

import io
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup.data import pixels as pixels_module
from selfsup.data.draw import Draw
from selfsup.data.image import PictureReader
from selfsup.data.part import Part, label_column
from selfsup.data.pixels import PixelStore, open_pixels, probe_sizes
from selfsup.data.source import Data, open_source
from selfsup.errors import UserError
from selfsup.prepare import edge_for, prepare_pictures
from selfsup.progress import Progress
from selfsup.recipes import ImageData

R = 12


def noise(seed: int, height: int = 15, width: int = 20, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder_of(folder: Path, count: int, ending: str = ".png", channels: int = 3) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:03}{ending}" for i in range(count)]
    for i, file in enumerate(files):
        Image.fromarray(noise(i, channels=channels)).save(file)
    return files


def opened(data: Data, budget: int = 10**9, channels: int | None = None, resolution: int = R) -> PixelStore:
    part = open_source(data).parts["train"]
    root = Path(os.environ["SELFSUP_CACHE"])
    return open_pixels(
        part.table, part.identity, resolution, root, budget, lambda *_: None, label_column(part.table), channels
    )


def read(file: Path) -> Image.Image:
    return Image.open(io.BytesIO(file.read_bytes()))


def reference(image: Image.Image, mode: str = "RGB", resolution: int = R) -> np.ndarray:
    """PIL's own resize."""
    found = np.asarray(image.convert(mode).resize((resolution, resolution), Image.Resampling.BILINEAR))
    return found if mode == "RGB" else found[:, :, None]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".webp", ".gif"])
def test_pixels_are_those_of_pil(tmp_path: Path, ending: str):
    files = folder_of(tmp_path, 3, ending)
    store = opened(tmp_path)
    expected = np.stack([reference(read(file)) for file in files])
    assert np.array_equal(store.pixels(slice(None)), expected)
    assert np.array_equal(store.pixels(np.array([2, 0])), expected[[2, 0]])
    height, width = store.sizes(np.arange(3))
    assert set(height) == {15} and set(width) == {20} and store.channels == 3
    assert store.names() == [str(file) for file in files]


def test_pictures_of_the_stored_size_are_kept_bit_by_bit(tmp_path: Path):
    data = np.stack([noise(i, R, R) for i in range(4)])
    assert np.array_equal(opened(data).pixels(slice(None)), data)
    data = np.stack([noise(i, R, R, 5) for i in range(4)])
    assert np.array_equal(opened(data).pixels(slice(None)), data)


def test_five_channels_are_resized_one_by_one():
    data = np.stack([noise(i, 15, 20, 5) for i in range(2)])
    expected = np.concatenate([reference(Image.fromarray(data[0, :, :, c]), "L") for c in range(5)], 2)
    assert np.array_equal(opened(data).pixels([0])[0], expected)


def test_gray_stays_gray_until_a_color_picture_comes(tmp_path: Path):
    files = folder_of(tmp_path, 4, channels=1)
    store = opened(tmp_path)
    assert store.channels == 1 and store.pixels([1]).shape == (1, R, R, 1)
    assert np.array_equal(store.pixels([1])[0], reference(read(files[1]), "L"))
    Image.fromarray(noise(9)).save(tmp_path / "z.png")
    mixed = opened(tmp_path)
    assert mixed.channels == 3
    assert np.array_equal(mixed.pixels([1, 4]), np.stack([reference(read(f)) for f in (files[1], tmp_path / "z.png")]))
    assert opened(tmp_path, channels=1).pixels([4]).shape == (1, R, R, 1)  # as the part that it goes with


def transparent() -> Image.Image:
    image = Image.fromarray(noise(0, R, R)).convert("RGBA")
    image.putalpha(Image.fromarray(np.tri(R, dtype=np.uint8) * 255))
    return image


def test_transparent_parts_are_white(tmp_path: Path):
    image = transparent()
    image.save(tmp_path / "a.png")
    palette = Image.fromarray(noise(1, R, R)).quantize(16)
    palette.save(tmp_path / "b.png")
    palette.save(tmp_path / "c.png", transparency=bytes([0] * 8 + [255] * 8))
    image.convert("LA").save(tmp_path / "d.png")
    color, flat, cut, gray = opened(tmp_path).pixels(slice(None))
    seen = np.tri(R, dtype=bool)
    assert np.array_equal(color, np.where(seen[:, :, None], noise(0, R, R), 255))
    assert np.array_equal(flat, np.asarray(palette.convert("RGB")))
    hidden = np.asarray(palette) < 8
    assert np.array_equal(cut, np.where(hidden[:, :, None], 255, np.asarray(palette.convert("RGB"))))
    assert (gray[~seen] == 255).all() and np.array_equal(gray[seen][:, 0], np.asarray(image.convert("L"))[seen])


def test_sixteen_bits_give_their_upper_eight(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 65536, (R, R)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "b.tif")
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "c.tif")
    store = opened(tmp_path)
    assert store.channels == 1
    assert np.array_equal(store.pixels([0, 1])[..., 0], np.stack([values >> 8] * 2))
    assert np.abs(store.pixels([2])[0, :, :, 0].astype(int) - (values >> 8)).max() <= 1


def test_pictures_stand_upright(tmp_path: Path):
    upright = Image.fromarray(noise(0, 15, 20))
    for mark, turn in ((6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)):
        exif = Image.Exif()
        exif[0x0112] = mark
        upright.transpose(turn).save(tmp_path / f"{mark}.png", exif=exif)
    store = opened(tmp_path)
    assert np.array_equal(store.pixels([0, 1]), np.stack([reference(upright)] * 2))
    assert [tuple(size) for size in zip(*store.sizes([0, 1]), strict=True)] == [(15, 20)] * 2


def spoil(files: list[Path]) -> None:
    """1: no picture; 4: cut off; 5: empty; 9, the last: a link to nowhere."""
    files[1].write_bytes(b"no picture at all")
    files[4].write_bytes(files[4].read_bytes()[:-300])
    files[5].write_bytes(b"")
    files[9].unlink()
    files[9].symlink_to("nowhere.png")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("budget", [10**9, 0])
def test_a_bad_picture_is_counted_named_and_replaced(
    tmp_path: Path, ending: str, budget: int, caplog: pytest.LogCaptureFixture
):
    files = folder_of(tmp_path / "a", 10, ending)
    spoil(files)
    folder_of(tmp_path / "b", 1)
    with caplog.at_level(logging.WARNING, "selfsup"):
        store = opened(tmp_path, budget)
    assert len(store) == 11  # rows keep their numbers
    assert [(row, Path(name).name) for row, name, _ in store.bad] == [(i, files[i].name) for i in (1, 4, 5, 9)]
    assert f"4 of 11 pictures cannot be read and are skipped, such as {files[1]}" in caplog.text
    shown = store.pixels(slice(None))
    for bad, good in ((1, 2), (4, 6), (5, 6), (9, 10)):
        assert np.array_equal(shown[bad], shown[good])
        assert store.digests[bad] == store.digests[good]  # or one of them could be held out from the other
        assert [size[0] for size in store.sizes([bad])] == [size[0] for size in store.sizes([good])]
    assert np.array_equal(shown[2], reference(read(files[2])))
    assert [int(label) for label in store.label_rows()] == [0, -1, 0, 0, -1, -1, 0, 0, 0, -1, 1]
    with caplog.at_level(logging.WARNING, "selfsup"):
        caplog.clear()
        opened(tmp_path, budget)
    assert "4 of 11" in caplog.text  # said again, not only when it was built


def test_the_last_row_wraps_to_the_first_good_one(tmp_path: Path):
    files = folder_of(tmp_path, 4)
    for bad in (0, 3):
        files[bad].write_bytes(b"")
    store = opened(tmp_path)
    assert np.array_equal(store.pixels([3, 0]), store.pixels([1, 1]))


def test_strange_contents_are_bad_pictures_not_crashes(tmp_path: Path):
    whole = [file.read_bytes() for file in (*folder_of(tmp_path / "p", 1), *folder_of(tmp_path / "j", 1, ".jpg"))]
    buffer = io.BytesIO()
    Image.fromarray(noise(0)).save(buffer, "TIFF")
    rng = np.random.default_rng(0)
    for number in range(60):
        content = bytearray([*whole, buffer.getvalue()][number % 3])
        for place in rng.integers(0, len(content), 8):
            content[place] = rng.integers(256)
        (tmp_path / f"{number}.{['png', 'jpg', 'tif'][number % 3]}").write_bytes(content)
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00nonsense")
    np.save(tmp_path / "b.npy", noise(0, 4, 4, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **options: None)  # PIL's, in threads
        store = opened(tmp_path)
    assert len(store) == 64 and 2 <= len(store.bad) < 60
    assert all(reason and "\n" not in reason for _, _, reason in store.bad)


def test_no_good_picture_at_all_is_a_mistake(tmp_path: Path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"none of the 2 pictures could be read; the first: .*a\.png: "):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"none of the 2 pictures looked at could be read; the first: .*a\.png"):
        probe_sizes(open_source(tmp_path).parts["train"].table)


def test_without_a_cache_pixels_are_equal(tmp_path: Path):
    folder_of(tmp_path, 7, ".jpg")
    kept, decoded = opened(tmp_path), opened(tmp_path, budget=7 * R * R * 3 - 1)
    assert kept.squares is not None and decoded.squares is None
    rows = np.array([6, 0, 3, 3])
    assert np.array_equal(kept.pixels(rows), decoded.pixels(rows))
    assert kept.moments() == decoded.moments() and np.array_equal(kept.digests, decoded.digests)
    (tmp_path / "003.jpg").unlink()
    with pytest.raises(UserError, match=r"003\.jpg cannot be read any more"):
        decoded.pixels(rows)


def test_a_store_is_built_once_and_again_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files, built = folder_of(tmp_path, 3), []
    inner = pixels_module.write_squares

    def counting(folder: Path, squares: object, channels: int | None) -> None:
        built.append(folder)
        inner(folder, squares, channels)  # type: ignore[arg-type]

    monkeypatch.setattr(pixels_module, "write_squares", counting)
    first = opened(tmp_path).pixels([1])
    opened(tmp_path)
    opened(tmp_path, budget=2 * 10**9)  # as much as is needed fits in both
    assert len(built) == 1
    Image.fromarray(noise(99)).save(files[1])
    os.utime(files[1], ns=(0, 10**18))
    assert not np.array_equal(opened(tmp_path).pixels([1]), first) and len(built) == 2


def test_moments_are_those_of_the_pixels_shown(tmp_path: Path):
    data = np.stack([noise(i, R, R) // (i + 1) for i in range(5)])
    data[..., 2] = 7
    store = opened(data)
    for one, shown in ((store, data), (store.subset(np.array([4, 2])), data[[4, 2]])):
        mean, sd = one.moments()
        assert mean == pytest.approx(shown.mean((0, 1, 2)) / 255, abs=1e-9)
        assert sd[:2] == pytest.approx(shown.std((0, 1, 2))[:2] / 255, abs=1e-9)
        assert sd[2] == pytest.approx(1 / 255)  # constant, so nothing is divided by 0


def test_a_picked_store_shows_its_own_rows(tmp_path: Path):
    files = folder_of(tmp_path / "a", 3) + folder_of(tmp_path / "b", 3)
    store = opened(tmp_path)
    some = store.subset(np.array([5, 1, 2])).subset(np.array([0, 2]))
    assert some.names() == [str(files[5]), str(files[2])] and some.label_rows().tolist() == [1, 0]
    assert np.array_equal(some.pixels(slice(None)), store.pixels([5, 2])) and len(some) == 2


@pytest.mark.parametrize("kind", ["folder", "array"])
def test_a_pickled_reader_holds_no_pixels(tmp_path: Path, kind: str):
    folder_of(tmp_path, 40)
    data: Data = tmp_path if kind == "folder" else np.stack([noise(i, 64, 64) for i in range(40)])
    store = opened(data, resolution=64)  # 490 kB of pixels
    store.pixels([0])
    packed = pickle.dumps(PictureReader(store))
    assert len(packed) < 40_000
    draw = Draw(0, 0, torch.tensor([3, 1]))
    one, other = PictureReader(store).gather(draw), pickle.loads(packed).gather(draw)
    assert one.keys() == other.keys() == {"image", "height", "width"}
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_probing_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder_of(tmp_path, 5, ".jpg")
    Image.fromarray(noise(0, 100, 300)).save(tmp_path / "large.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture was decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("a picture was decoded"))
    assert probe_sizes(open_source(tmp_path).parts["train"].table) == 15


def shown(store: PixelStore) -> set[bytes]:
    return {square.tobytes() for square in store.pixels(slice(None))}


def prepared(data: Data, **settings: object):
    return prepare_pictures(open_source(data), ImageData(source="x", **settings), gpu=False, progress=Progress(False))  # type: ignore[arg-type]


def test_one_picture_in_twenty_is_held_out_and_duplicates_stay_together():
    data = np.random.default_rng(0).integers(0, 256, (3000, 8, 8), dtype=np.uint8)
    data = np.concatenate([data, data[:1000], data[:1000]])
    found = prepared(data)
    assert found.held_out is not None
    assert len(found.held_out) / 5000 == pytest.approx(0.05, abs=0.015)  # 3.3 standard errors
    rows = np.concatenate([found.train.rows, found.held_out.rows])
    assert sorted(rows) == list(range(5000))
    train, held_out = (shown(part) for part in (found.train, found.held_out))
    assert not train & held_out
    assert found.facts.rows == len(found.train) and found.facts.channels == 1
    again = prepared(data)
    assert np.array_equal(again.held_out.rows, found.held_out.rows)


def test_bad_pictures_are_not_held_out_from_their_own_copies(tmp_path: Path):
    for file in folder_of(tmp_path, 60)[:50]:
        file.write_bytes(b"")
    found = prepared(tmp_path)
    assert found.held_out is None or not shown(found.train) & shown(found.held_out)


def test_the_users_own_part_is_held_out_with_the_channels_of_training(tmp_path: Path):
    folder_of(tmp_path / "train", 5, channels=1)
    folder_of(tmp_path / "valid", 4)
    folder_of(tmp_path / "test", 3)
    found = prepared(tmp_path)
    assert (len(found.train), len(found.held_out), found.facts.channels, found.held_out.channels) == (5, 4, 1, 1)
    assert found.held_out.pixels([0]).shape[-1] == 1


def test_the_working_size_follows_the_pictures():
    assert [edge_for(edge, False) for edge in (8, 28, 32, 40, 64, 96, 100, 500)] == [16, 32, 32, 40, 64, 96, 96, 96]
    assert edge_for(500, True) == 224
    found = prepared(np.stack([noise(i, 80, 90) for i in range(3)]))
    assert (found.facts.size, found.facts.resolution) == (64, 74)
    found = prepared(np.stack([noise(i, 80, 90) for i in range(3)]), pixels=24)
    assert (found.facts.size, found.facts.resolution) == (24, 28)


def test_labels_by_folder_and_by_column(tmp_path: Path):
    folder_of(tmp_path / "owl", 2)
    folder_of(tmp_path / "elk", 1)
    store = opened(tmp_path)
    assert store.classes == ("elk", "owl") and store.label_rows().tolist() == [0, 1, 1]
    part = open_source([{"image": noise(i), "label": label} for i, label in enumerate(["b", None, "a"])]).parts["train"]
    assert isinstance(part, Part)
    numbers, classes = label_column(part.table)
    assert numbers.tolist() == [1, -1, 0] and classes == ("a", "b")
