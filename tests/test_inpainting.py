"""Holes, what smoothness puts there, and pictures filled by a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inpainting import interpolated
from PIL import Image

from selfsup import cli
from selfsup.data.draw import Draw
from selfsup.data.facts import ImageFacts
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.filling import FillingNetwork, maps_and_vector
from selfsup.objectives import inpainting
from selfsup.ops.holes import blob_holes, block_holes, smooth_fill
from selfsup.predictors.inpainter import Inpainter
from selfsup.restoration import fill_pictures, restored

FACTS = ImageFacts(rows=100, channels=3, resolution=36, size=32, mean=(0.5,) * 3, sd=(0.25,) * 3)


def encoder(network: str = "resnet10t", arguments: dict | None = None) -> ImageEncoder:
    torch.manual_seed(0)
    narrow = {"stem_width": 8, "channels": (8, 8, 16, 16)}
    return ImageEncoder.create(network, narrow if arguments is None else arguments, 32, FACTS.mean, FACTS.sd)


def photos(rows: int, size: int = 32) -> torch.Tensor:
    """Smooth pictures with an edge in each, (B, 3, S, S) in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(rows, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def batch(rows: int) -> tuple[dict[str, torch.Tensor], Draw]:
    image = (photos(rows, 36) * 255).byte().permute(0, 2, 3, 1).contiguous()
    size = torch.full((rows,), 36, dtype=torch.int32)
    return {"image": image, "height": size, "width": size}, Draw(0, 0, torch.arange(rows))


def test_holes_have_their_size() -> None:
    draw = Draw(0, 0, torch.arange(200))
    blocks, blobs = block_holes(draw.uniform("a", 3), 32, 0.25), blob_holes(draw.uniform("b", 5, 5), 32, 0.25)
    assert blocks.shape == blobs.shape == (200, 1, 32, 32)
    assert (blobs.flatten(1).sum(1) == 256).all()
    area = blocks.flatten(1).sum(1).float()
    assert area.min() > 235 and area.max() < 277
    rows, columns = blocks[:, 0].any(2).sum(1), blocks[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, blocks.flatten(1).sum(1)), "a block is a rectangle"
    assert rows.min() < rows.max() and blocks.any(0).float().mean() > 0.95, "blocks are everywhere"
    assert len({tuple(hole.flatten().tolist()) for hole in blobs}) == 200


def test_smooth_filling_keeps_what_is_known_and_continues_a_slope() -> None:
    slope = torch.linspace(0, 1, 31)[None, None, :, None] + torch.linspace(0, 2, 32)[None, None, None, :]
    hole = torch.zeros(1, 1, 31, 32, dtype=torch.bool)
    hole[:, :, 10:18, 12:20] = True
    filled = smooth_fill(torch.where(hole, 99.0, slope), hole)
    assert torch.equal(filled[~hole], slope[~hole])
    assert (filled - slope).abs().max() < 0.15  # the slope rises by 2 from edge to edge of the picture
    assert torch.allclose(smooth_fill(torch.full((1, 2, 9, 7), 3.0), torch.ones(1, 1, 9, 7) > 2), torch.tensor(3.0))


def test_smooth_filling_is_about_as_good_as_interpolation_between_triangles() -> None:
    """The bilinear filling that inpainting has to beat is no straw man."""
    pictures, draw = photos(12), Draw(0, 0, torch.arange(12))
    hole = blob_holes(draw.uniform("hole", 5, 5), 32, 0.25)
    ours = (smooth_fill(pictures, hole) - pictures).square()[hole.expand_as(pictures)].mean()
    theirs = (interpolated(pictures, hole) - pictures).square()[hole.expand_as(pictures)].mean()
    assert 0 < ours < 1.2 * theirs


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("resnet10t", None),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2, "depths": (1, 1), "embed_dim": 24,
                                          "num_heads": (2, 2)}),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}),
    ],
)  # fmt: skip
def test_every_family_paints(network: str, arguments: dict | None) -> None:
    whole = encoder(network, arguments)
    pictures = torch.randn(2, 3, 32, 32)
    maps, vector = maps_and_vector(whole.module.eval(), pictures)
    edges = [one.shape[2] for one in maps]
    assert edges == sorted(set(edges)) and all(one.shape[2] == one.shape[3] for one in maps)
    assert torch.allclose(vector, whole.module(pictures), atol=1e-6)
    objective = inpainting.build(inpainting.Config(), FACTS, {"image": whole})
    rows, draw = batch(4)
    losses = objective(rows, draw)
    assert losses["loss"] == losses["trivial"], "it begins as the smooth filling"
    torch.nn.init.normal_(objective.network.decoder.leave.weight)
    objective(rows, draw)["loss"].backward()
    assert [name for name, weight in objective.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("region", ["block", "random"])
def test_the_loss_is_the_squared_error_inside_the_hole(region) -> None:
    objective = inpainting.build(inpainting.Config(region=region), FACTS, {"image": encoder()}).eval()
    torch.nn.init.normal_(objective.network.decoder.leave.weight, std=0.1)
    rows, draw = batch(3)
    views = objective.views(rows, draw)
    losses = objective(rows, draw, views)
    image, hole = views["image"], views["hole"]
    scrambled = torch.where(hole, torch.randn_like(image), image)
    assert torch.allclose(objective.network(scrambled, hole), objective.network(image, hole)), "it sees into the hole"
    filled, error = objective.network(image, hole).detach(), []
    for i in range(3):
        inside = [(filled - image)[i, c][hole[i, 0]] for c in range(3)]
        error.append(float(torch.cat(inside).square().mean()))
    assert losses["example_loss"].tolist() == pytest.approx(error, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(np.mean(error), rel=1e-4) and losses["count"] == 3


# In use


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported inpainter, whose decoder adds something."""
    whole = encoder()
    network = FillingNetwork(whole.module, 16, 32, 3)
    torch.nn.init.normal_(network.decoder.leave.weight, std=0.05)
    Inpainter(network, whole, 16).save(tmp_path / "reconstruct")
    return tmp_path / "reconstruct"


def holed(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A picture with a transparent block, written to `path`; returns its pixels."""
    pixels = (photos(1, max(size))[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)[: size[1], : size[0]]
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[5:15, 8:20] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(path)
    return pixels


def test_a_saved_inpainter_fills_as_before(folder: Path) -> None:
    found = Inpainter.load(folder)
    pictures, hole = photos(2), torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    hole[:, :, 4:14, 8:20] = True
    filled = found.fill(pictures, hole)
    keep = ~hole.expand_as(pictures)
    assert torch.allclose(filled[keep], pictures[keep], atol=1e-6)
    again = Inpainter.load(folder).fill(pictures, hole)
    assert torch.equal(filled, again) and not torch.allclose(filled, smooth_fill(pictures, hole), atol=1e-3)
    assert torch.allclose(restored(found, pictures[1], hole[1, 0]), filled[1], atol=1e-6)


def test_pictures_of_any_size_are_filled_where_they_are_transparent(folder: Path, tmp_path: Path) -> None:
    sizes = {"a.png": (32, 32), "deeper/wide.png": (90, 50), "b.webp": (40, 61)}
    before = {name: holed(tmp_path / "photos" / name, size) for name, size in sizes.items()}
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "whole.jpg")
    files = fill_pictures(folder, tmp_path / "photos", tmp_path / "out")
    assert sorted(file.relative_to(tmp_path / "out").as_posix() for file in files) == [
        "a.png", "b.png", "deeper/wide.png",
    ]  # fmt: skip
    for name in ("a.png", "deeper/wide.png"):
        after = np.asarray(Image.open(tmp_path / "out" / name)).astype(int)
        changed = np.abs(after - before[name]).max(2)
        outside = np.ones_like(changed, bool)
        outside[5:15, 8:20] = False
        assert after.shape == before[name].shape and changed[outside].max() == 0 and changed[~outside].max() < 120


def test_a_mask_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    Image.fromarray((photos(1)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (file,) = fill_pictures(folder, tmp_path / "photo.png", tmp_path / "out", tmp_path / "mask.png")
    changed = np.asarray(Image.open(file)) != np.asarray(Image.open(tmp_path / "photo.png"))
    assert changed[8:16, 8:16].any() and not changed[16:].any() and not changed[:, :8].any()


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys) -> None:
    holed(tmp_path / "holed.png", (32, 32))
    Image.new("RGB", (9, 9)).save(tmp_path / "whole.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    for arguments, said in (
        (["fill", folder, tmp_path / "holed.png"], "give a folder for them with --out"),
        (["fill", folder, tmp_path / "nowhere.png", "--out", tmp_path / "o"], "no such file or folder"),
        (["fill", folder, tmp_path / "empty", "--out", tmp_path / "o"], "no picture in it"),
        (["fill", folder, tmp_path / "whole.png", "--out", tmp_path / "o"], "nothing is missing"),
        (["fill", folder, tmp_path / "holed.png", "--out", tmp_path / "o", "--mask", tmp_path / "text.png"], "--mask"),
        (["fill", tmp_path / "empty", "photo.png", "--out", tmp_path / "o"], "which"),
        (["fill", folder, tmp_path / "holed.png", "--out", tmp_path / "whole.png" / "o"], "cannot write"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            cli.run([str(argument) for argument in arguments])
        assert "\n" not in str(caught.value)
    assert cli.run(["fill", str(folder), str(tmp_path / "holed.png"), "--out", str(tmp_path / "o"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(tmp_path / "o" / "holed.png")}


def test_a_run_of_language_does_not_fill_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing that fills pictures; a run of inpainting does"):
        fill_pictures(tmp_path, tmp_path, tmp_path / "o")
