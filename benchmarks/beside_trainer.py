"""What the benchmarks of language models share: a text with what both sides start from, and transformers' Trainer."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from side_by_side import say
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

import selfsup
from selfsup.construct import construct
from selfsup.data.token_store import TokenStore
from selfsup.eval.language import window_losses
from selfsup.loop import Training
from selfsup.objective import load_objective
from selfsup.prepare import Prepared, prepare
from selfsup.progress import Progress
from selfsup.recipes import Recipe
from selfsup.resolve import resolve
from selfsup.runtime import Runtime


class Text:
    """A text, prepared, under settings of an objective that both sides share."""

    def __init__(self, objective: str, source: str, runtime: Runtime, **shared: object) -> None:
        self.objective, self.source, self.runtime, self.shared = objective, source, runtime, shared
        recipe = selfsup.recipe(objective, data=source, steps=1, **shared)
        self.prepared: Prepared = prepare(recipe.data, None, False, Progress(False))
        assert isinstance(self.prepared.train, TokenStore) and isinstance(self.prepared.held_out, TokenStore)
        self.train, self.held_out = self.prepared.train, self.prepared.held_out

    def training(self, seed: int = 0, **settings: object) -> tuple[Training, Recipe]:
        """A run of selfsup about to begin."""
        recipe = selfsup.recipe(self.objective, data=self.source, seed=seed, **{**self.shared, **settings})
        recipe = resolve(recipe, self.prepared, self.runtime.device, self.runtime.precision)
        objective = construct(recipe, self.prepared.facts, Path(self.train.tokenizer.name_or_path), None)
        reader = load_objective(self.objective).reader(recipe.config, self.train)
        return Training(objective, reader, recipe, self.runtime), recipe

    def nats(self, network: nn.Module) -> float:
        """Held-out loss of a network, by the whole held-out part."""
        training, recipe = self.training(steps=1)
        training.objective.network.load_state_dict(network.state_dict())
        reader = load_objective(self.objective).reader(recipe.config, self.held_out)
        sums, count, _ = window_losses(training.objective, reader, Progress(False))
        return float(sums.sum()) / count


class Rows(Dataset):
    """Rows of tokens, as the Trainer takes them."""

    def __init__(self, rows: Tensor, **more: Tensor) -> None:
        self.columns = {"input_ids": rows, **more}

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self.columns.items()}


class Clock(TrainerCallback):
    """When each step ended; what `look` takes does not count.

    Args:
        look: called with the network and the step every `every` steps; whether that is enough.
        every: steps; 0 for never.
    """

    def __init__(self, look: Callable[[nn.Module, int], bool] | None = None, every: int = 0) -> None:
        self.look, self.every = look, every
        self.ends: list[float] = []
        self.spent = 0.0

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **settings: object,
    ) -> TrainerControl:
        """Note the time, and look."""
        self.ends.append(time.perf_counter() - self.spent)
        if self.look and self.every and state.global_step % self.every == 0:
            began = time.perf_counter()
            control.should_training_stop = self.look(model, state.global_step)
            model.train()
            self.spent += time.perf_counter() - began
        return control


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How both sides train: AdamW, with a warm-up of so many steps and a cosine."""

    batch: int
    rate: float
    decay: float
    betas: tuple[float, float]
    clip: float
    warmup: int


def train(
    network: PreTrainedModel,
    rows: Rows,
    clock: Clock,
    setting: Setting,
    steps: int,
    workers: int = 0,
    seed: int = 0,
    collator: Callable[[list[dict[str, Tensor]]], Mapping[str, Tensor]] | None = None,
) -> float:
    """Train by transformers' Trainer, as its example scripts do; when it began."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            scratch, max_steps=steps, per_device_train_batch_size=setting.batch, learning_rate=setting.rate,
            warmup_steps=setting.warmup, lr_scheduler_type="cosine", weight_decay=setting.decay,
            adam_beta1=setting.betas[0], adam_beta2=setting.betas[1], max_grad_norm=setting.clip, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_num_workers=workers,
            dataloader_drop_last=True, remove_unused_columns=False, seed=seed, use_cpu=network.device.type == "cpu",
        )  # fmt: skip
        worker = Trainer(network, settings, train_dataset=rows, data_collator=collator, callbacks=[clock])
        began = time.perf_counter()
        with redirect_stdout(sys.stderr):  # it prints a summary; standard output is for the lines of JSON
            worker.train()
    return began


def best_workers(speed: Callable[[int], float]) -> int:
    """The number of the Trainer's loader processes, 0 to 2, with the most tokens a second."""
    found = {}
    for workers in (0, 1, 2):
        found[workers] = speed(workers)
        say(f"Trainer with {workers} workers: {found[workers]:.0f} tokens/s")
    return max(found, key=lambda number: found[number])
