"""Every objective for pictures learns from any number of channels, and says what it cannot work with in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import selfsup
from selfsup.data.facts import of_pictures
from selfsup.errors import UserError
from selfsup.names import objective_names
from selfsup.objective import load_objective
from selfsup.recipes import Budget, ImageData, Recipe

NAMES = [name for name in objective_names() if isinstance(load_objective(name).tiny().data, ImageData)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By channels, a folder of 60 pictures of 18 px: gray PNG, and arrays of five channels, as NPY and TIFF."""
    root, generator = tmp_path_factory.mktemp("channels"), np.random.default_rng(0)
    found = {1: root / "gray", 5: root / "five"}
    for folder in found.values():
        folder.mkdir()
    for number in range(60):
        pixels = generator.integers(0, 256, (18, 18, 5), np.uint8)
        Image.fromarray(pixels[..., 0]).save(found[1] / f"{number}.png")
        np.save(found[5] / f"{number}.npy", pixels)
    for channels, ending in ((1, "png"), (5, "npy")):  # and captions, for who reads some
        lines = (json.dumps({"file_name": f"{n}.{ending}", "text": f"picture {n}"}) for n in range(60))
        (found[channels] / "metadata.jsonl").write_text("\n".join(lines))
    return found


def recipe_for(name: str, source: Path, steps: int = 2) -> Recipe:
    tiny = load_objective(name).tiny()
    data, optimizer = replace(tiny.data, source=str(source)), replace(tiny.optimizer, batch=16)
    return replace(tiny, data=data, optimizer=optimizer, budget=Budget(steps=steps), precision="float32")


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_channels(name: str, channels: int, folders: dict[int, Path], tmp_path: Path) -> None:
    run = selfsup.train(recipe_for(name, folders[channels]), tmp_path / "run", quiet=True)
    encoder = selfsup.load(run.folder)
    facts = of_pictures(run.facts)
    assert facts is not None and facts.channels == len(encoder.about.mean) == channels
    pictures = np.random.default_rng(1).integers(0, 256, (3, 20, 20, channels), np.uint8)
    vectors = encoder.encode(list(pictures))
    assert vectors.isfinite().all() and vectors.std(0).max() > 0
    drawn = np.asarray(Image.open(run.folder / "pictures" / "views.png"))
    assert drawn.std() > 0


@pytest.mark.parametrize("name", ["mae", "dino"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pixels": 18, "patch": 4}, "patches of 4 px, and pictures of 18 px are not whole numbers of these"),
        ({"pixels": 8, "patch": 16}, "pictures of 8 px are not whole numbers of these; type --pixels 16"),
        ({"network": "resnet10t"}, "which resnet10t is not; drop --network"),
    ],
)
def test_transformers_say_what_they_cannot_cut(
    name: str, settings: dict, said: str, folders: dict[int, Path], tmp_path: Path
) -> None:
    recipe = selfsup.recipe(name, data=str(folders[1]), steps=2, batch=16, **settings)
    with pytest.raises(UserError, match=said) as caught:
        selfsup.train(recipe, tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_crop_larger_than_the_picture_is_refused(folders: dict[int, Path], tmp_path: Path) -> None:
    recipe = selfsup.recipe("dino", data=str(folders[1]), pixels=16, patch=4, small_size=32, steps=2, batch=16)
    with pytest.raises(UserError, match="--small-size 32: allowed are multiples of 4, the patch, up to 16"):
        selfsup.train(recipe, tmp_path / "run", quiet=True)


def test_a_batch_below_the_range_is_named_with_it(
    folders: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selfsup.train(recipe_for("simclr", folders[1]), tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("doctor: --batch 16")]
    assert len(said) == 1 and "known to work is 64 or more" in said[0]
