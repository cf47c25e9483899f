"""What a run costs, and who else is told about it: operations, energy, scores on the way, trackers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import selfsup
from selfsup import cost
from selfsup import training as verb
from selfsup.cost import Meter, step_flops

PICTURES = {"data": "sample:digits", "pixels": 16, "hidden": 8, "output": 8, "batch": 64, "steps": 4}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "report", lambda *_: None)


def test_operations_of_two_matrices_and_a_norm() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    x = torch.randn(10, 8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = step_flops(module, lambda: module(x).sum())
    forward = 2 * 10 * (8 * 16 + 16 * 4)
    assert found == 3 * forward - 2 * 10 * 8 * 16  # backward twice as much, but the first needs no gradient of x
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(weight.grad is None for weight in module.parameters())


def test_operations_of_attention_are_counted() -> None:
    """A GPT of width D: 6 operations a weight and token, and 12 T D for attention, give or take its last products."""
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, width, tokens, vocabulary = 2, 32, 64, 100
    config = GPT2Config(vocab_size=vocabulary, n_positions=tokens, n_embd=width, n_layer=layers, n_head=2,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    network = GPT2LMHeadModel(config)
    ids = torch.randint(vocabulary, (3, tokens))
    found = step_flops(network, lambda: network(ids, use_cache=False).logits.mean())
    assert found is not None
    matrices = layers * 12 * width**2 + vocabulary * width
    expected = 3 * tokens * (6 * matrices + 12 * layers * tokens * width)
    assert found == pytest.approx(expected, rel=0.25)


def test_processor_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "energy_uj").write_text("900000")
    (package / "max_energy_range_uj").write_text("1000000")
    monkeypatch.setattr(cost._CoreCounter.__init__, "__defaults__", (tmp_path,))
    meter = Meter(torch.device("cpu"))
    (package / "energy_uj").write_text("400000")  # it was full once
    meter.tick()
    (package / "energy_uj").write_text("500000")
    found = meter.energy()
    assert found["cpu"]["joules"] == pytest.approx(0.6) and found["cpu"]["how"].startswith("measured")
    assert found["kwh"] == pytest.approx(0.6 / 3.6e6)


def test_without_counters_it_is_an_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost._CoreCounter.__init__, "__defaults__", (tmp_path / "none",))
    found = Meter(torch.device("cpu")).energy()
    assert found["cpu"]["how"].startswith("estimate") and found["kwh"] > 0


def test_the_account_of_a_run(tmp_path: Path) -> None:
    run = selfsup.train(selfsup.recipe("simclr", **PICTURES), tmp_path / "run", quiet=True)
    record = run.record
    assert record["samples"] == 256 and record["seconds"] > 0
    assert record["flops"] > 4 * 256 * 1e6
    energy = record["energy"]["kwh"]
    assert energy > 0 and record["energy"]["cpu"]["how"].startswith(("estimate", "measured"))
    more = selfsup.resume(run.folder, more=4, quiet=True).record
    assert (
        more["flops"] == 2 * record["flops"] and more["energy"]["kwh"] > energy and more["seconds"] > record["seconds"]
    )


def test_scores_on_the_way(tmp_path: Path) -> None:
    recipe = selfsup.recipe("simclr", **PICTURES, eval_every=3)
    run = selfsup.train(recipe, tmp_path / "run", quiet=True)
    lines = [line for line in run.lines("evals.jsonl") if line["task"] == "online knn"]
    assert [line["step"] for line in lines] == [3, 4] and all(0.5 < line["mean"] <= 1 for line in lines)
    plain = selfsup.train(selfsup.recipe("simclr", **PICTURES), tmp_path / "plain", quiet=True)
    first, second = run.state()["objective"], plain.state()["objective"]
    assert all(torch.equal(first[name], second[name]) for name in first), "looking changed the run"


def test_scores_on_other_data(tmp_path: Path) -> None:
    recipe = selfsup.recipe("simclr", **{**PICTURES, "steps": 2}, eval_every=2, eval_data="sample:glyphs")
    run = selfsup.train(recipe, tmp_path / "run", quiet=True)
    (line,) = [line for line in run.lines("evals.jsonl") if line["task"] == "online knn"]
    assert line["data"] == "sample:glyphs" and line["chance"] < 0.05


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = selfsup.recipe("simclr", **PICTURES, tracker="tensorboard", log_every=1)
    run = selfsup.train(recipe, tmp_path / "run", quiet=True)
    (file,) = (run.folder / "selfsup").glob("events.out.tfevents*")
    events = accumulator.EventAccumulator(str(file.parent)).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    lines = run.lines("metrics.jsonl")
    assert losses == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert events.Scalars("pretext/loss")[-1].step == 4
