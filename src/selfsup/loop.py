"""The loop: batches in, a run directory out."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.checks import Checks
from selfsup.cost import Meter
from selfsup.data.draw import Draw
from selfsup.data.loader import batches
from selfsup.data.order import Order
from selfsup.data.reader import Batch, Reader
from selfsup.errors import UserError
from selfsup.mining import Mining
from selfsup.objective import Objective, means, scalars
from selfsup.optim import Plan
from selfsup.progress import Progress
from selfsup.recipes import Recipe
from selfsup.resolve import batch_of
from selfsup.run import Run
from selfsup.runtime import Runtime, Stopped, signals
from selfsup.steps import steps_of


class Training:
    """A run in progress: the wrapped objective, its optimizers and its place in the plan."""

    def __init__(self, objective: Objective, reader: Reader, recipe: Recipe, runtime: Runtime) -> None:
        self.objective, self.reader, self.recipe, self.runtime = objective, reader, recipe, runtime
        objective.train()  # a pretrained network comes in eval mode
        self.steps = steps_of(objective, recipe, runtime)
        self.mining = Mining(objective, reader, recipe, runtime)
        self.saved = "none yet"  # the last checkpoint, for who has to name it
        self.order = Order(len(reader), batch_of(recipe), recipe.seed, runtime.world, runtime.rank, self.steps.micro)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs; all other state is a function of the step."""
        return {"objective": self.objective.state_dict(), **self.steps.state(), **self.mining.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.objective.load_state_dict(state["objective"])
        self.steps.load(state)
        self.mining.load(state)

    def read(self, start: int, stop: int) -> Iterator[list[tuple[Batch, Draw]]]:
        """The micro-batches of each step; none is read before the companions of its step are known."""
        workers = self.recipe.data.workers or 0
        for first, end, companions in self.mining.stretches(start, stop):
            stream = batches(self.reader, self.order.parts(first, end), self.recipe.seed, workers, companions)
            for _ in range(first, end):
                yield [next(stream) for _ in range(self.order.micro)]

    def step(self, step: int, parts: list[tuple[Batch, Draw]], plan: Plan) -> dict[str, float]:
        """One step of the optimizer; loss and metrics over all micro-batches and processes."""
        self.runtime.seed_step(self.recipe.seed, step)
        total: dict[str, Tensor] = {}
        suspects = []
        factor = plan.factor(step)
        for batch, draw in parts:
            losses = self.steps.losses(batch, draw, factor)
            found = scalars(losses)
            total = {name: total.get(name, torch.zeros_like(value)) + value for name, value in found.items()}
            suspects.append((draw.rows, losses["example_loss"].detach() if "example_loss" in losses else None))
        summed = dict(zip(total, self.runtime.total(torch.stack(list(total.values()))).tolist(), strict=True))
        if not math.isfinite(summed["loss"]):  # on one process is on all: every one of them stops
            self._not_finite("loss", step, suspects)
        changed = self.steps.change(summed["count"], factor)
        if not all(map(math.isfinite, changed.values())):
            self._not_finite("gradient", step, suspects)
        self.objective.after_step((step + 1) / plan.stop)
        return {**means(summed), **changed, "rate": self.recipe.optimizer.rate * factor}

    def _not_finite(self, what: str, step: int, suspects: list[tuple[Tensor, Tensor | None]]) -> None:
        rows = torch.cat([rows.cpu() for rows, _ in suspects])
        if all(losses is not None for _, losses in suspects):
            bad = torch.cat([~torch.isfinite(losses.cpu()) for _, losses in suspects if losses is not None])
            rows = rows[bad] if bad.any() else rows
        raise UserError(
            f"the {what} is not finite at step {step}, rows {rows[:8].tolist()}{' ...' if len(rows) > 8 else ''}; "
            f"last checkpoint: {self.saved}; try a lower --rate, or --precision float32, and look at these rows"
        )

    def time_steps(self, plan: Plan, mined: bool = False, count: int = 20, skip: int = 3, enough: float = 5.0) -> float:
        """Seconds a step takes, data wait included, by a few that are undone; `mined`: with companions, and mining.

        Of `count` steps, or as many as `enough` seconds allow, at least 5; the first `skip` do not count. An objective
        that changes on the way goes through all its states: the mean of the medians of four parts.
        """
        before = deepcopy(self.state())
        mining = self.mining.rehearse(mined)
        count = min(count, max(self.order.steps_per_epoch, skip + 1))
        ends = []
        for number, parts in enumerate(self.read(0, count)):
            if number == skip:
                pace = (ends[-1] - ends[0]) / (skip - 1)
                count = self.runtime.same(min(count, max(skip + 5, int(enough / pace))))
            elif number == count:
                break
            self.step(number, parts, replace(plan, stop=count))
            ends.append(time.perf_counter())
        self.load(before)
        taken = np.diff(ends[skip - 1 :])
        return float(np.mean([np.median(part) for part in np.array_split(taken, min(4, len(taken)))])) + mining

    def flops(self) -> int | None:
        """Operations of a step, over all processes, which all take part."""
        found = self.steps.flops(*next(self.read(0, 1))[0])
        return None if found is None else found * self.order.micro * self.runtime.world

    def run(
        self, plan: Plan, start: int, run: Run, checks: Checks, progress: Progress, deadline: float, meter: Meter
    ) -> None:
        """Train from `start` to the end of the plan; log, look and save on the way.

        Args:
            plan: steps and rates; it is cut once when the first quarter shows an overrun of more than 15 %.
            start: first step to do.
            run: where everything is written.
            checks: what is looked at on the way.
            progress: shows how far it is.
            deadline: seconds that the steps may take; infinite without a budget in minutes.
            meter: of energy, looked at on the way.

        Raises:
            Stopped: a signal came; the run has saved itself.
            UserError: the loss is not finite, or the disk is full.
        """
        watch, main, self.mining.run = self.recipe.watch, self.runtime.main, run
        often = max((plan.stop - plan.start) // 10, 1)
        check, save = watch.check_every or often, watch.save_every or often
        quarter = start + max((plan.stop - start) // 4, 1)
        waited = worked = 0.0
        with signals() as caught:
            asked = time.perf_counter()
            for step, parts in enumerate(self.read(start, plan.stop), start):
                got = time.perf_counter()
                metrics = self.step(step, parts, plan)
                waited, worked = waited + got - asked - self.mining.taken(), worked + time.perf_counter() - asked
                done, pace = step + 1, worked / (step + 1 - start)
                stop = bool(self.runtime.total(torch.tensor(len(caught), device=self.runtime.device)))
                late = done == quarter and self.runtime.same(pace * (plan.stop - start) > 1.15 * deadline)
                if late:
                    plan = replace(plan, stop=max(start + int(deadline / pace), done + 1))
                    if main:
                        run.update({"plan": asdict(plan), "replanned_at": done})
                last = done >= plan.stop
                line = {"samples_per_s": self.order.batch / pace, "wait": waited / worked}
                progress.step(done, plan.stop, metrics["loss"], line["samples_per_s"], line["wait"], pace)
                if main and (done % watch.log_every == 0 or last or done == 1):
                    checks.log(run, {"step": done, **metrics, **line})
                if done % check == 0 or last:
                    meter.tick()
                    checks.look(run, done, plan.stop)
                if main and watch.eval_every and (done % watch.eval_every == 0 or last):
                    checks.score(run, done)
                if main and (done % save == 0 or last or stop or late or done in plan.landmarks):
                    run.save(done, {**self.state(), "plan": asdict(plan)}, plan.landmarks, watch.keep_every)
                    run.save_model(self.objective)
                    self.saved = f"{run.folder}/checkpoints/{done}"
                if last:
                    return
                if stop:
                    where = f"stopped at step {done} of {plan.stop}; go on with selfsup resume {run.folder}"
                    raise Stopped(where, caught[0] if caught else signal.SIGTERM)
                asked = time.perf_counter()
