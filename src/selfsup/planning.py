"""How many steps a run takes, and the rate in each."""

from __future__ import annotations

import math
from dataclasses import replace

from selfsup.loop import Training
from selfsup.optim import Plan
from selfsup.progress import Progress
from selfsup.recipes import Pace, Recipe
from selfsup.run import Run
from selfsup.runtime import Runtime


def make_plan(chosen: Pace, start: int, steps: int) -> Plan:
    """Rates for `steps` steps from `start` on."""
    warmup = max(round(chosen.warmup * steps), 1)
    if start:  # the weights are warm; the optimizer only has to find its pace again
        warmup = max(warmup // 10, 1)
    cooldown = max(round(chosen.cooldown * steps), 1)
    return Plan(start=start, stop=start + steps, warmup=warmup, cooldown=cooldown, schedule=chosen.schedule)


def count_steps(recipe: Recipe, training: Training, runtime: Runtime, progress: Progress) -> int:
    """Number of steps of the budget; minutes are turned into steps by timing some, which are undone."""
    budget = recipe.budget
    if budget.steps is not None:
        return budget.steps
    if budget.epochs is not None:
        return max(math.ceil(budget.epochs * training.order.steps_per_epoch), 1)
    assert budget.minutes is not None
    trial = Plan(start=0, stop=10**6, warmup=10**6, cooldown=1, schedule="linear")
    seconds, room = runtime.same(training.time_steps(trial)), budget.minutes * 60
    steps, every = int(room / seconds), training.mining.every
    if every is not None and steps > every:  # from then on there is mining
        mined = runtime.same(training.time_steps(trial, mined=True))
        steps = every + int((room - every * seconds) / mined)
        seconds = room / max(steps, 1)
    steps = max(steps, 1)
    epochs = steps / training.order.steps_per_epoch
    progress.say(f"{budget.minutes:g} minutes are {steps:,} steps of {seconds * 1e3:.0f} ms, {epochs:.1f} epochs")
    return steps


def extend(run: Run, training: Training, start: int, plan: Plan, more: int) -> tuple[int, Plan]:
    """Step at which a run that is given more steps goes on, and its longer plan."""
    recipe = training.recipe
    if plan.schedule != "trapezoid":
        return start, make_plan(recipe.optimizer, start, plan.stop - start + more)
    start = plan.flat_until if plan.flat_until in run.steps else start
    cooldown = max(round(recipe.optimizer.cooldown * (plan.stop - plan.start + more)), 1)
    return start, replace(plan, stop=plan.stop + more, cooldown=cooldown)
