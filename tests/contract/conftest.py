"""Each objective's case, and its finished tiny run, once a session."""

from __future__ import annotations

import pytest

from contract.case import NAMES, Case, load_case
from contract.processes import warm_up
from selfsup.run import Run
from selfsup.training import train


@pytest.fixture(autouse=True, scope="session")
def warm(cache):
    """Let the parent of all child processes import its heavy packages while other tests run."""
    warm_up()


@pytest.fixture(autouse=True)
def serial(one_thread):
    """Every test of the contract has one thread."""


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The finished tiny run of an objective, by name."""
    runs: dict[str, Run] = {}

    def of(name: str) -> Run:
        if name not in runs:
            case = load_case(name)
            recipe = case.run_recipe(case.recipe.budget.steps or 30)
            runs[name] = train(recipe, tmp_path_factory.mktemp("finished") / name, quiet=True)
        return runs[name]

    return of
