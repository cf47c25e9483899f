"""DINO against its formulas written out, and a teacher that follows in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from contract.case import load_case
from selfsup.data.draw import Draw
from selfsup.data.facts import ImageFacts
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.attention import class_attention
from selfsup.nn.teacher import follow
from selfsup.objectives import dino
from selfsup.ops.distillation import entropy_share, nearness, sinkhorn, teacher_momentum

FACTS = ImageFacts(rows=100, channels=3, resolution=18, size=16, mean=(0.5,) * 3, sd=(0.25,) * 3)
SHAPE = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
CONFIG = dino.Config(prototypes=16, hidden=24, bottleneck=8, masked_crops=0.7, small=3)


def objective(config: dino.Config = CONFIG, network: str = "vit_tiny_patch16_224") -> dino.DINO:
    torch.manual_seed(0)
    arguments = SHAPE if network.startswith("vit") else {}
    found = dino.build(config, FACTS, {"image": ImageEncoder.create(network, arguments, 16, FACTS.mean, FACTS.sd)})
    with torch.no_grad():  # a teacher that is another network than the student
        for weight in (*found.teacher.parameters(), *found.teacher_head.parameters()):
            weight.add_(0.02 * torch.randn(weight.shape))
    return found


def batch(rows: int) -> tuple[dict[str, torch.Tensor], Draw]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (rows, 18, 18, 3), generator=generator, dtype=torch.uint8)
    size = torch.full((rows,), 18, dtype=torch.int32)
    return {"image": image, "height": size, "width": size}, Draw(0, 0, torch.arange(rows))


def by_hand(cosines: torch.Tensor, temperature: float) -> np.ndarray:
    """Sinkhorn and Knopp as in SwAV's listing: transposed, divided by sums of rows and columns in turn."""
    q = np.exp(cosines.detach().numpy().astype(np.float64) / temperature).T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdims=True) / q.shape[0]
        q = q / q.sum(0, keepdims=True) / q.shape[1]
    return (q * q.shape[1]).T


def test_sinkhorn() -> None:
    cosines = torch.rand(24, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = sinkhorn(cosines, 0.1)
    assert np.allclose(found, by_hand(cosines, 0.1), atol=1e-6)
    even = sinkhorn(cosines, 0.1, rounds=100)
    assert torch.allclose(even.sum(0), torch.full((8,), 3.0), atol=1e-2) and torch.allclose(even.sum(1), torch.ones(24))
    assert sinkhorn(cosines[:0], 0.1).shape == (0, 8)
    assert entropy_share(torch.full((3, 8), 1 / 8)) == pytest.approx(1) and entropy_share(cosines[:0]) == 0


def test_loss_and_gradient_are_those_of_the_papers() -> None:
    """DINO's equation 3, iBOT's equation 2 and KoLeo, with loops."""
    ours = objective()
    rows, draw = batch(5)
    views = ours.views(rows, draw)
    losses = ours(rows, draw, views)
    losses["loss"].backward()
    losses = {name: value.detach() for name, value in losses.items()}
    got = {name: weight.grad.clone() for name, weight in ours.named_parameters() if weight.grad is not None}
    ours.zero_grad()
    large, masked, small = (
        views["large"].transpose(0, 1),
        views["masked"].transpose(0, 1),
        views["small"].transpose(0, 1),
    )

    def cosines(head: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
        z = head.layers(z)
        w = head.prototypes.weight
        return (z / z.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1, keepdim=True)).T

    def through(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = network._pos_embed(x)
        for block in network.blocks:
            x = block(x)
        return network.norm(x)

    heat = 0.04 * 2 / 3
    with torch.no_grad():
        whole = [ours.teacher.forward_features(crop) for crop in large]
        # patches in the order of the rows: both crops of a picture stand next to each other
        hidden = torch.cat([whole[v][i, 1:][masked[v, i]] for i in range(5) for v in range(2)])
        told_patches = torch.tensor(by_hand(cosines(ours.teacher_head, hidden), heat)).float()
        told = by_hand(
            torch.cat([cosines(ours.teacher_head, whole[v][i : i + 1, 0]) for i in range(5) for v in range(2)]), heat
        )
        told = torch.tensor(told).float().view(5, 2, 16)
    student, patches, vectors = [], [], []
    for v in range(2):
        x = ours.student.patch_embed(large[v])
        x = torch.where(masked[v].view(5, 4, 4, 1), ours.token, x)
        x = through(ours.student, x)
        student.append(cosines(ours.head, x[:, 0]))
        vectors.append(x[:, 0])
        patches.append(x[:, 1:])
    student += [cosines(ours.head, ours.student.forward_features(crop)[:, 0]) for crop in small]
    pairs = [-(told[:, t] * (student[s] / 0.1).log_softmax(1)).sum(1) for t in range(2) for s in range(5) if s != t]
    seen = torch.cat([patches[v][i][masked[v, i]] for i in range(5) for v in range(2)])
    patch = -(told_patches * (cosines(ours.head, seen) / 0.1).log_softmax(1)).sum(1).mean()
    apart = 0.0
    for z in vectors:
        z = z / z.norm(dim=1, keepdim=True)
        nearest = [min(((z[i] - z[j]).norm() for j in range(5) if j != i), key=lambda d: d.item()) for i in range(5)]
        apart = apart - torch.stack(nearest).log().mean()
    right = torch.stack(pairs).mean() + patch + 0.1 * apart
    assert losses["crop_loss"] == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)
    assert losses["patch_loss"] == pytest.approx(patch.item(), rel=1e-5)
    assert losses["loss"] == pytest.approx(right.item(), rel=1e-5)
    assert torch.allclose(losses["example_loss"], torch.stack(pairs).mean(0).detach(), rtol=1e-4)
    right.backward()
    for name, weight in ours.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None
            assert torch.allclose(got[name], weight.grad, rtol=1e-3, atol=1e-6), name
        else:
            assert name not in got, f"{name} of the teacher has a gradient"


def test_the_nearest_vector_is_another_one() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.1]])
    found = nearness(vectors[1:], vectors, 1)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    right = [-math.log((unit[1] - unit[2]).norm()), -math.log((unit[2] - unit[0]).norm())]
    assert found.tolist() == pytest.approx(right, rel=1e-4)


