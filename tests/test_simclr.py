"""SimCLR against its paper: loss and gradient in ten independent lines, chunks, and blocks of logits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import selfsup.ops.contrastive as contrastive
from selfsup.construct import construct
from selfsup.data.draw import Draw
from selfsup.data.facts import ImageFacts
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.objectives import simclr
from selfsup.ops.contrastive import nt_xent


def equation_1(z1: torch.Tensor, z2: torch.Tensor, tau: float) -> torch.Tensor:
    """Equation 1 of arXiv 2002.05709, summed over i and j as in algorithm 1, one pair at a time."""
    z = torch.stack([z1, z2], 1).flatten(0, 1)  # 2k - 1 and 2k are a pair
    total = z.new_zeros(())
    for i in range(len(z)):
        j = i ^ 1
        sims = [torch.dot(z[i], z[k]) / (z[i].norm() * z[k].norm()) for k in range(len(z))]
        denominator = sum(torch.exp(sims[k] / tau) for k in range(len(z)) if k != i)
        total = total - torch.log(torch.exp(sims[j] / tau) / denominator)
    return total / len(z)


def views(rows: int = 6, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return first.requires_grad_(), second.requires_grad_()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("block", [1 << 24, 30])
def test_loss_and_gradient_equal_the_paper(temperature: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "BLOCK", (block, block))  # 30 logits at once: blocks of two anchors
    first, second = views()
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
    loss, correct = nt_xent(a, b, torch.stack([a, b]), 0, temperature)
    assert loss.shape == correct.shape == (2, 6)
    ours = torch.autograd.grad(loss.mean(), [first, second])
    wanted = equation_1(first, second, temperature)
    assert torch.allclose(loss.mean().double(), wanted, rtol=1e-6)
    for got, right in zip(ours, torch.autograd.grad(wanted, [first, second]), strict=True):
        assert torch.allclose(got, right, rtol=1e-5, atol=1e-7)


def test_loss_is_symmetric_and_ignores_the_order_of_rows() -> None:
    a, b = (F.normalize(view.detach(), dim=1) for view in views())
    loss, _ = nt_xent(a, b, torch.stack([a, b]), 0, 0.2)
    swapped, _ = nt_xent(b, a, torch.stack([b, a]), 0, 0.2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    shuffled, _ = nt_xent(a[order], b[order], torch.stack([a[order], b[order]]), 0, 0.2)
    assert torch.allclose(loss, swapped.flip(0))
    assert torch.allclose(loss[:, order], shuffled)


def test_limits() -> None:
    same = F.normalize(torch.ones(4, 3), dim=1)
    loss, _ = nt_xent(same, same, torch.stack([same, same]), 0, 0.5)
    assert torch.allclose(loss, torch.full_like(loss, math.log(7)))  # nothing known: all candidates alike
    apart = torch.eye(4)
    loss, correct = nt_xent(apart, apart, torch.stack([apart, apart]), 0, 0.01)
    assert loss.max() < 1e-6 and correct.all()


def test_a_part_of_the_anchors_sees_all_keys() -> None:
    a, b = (F.normalize(view.detach(), dim=1) for view in views())
    keys = torch.stack([a, b])
    whole, _ = nt_xent(a, b, keys, 0, 0.2)
    part, _ = nt_xent(a[2:4], b[2:4], keys, 2, 0.2)
    assert torch.equal(part, whole[:, 2:4])


FACTS = ImageFacts(rows=100, channels=3, resolution=18, size=16, mean=(0.5,) * 3, sd=(0.25,) * 3)


def batch(rows: int) -> tuple[dict[str, torch.Tensor], Draw]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (rows, 18, 18, 3), generator=generator, dtype=torch.uint8)
    size = torch.full((rows,), 18, dtype=torch.int32)
    return {"image": image, "height": size, "width": size}, Draw(0, 0, torch.arange(rows))


def small_vit(chunk: int | None) -> simclr.SimCLR:
    torch.manual_seed(0)
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    encoder = ImageEncoder.create("vit_tiny_patch16_224", arguments, 16, FACTS.mean, FACTS.sd)
    return simclr.build(simclr.Config(chunk=chunk, hidden=32, output=8), FACTS, {"image": encoder})


def test_chunks_equal_the_whole_batch() -> None:
    rows, draw = batch(12)
    gradients = []
    for chunk in (None, 5, 12):
        objective = small_vit(chunk)
        losses = objective(rows, draw)
        losses["loss"].backward()
        gradients.append((losses["loss"].item(), [weight.grad for weight in objective.parameters()]))
    for loss, found in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-5)
        for got, right in zip(found, gradients[0][1], strict=True):
            assert torch.allclose(got, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()) + 2e-5)


def test_chunks_are_refused_with_batch_norm() -> None:
    recipe = simclr.tiny()
    with pytest.raises(UserError, match="--chunk 8: batch norm"):
        construct(replace(recipe, config=replace(recipe.config, chunk=8)), FACTS, None, None)


def test_small_pictures_get_a_stem_of_stride_one() -> None:
    for network, arguments in (("resnet18", {}), ("resnet18", {"stem_type": "deep", "stem_width": 8})):
        small = ImageEncoder.create(network, arguments, 32, (0.5,), (0.2,))
        large = ImageEncoder.create(network, arguments, 96, (0.5,), (0.2,))
        assert small.module.forward_features(torch.zeros(2, 1, 32, 32)).shape[-1] == 4
        assert large.module.forward_features(torch.zeros(2, 1, 96, 96)).shape[-1] == 3
        assert small.about.stem and large.about.stem is None
