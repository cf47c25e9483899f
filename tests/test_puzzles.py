"""Jigsaw and rotation: puzzles invert, permutations are far apart, turns are turns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from selfsup.data.draw import Draw
from selfsup.data.facts import ImageFacts
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.objectives import jigsaw, rotation
from selfsup.ops.puzzles import cut_tiles, distant_permutations, mosaic, shuffled

FACTS = ImageFacts(rows=100, channels=3, resolution=36, size=30, mean=(0.5,) * 3, sd=(0.25,) * 3)


def encoder(network: str = "resnet10t", arguments: dict | None = None, size: int = 30) -> ImageEncoder:
    torch.manual_seed(0)
    narrow = {"stem_width": 8, "channels": (8, 8, 16, 16)}
    return ImageEncoder.create(network, narrow if arguments is None else arguments, size, FACTS.mean, FACTS.sd)


def batch(rows: int) -> tuple[dict[str, torch.Tensor], Draw]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (rows, 36, 36, 3), generator=generator, dtype=torch.uint8)
    size = torch.full((rows,), 36, dtype=torch.int32)
    return {"image": image, "height": size, "width": size}, Draw(0, 0, torch.arange(rows))


def test_permutations_are_far_apart() -> None:
    orders = torch.tensor(distant_permutations(9, 100))
    distance = (orders[:, None] != orders[None]).sum(2)
    assert torch.equal(orders.sort(1).values, torch.arange(9).expand(100, -1))
    assert distance.fill_diagonal_(9).min() >= 6  # of random ones some two differ in three places
    assert distance.float().mean() > 8.0  # random permutations: 8
    assert len(set(distant_permutations(4, 24))) == 24 and distant_permutations(4, 3)[0] == (0, 1, 2, 3)


def test_more_permutations_than_there_are() -> None:
    with pytest.raises(UserError, match="--permutations 25: 4 tiles have 24"):
        distant_permutations(4, 25)


def test_puzzles_invert() -> None:
    """Without gaps, the tiles put back by their order are the picture."""
    pictures = torch.randn(5, 2, 12, 12)
    tiles = cut_tiles(pictures, 3, 4, torch.zeros(5, 9, 2, dtype=torch.int64))
    assert torch.equal(mosaic(tiles, 3, 0), pictures)
    order = Draw(0, 0, torch.arange(5)).permutation("order", 9)
    posed = shuffled(tiles, order)
    assert not torch.equal(posed, tiles)
    assert torch.equal(posed[2, 7], tiles[2, order[2, 7]])
    assert torch.equal(mosaic(shuffled(posed, order.argsort(1)), 3, 0), pictures)


def test_tiles_lie_where_they_should() -> None:
    picture = torch.arange(144.0).view(1, 1, 12, 12)
    offsets = torch.zeros(1, 9, 2, dtype=torch.int64)
    offsets[0, 5] = torch.tensor([1, 2])
    tile = cut_tiles(picture, 3, 2, offsets)[0, 5, 0]  # second row, third column of cells
    assert torch.equal(tile, picture[0, 0, 5:7, 10:12])


def test_views_of_jigsaw() -> None:
    objective = jigsaw.build(jigsaw.Config(), FACTS, {"image": encoder()})
    rows, draw = batch(400)
    views = objective.views(rows, draw)
    assert views["tiles"].shape == (400, 9, 3, 8, 8)
    assert torch.allclose(views["tiles"].mean((2, 3, 4)), torch.zeros(400, 9), atol=1e-4)
    assert torch.allclose(views["tiles"].square().mean((2, 3, 4)), torch.ones(400, 9), atol=3e-2)
    assert len(views["answer"].unique()) > 90


def test_losses_equal_their_formula() -> None:
    """Cross-entropy in independent lines; a permutation's logit from the tiles' vectors side by side."""
    objective = jigsaw.build(jigsaw.Config(), FACTS, {"image": encoder()}).eval()
    rows, draw = batch(3)
    losses = objective(rows, draw)
    views = objective.views(rows, draw)
    right = []
    for tiles, answer in zip(views["tiles"], views["answer"].tolist(), strict=True):
        vectors = torch.cat([objective.head.each(objective.backbone(tile[None])) for tile in tiles], 1)
        logits = objective.head.together(vectors)[0].double()
        right.append(logits.exp().sum().log() - logits[answer])
    assert torch.allclose(losses["example_loss"].double(), torch.stack(right), atol=1e-5)
    assert losses["trivial"] == pytest.approx(math.log(100))
    turned = rotation.build(rotation.Config(), FACTS, {"image": encoder()}).eval()
    found = turned(rows, draw)
    crop = turned.views(rows, draw)["image"][:, 0]
    each = []
    for turns in range(4):
        shown = crop
        for _ in range(turns):  # a quarter counterclockwise: what was right is up
            shown = shown.transpose(2, 3).flip(2)
        each.append(F.cross_entropy(turned.head(turned.backbone(shown)), torch.full((3,), turns)))
    assert torch.allclose(found["loss"], torch.stack(each).mean(), atol=1e-6) and found["count"] == 12


def test_tiles_too_small_are_refused() -> None:
    facts = ImageFacts(**{**vars(FACTS), "size": 12})
    with pytest.raises(UserError, match="12 px in 3 x 3 tiles leave 3 px") as caught:
        jigsaw.build(jigsaw.Config(), facts, {"image": encoder(size=12)})
    assert "\n" not in str(caught.value)


def test_jigsaw_on_a_transformer() -> None:
    """Tiles are whole patches, and the network sees pictures of both sizes."""
    shape = {"img_size": 30, "patch_size": 3, "embed_dim": 24, "depth": 1, "num_heads": 2, "dynamic_img_size": True}
    objective = jigsaw.build(jigsaw.Config(gap=0.2), FACTS, {"image": encoder("vit_tiny_patch16_224", shape)})
    rows, draw = batch(2)
    assert objective.edge == 6 and objective(rows, draw)["loss"].isfinite()
    assert objective.encoder.encode(list(rows["image"].numpy())).shape == (2, 24)


def test_pictures_of_a_solved_puzzle() -> None:
    """Put back by the right answer, the tiles stand where they come from."""
    objective = jigsaw.build(jigsaw.Config(gap=0.0), FACTS, {"image": encoder()})
    rows, draw = batch(4)
    views = objective.views(rows, draw)
    objective.answers = lambda views: F.one_hot(views["answer"], 100).float()  # type: ignore[method-assign]
    pages = objective.pictures(rows, draw)
    plain = shuffled((0.5 + views["tiles"] / 5).clamp(0, 1), objective.orders[views["answer"]].argsort(1))
    assert torch.equal(pages["as answered"], mosaic(plain, 3, 0))
    assert not torch.equal(pages["as posed"], pages["as answered"])