def test_the_teacher_follows_in_closed_form() -> None:
    teacher, student = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    first = teacher.weight.detach().clone()
    momenta = [0.9, 0.95, 0.99]
    for momentum in momenta:
        follow(teacher, student, momentum)
    left = math.prod(momenta)
    assert torch.allclose(teacher.weight, left * first + (1 - left) * student.weight, atol=1e-6)


def test_momentum_goes_by_shares_of_the_run() -> None:
    """A run of 125,000 steps has DINO's 0.996 with the papers' memory; a shorter one forgets as large a share."""
    assert teacher_momentum(1 / 125_000, 0.0, 1 / 500) == pytest.approx(0.996, abs=1e-4)
    for steps in (100, 10_000):
        kept = math.prod(teacher_momentum(1 / steps, 0.0, 0.05) for _ in range(steps // 20))
        assert kept == pytest.approx(math.exp(-1), rel=1e-6)
    assert teacher_momentum(0.01, 0.0, 0.1) < teacher_momentum(0.01, 0.5, 0.1) < 1 == teacher_momentum(0.01, 1.0, 0.1)


def test_temperature_and_teacher_move_with_the_run() -> None:
    ours = objective()
    assert float(ours.heat()) == pytest.approx(0.04 * 2 / 3)
    before = [weight.clone() for weight in ours.teacher.parameters()]
    for step in range(1, 11):
        ours.after_step(step / 20)
    assert float(ours.heat()) == pytest.approx(0.04)
    apart = [
        float((new - old).detach().norm())
        for new, old in zip(ours.teacher.parameters(), ours.student.parameters(), strict=True)
    ]
    assert (
        max(apart)
        < 1e-3
        < max(float((new - old).detach().norm()) for new, old in zip(ours.teacher.parameters(), before, strict=True))
    )


def test_masked_patches_are_not_seen() -> None:
    ours = objective(replace(CONFIG, small=0, masked_crops=1.0)).eval()
    rows, draw = batch(3)
    views = ours.views(rows, draw)
    assert views["masked"].any() and "small" not in views
    first = ours.said(views)
    edge = (
        torch.nn.functional.interpolate(views["masked"].view(6, 1, 4, 4).float(), scale_factor=4)
        .bool()
        .view(3, 2, 1, 16, 16)
    )
    scrambled = {**views, "large": torch.where(edge, torch.randn_like(views["large"]), views["large"])}
    for one, other in zip(first, ours.said(scrambled), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_attention_is_what_the_last_block_uses() -> None:
    encoder = objective().encoders()["image"]
    pictures = torch.randn(3, 3, 16, 16)
    with evaluating(encoder.module):
        found = class_attention(encoder.module, pictures)
        last, seen = encoder.module.blocks[-1], []
        handle = last.attn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        encoder.module(pictures)
        handle.remove()
        q, k, _ = last.attn.qkv(seen[0]).reshape(3, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
        right = torch.softmax(q @ k.mT / 4, -1)[:, :, 0, 1:].reshape(3, 2, 4, 4)
    assert torch.allclose(found, right, atol=1e-6) and found.flatten(2).sum(2).max() < 1
    shown = encoder.attention([np.zeros((16, 16, 3), np.uint8)] * 2)
    assert shown.shape == (2, 2, 4, 4)


@pytest.mark.parametrize(
    ("config", "network", "said"),
    [
        (CONFIG, "resnet10t", "which resnet10t is not; drop --network"),
        (replace(CONFIG, small_size=10), "vit_tiny_patch16_224", "--small-size 10: allowed are multiples of 4"),
        (replace(CONFIG, small_size=20), "vit_tiny_patch16_224", "up to 16"),
    ],
)
def test_mistakes_are_one_line(config: dino.Config, network: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        objective(config, network)
    assert "\n" not in str(caught.value)


def test_a_convolutional_network_has_no_class_token() -> None:
    encoder = ImageEncoder.create("resnet10t", {}, 32, FACTS.mean, FACTS.sd)
    with pytest.raises(UserError, match="resnet10t has no class token"):
        encoder.attention([np.zeros((32, 32, 3), np.uint8)])


def test_difficulty_is_of_the_crops_alone():
    """Knowing nothing of the crops is 1, whatever the patches weigh."""
    case = load_case("dino")
    batch, draw = case.batch(range(8))
    losses = case.objective()(batch, draw)
    expected = losses["example_loss"] / math.log(case.recipe.config.prototypes)
    assert torch.allclose(losses["example_difficulty"], expected) and not losses["example_difficulty"].requires_grad
