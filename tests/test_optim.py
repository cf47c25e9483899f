"""Optimizers against closed forms, weight decay only where it belongs, and the shapes of the schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from selfsup.optim import Lars, Muon, Plan, make_optimizers, orthogonal, set_rates, step_size

SETTINGS = {"rate": 1e-2, "matrix_rate": 2e-2, "decay": 0.1, "momentum": 0.9, "betas": (0.9, 0.99)}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 11, bias=False))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "muon"])
def test_every_weight_is_in_one_group_and_vectors_never_decay(name: str) -> None:
    module = network()
    groups = [g for optimizer in make_optimizers(module, name, **SETTINGS) for g in optimizer.param_groups]
    held = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in module.parameters())
    for group in groups:
        assert all((weight.ndim > 1) == (group["weight_decay"] > 0) for weight in group["params"])


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "muon"])
def test_loss_falls(name: str) -> None:
    module = network()
    rate = {"adamw": 0.05, "sgd": 0.5, "lars": 20.0, "muon": 0.05}[name]
    optimizers = make_optimizers(module, name, **{**SETTINGS, "rate": rate, "decay": 0.01})
    words, target = torch.arange(11), torch.arange(11).roll(1)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(module(words), target)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_muon_takes_hidden_matrices_and_nothing_tied_to_an_embedding() -> None:
    module = network()
    module[3].weight = module[0].weight  # a tied head
    adamw, muon = make_optimizers(module, "muon", **SETTINGS)
    assert isinstance(muon, Muon)
    assert [id(w) for g in muon.param_groups for w in g["params"]] == [id(module[1].weight)]
    assert all(id(w) != id(module[1].weight) for g in adamw.param_groups for w in g["params"])


@pytest.mark.parametrize("out", [4, 16])
def test_muon_steps_alike_whichever_way_a_matrix_lies(out: int) -> None:
    """GPT-2's Conv1D holds its matrix as in x out."""
    plain, turned = nn.Sequential(nn.Linear(8, out)), nn.Sequential(Conv1D(out, 8))
    turned[0].weight.data = plain[0].weight.data.T.clone()
    turned[0].bias.data = plain[0].bias.data.clone()
    x, sizes = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), []
    for module in (plain, turned):
        optimizers = make_optimizers(module, "muon", **SETTINGS)
        sizes.append(step_size(optimizers, 1.0))
        for _ in range(3):
            module(x).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert torch.allclose(plain[0].weight, turned[0].weight.T, atol=1e-5)
    assert sizes[0] == pytest.approx(sizes[1])


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 32), (2, 32, 8)])
def test_orthogonal_has_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.3 and values.max() < 1.3


def test_orthogonal_keeps_the_singular_vectors() -> None:
    u, _, v = torch.linalg.svd(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    matrix = u @ torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.5, 1.0])) @ v
    inner = u.T @ orthogonal(matrix[None])[0] @ v.T  # diagonal if and only if the vectors are the same
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4


def test_lars_step_in_closed_form() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[0.0, 2.0]])
    optimizer = Lars([{"params": [weight], "weight_decay": 0.5, "peak": 1.0, "lr": 1.0}], momentum=0.9)
    change = torch.tensor([[1.5, 4.0]])  # gradient + 0.5 weight
    wanted = torch.tensor([[3.0, 4.0]]) - 1e-3 * 5 / change.norm() * change
    optimizer.step()
    assert torch.allclose(weight.detach(), wanted)


def plan(schedule: str, **values: int) -> Plan:
    return Plan(**{"start": 0, "stop": 100, "warmup": 10, "cooldown": 20, **values}, schedule=schedule)


def test_schedules() -> None:
    for schedule in ("cosine", "linear", "trapezoid"):
        factors = [plan(schedule).factor(step) for step in range(100)]
        assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
        assert all(0 < factor <= 1 for factor in factors)
        assert factors[99] < 0.06
    assert plan("cosine").factor(55) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert plan("linear").factor(55) == pytest.approx(0.5)
    assert plan("trapezoid").factor(80) == 1.0 and plan("trapezoid").factor(90) == pytest.approx(0.5)


def test_a_longer_trapezoid_is_equal_until_the_shorter_one_falls() -> None:
    short, long = plan("trapezoid"), plan("trapezoid", stop=200, cooldown=40)
    assert [short.factor(s) for s in range(80)] == [long.factor(s) for s in range(80)]


def test_set_rates() -> None:
    optimizers = make_optimizers(network(), "muon", **SETTINGS)
    set_rates(optimizers, 0.5)
    assert {group["lr"] for optimizer in optimizers for group in optimizer.param_groups} == {0.005, 0.01}


def test_step_size_is_what_a_step_does():
    """Predicted from rates and weights alone, for the first step after the averages have settled."""
    for name in ("adamw", "muon", "lars", "sgd"):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.Linear(48, 16))
        optimizers = make_optimizers(module, name, 1e-3, 0.02, 0.0, 0.9, (0.9, 0.95))
        gradients = [torch.randn_like(weight) for weight in module.parameters()]
        before = [weight.detach().clone() for weight in module.parameters()]
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        predicted = step_size(optimizers, norm)
        for _ in range(40):  # the same gradient again and again: momentum reaches its full length
            for weight, gradient in zip(module.parameters(), gradients, strict=True):
                weight.grad = gradient.clone()
            last = [weight.detach().clone() for weight in module.parameters()]
            for optimizer in optimizers:
                optimizer.step()
        pairs = [(w.detach() - old, first) for w, old, first in zip(module.parameters(), last, before, strict=True)
                 if w.ndim > 1]  # fmt: skip
        moved = sum(float(change.square().sum()) for change, _ in pairs) ** 0.5
        size = sum(float(first.square().sum()) for _, first in pairs) ** 0.5
        assert predicted == pytest.approx(moved / size, rel=0.25), name
