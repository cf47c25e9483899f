"""Two processes equal one, to 1e-9 in float64: one group of children serves all objectives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.case import BY_GRADIENT, FUSED, Case, differing, in_float64, load_case
from contract.processes import join, start, start_group
from selfsup import training as verbs
from selfsup.data.weights import Weighted
from selfsup.nn.norm import has_batch_statistics
from selfsup.planning import make_plan
from selfsup.run import Run
from selfsup.runtime import Runtime
from selfsup.training import resume, train
from text_pairs import made_up, pair_case

STEPS = 3
WHOLE = ["simclr", "masked_lm"]  # of which whole runs are compared
WEIGHTED = ["rotation", "simclr"]  # rows alone, and rows that are compared
LOSSES = [("softmax", "negatives"), ("sigmoid", "positives")]  # of pictures and captions
PAIRS = [(0, None), (0, 64), (1, 64), (4, None), (4, 64)]  # hard negatives, and tokens in a chunk


class WeightedCase(Case):
    """A case whose rows have weights from 0 to 1."""

    def reader(self) -> Weighted:
        """The reader of the training rows."""
        reader = super().reader()
        return Weighted(reader, torch.arange(len(reader)) % 5 / 4)


def work(folder: Path) -> None:
    """What each process does: three steps of every objective in float64, and a whole run of some."""
    runtime = Runtime("float32")
    for name in BY_GRADIENT + FUSED:
        objective = load_case(name).objective()
        micros = [1] if objective.couples_rows or has_batch_statistics(objective) else [1, 2]
        found = {micro: three_steps(load_case(name), micro, runtime) for micro in micros}
        torch.save(found, folder / f"{name}-{runtime.world}-{runtime.rank}.pt")
    for negatives, chunk in PAIRS:
        case = pair_case(made_up(64, negatives), chunk=chunk, sides="both", mine_every=2, mine_rule="none")
        found = three_steps(case, 1, runtime)
        torch.save(found, folder / f"{negatives}-{chunk}-{runtime.world}-{runtime.rank}.pt")
    for loss, duplicates in LOSSES:
        case = load_case("clip")
        config = replace(case.recipe.config, loss=loss, duplicates=duplicates)
        case = replace(case, recipe=replace(case.recipe, config=config))
        torch.save(three_steps(case, 1, runtime), folder / f"{loss}-{duplicates}-{runtime.world}-{runtime.rank}.pt")
    for name in WEIGHTED:
        found = three_steps(WeightedCase(**vars(load_case(name))), 1, runtime)
        torch.save(found, folder / f"weighted-{name}-{runtime.world}-{runtime.rank}.pt")
    verbs.report = lambda *_: None  # type: ignore[assignment]
    end, last = Runtime.end, WHOLE[-1]
    for name in WHOLE:  # a finished run leaves the group; here the next one still needs it
        Runtime.end = end if name == last else lambda _: None  # type: ignore[method-assign]
        train(load_case(name).run_recipe(6, save_every=3), folder / f"{name}-{runtime.world}", quiet=True)


def three_steps(case: Case, micro: int, runtime: Runtime) -> dict[str, Any]:
    """Losses and weights; the objective computes on this process's share of the rows."""
    training = case.training_of(in_float64(case.objective()), runtime, micro=micro)
    terms: list[torch.Tensor] = []

    def note(module: object, inputs: object, losses: dict[str, torch.Tensor]) -> None:
        terms.append(torch.stack([losses["loss"] * losses["count"], losses["count"]]).detach())

    training.objective.register_forward_hook(note)
    plan = make_plan(training.recipe.optimizer, 0, STEPS)
    metrics = [training.step(number, parts, plan) for number, parts in enumerate(training.read(0, STEPS))]
    sums = runtime.total(torch.stack(terms)).view(STEPS, micro, 2).sum(1)  # (steps, 2), over micro-batches and ranks
    return {"losses": sums[:, 0] / sums[:, 1], "metrics": metrics, "weights": training.objective.state_dict()}


@pytest.fixture(scope="module")
def folder(cache, tmp_path_factory) -> Path:
    """What one process found, and what two did."""
    place = tmp_path_factory.mktemp("processes")
    join([start(work, place)])
    join(start_group(2, work, place))
    return place


@pytest.mark.parametrize("name", BY_GRADIENT + FUSED)
def test_two_processes_equal_one(folder: Path, name: str):
    one, first = (torch.load(folder / f"{name}-{which}.pt") for which in ("1-0", "2-0"))
    assert one.keys() == first.keys()
    untrained = in_float64(load_case(name).objective()).state_dict()
    for micro in one:
        assert torch.allclose(one[micro]["losses"], first[micro]["losses"], rtol=0, atol=1e-9)
        for place, weight in one[micro]["weights"].items():
            assert torch.allclose(weight, first[micro]["weights"][place], rtol=0, atol=1e-9), place
            assert weight.dtype == torch.int64 or weight.dtype == torch.float64
        assert differing(dict(one[micro]["weights"]), dict(untrained)) != []
        for lines in zip(one[micro]["metrics"], first[micro]["metrics"], strict=True):
            shared = lines[0].keys() - {"trivial"}
            assert [lines[0][key] for key in shared] == pytest.approx([lines[1][key] for key in shared], rel=1e-4)


@pytest.mark.parametrize(("kind", "more"), [*PAIRS, *LOSSES])
def test_pairs_of_two_processes_equal_one(folder: Path, kind: int | str, more: int | str | None):
    """Texts with hard negatives, mined ones from the third step on, and chunks; pictures with captions by each loss."""
    one, first, second = (torch.load(folder / f"{kind}-{more}-{which}.pt") for which in ("1-0", "2-0", "2-1"))
    assert torch.allclose(one["losses"], first["losses"], rtol=0, atol=1e-9)
    for place, weight in one["weights"].items():
        assert torch.allclose(weight, first["weights"][place], rtol=0, atol=1e-9), place
    assert differing(dict(first["weights"]), dict(second["weights"])) == []


@pytest.mark.parametrize("name", WEIGHTED)
def test_weighted_rows_of_two_processes_equal_one(folder: Path, name: str):
    """The shares of the processes differ in the sums of their weights."""
    one, first, second = (torch.load(folder / f"weighted-{name}-{which}.pt") for which in ("1-0", "2-0", "2-1"))
    for place, weight in one["weights"].items():
        assert torch.allclose(weight, first["weights"][place], rtol=0, atol=1e-9), place
    assert differing(dict(first["weights"]), dict(second["weights"])) == []
    for lines in zip(one["metrics"], first["metrics"], strict=True):
        shared = lines[0].keys() - {"trivial"}
        assert [lines[0][key] for key in shared] == pytest.approx([lines[1][key] for key in shared], rel=1e-4)
    plain = torch.load(folder / f"{name}-1-0.pt")[1]
    assert differing(dict(one["weights"]), dict(plain["weights"])) != []


@pytest.mark.parametrize("name", BY_GRADIENT + FUSED)
def test_processes_do_not_drift_apart(folder: Path, name: str):
    first, second = (torch.load(folder / f"{name}-2-{rank}.pt") for rank in (0, 1))
    for micro in first:
        assert differing(dict(first[micro]["weights"]), dict(second[micro]["weights"])) == []
        assert first[micro]["metrics"] == second[micro]["metrics"]


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_over_two_processes_is_like_one(folder: Path, name: str, no_pictures):
    """Written once, by the main process; one process can go on with it."""
    one, two = Run(folder / f"{name}-1"), Run(folder / f"{name}-2")
    assert two.record["hardware"]["processes"] == 2 and two.record["plan"] == one.record["plan"]
    for log in ("metrics.jsonl", "evals.jsonl"):
        lines = [run.lines(log) for run in (one, two)]
        assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    losses = [[line["loss"] for line in run.lines("metrics.jsonl")] for run in (one, two)]
    assert losses[0][:3] == pytest.approx(losses[1][:3], rel=1e-2)  # float32: rounding grows from step to step
    assert two.steps == [3, 6] and two.objective().state_dict().keys() == one.objective().state_dict().keys()
    assert resume(two.folder, more=2, quiet=True).step == 8


def test_torchrun_trains(tmp_path):
    """The command line as users start it over several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "selfsup"]
    settings = "--tokenizer byte --context 16 --layers 1 --heads 2 --width 16 --batch 8 --steps 4 --precision float32"
    (tmp_path / "some.txt").write_text("two hands, one text. " * 200)
    words = ["train", "causal_lm", "--data", "some.txt", "--out", "run", *settings.split()]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    assert run.step == 4 and run.record["hardware"]["processes"] == 2
    assert (run.folder / "model" / "generate" / "model.safetensors").exists()
