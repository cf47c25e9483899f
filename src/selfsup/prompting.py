"""Classes by a language model's own words: labels as continuations of a prompt, after a few labelled examples or none.

Brown et al. 2020 ("GPT-3", arXiv 2005.14165, section 2 and appendix C): nothing is fitted; a prompt shows examples with
their labels, then a text, and the network tells how likely each label is to follow.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selfsup.classify import columns_there, csv_file, write_classes
from selfsup.data.draw import Draw
from selfsup.data.source import Data, open_source
from selfsup.errors import UserError
from selfsup.predict import load_predictor
from selfsup.predictors.generator import Generator
from selfsup.prepare import columns_of
from selfsup.progress import Progress
from selfsup.shots import Examples, Rows

log = logging.getLogger("selfsup")
PROMPT = "{text}\nlabel: {label}\n\n"
DRAWS = 5  # of the shots
BLOCK = 64  # texts scored at once


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How a language model is asked.

    Attributes:
        shots: labelled examples in a prompt; 0 for none.
        prompt: an example with `{text}` and then `{label}` in the places of both.
        draws: how often other shots are drawn; without shots there is nothing to draw.
        seed: of the draws.
    """

    shots: int
    prompt: str = PROMPT
    draws: int = DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and a prompt without places for text and label.

        Raises:
            UserError: there is such a one.
        """
        if self.shots < 0 or self.draws < 1:
            raise UserError(
                f"--shots {self.shots} --draws {self.draws}: allowed are 0 or more shots, and 1 draw or more"
            )
        before = self.prompt.split("{label}")[0]
        if self.prompt.count("{label}") != 1 or "{text}" not in before or self.prompt.count("{text}") != 1:
            raise UserError(
                f"--prompt {self.prompt!r}: it has to hold {{text}} once and behind it {{label}} once, as {PROMPT!r}"
            )

    def question(self, text: str) -> str:
        """A prompt up to the label, without the spaces before it: many tokenizers have those in the word's token."""
        return self.prompt.split("{label}")[0].rstrip(" ").replace("{text}", text)

    def answer(self, label: str) -> str:
        """A label with the spaces before it."""
        before = self.prompt.split("{label}")[0]
        return " " * (len(before) - len(before.rstrip(" "))) + label

    def example(self, text: str, label: str) -> str:
        """A text with its label: a shot."""
        return self.question(text) + self.answer(label) + self.prompt.split("{label}")[1]


@dataclass(frozen=True)
class Accuracy:
    """How many labels of its own a source's classes agree with.

    Attributes:
        mean: over draws of the shots.
        sd: over the same; None for a single draw.
        chance: accuracy of whoever always names the commonest class.
        rows: that have a label known to the examples.
    """

    mean: float
    sd: float | None
    chance: float
    rows: int

    def __str__(self) -> str:
        """In percent."""
        deviation = "" if self.sd is None else f" ± {100 * self.sd:.1f}"
        return f"accuracy {100 * self.mean:.1f}{deviation} %, chance {100 * self.chance:.1f} %, {self.rows} labels"


def label_chances(
    generator: Generator, prompting: Prompting, texts: Sequence[str], shots: Sequence[str], classes: Sequence[str]
) -> tuple[Tensor, int]:
    """How likely each label is to follow each text.

    The log-likelihood of a label is the sum over its tokens, which is the probability of the label itself. Where labels
    differ in number of tokens it is the mean: the sum would favor short ones, whatever the text.

    Args:
        generator: the language model.
        prompting: how it is asked.
        texts: N texts.
        shots: examples that stand before each of them; the first are left out where they do not fit.
        classes: C labels.

    Returns:
        (N, C) probabilities on the CPU, and how many texts did not have all shots before them.
    """

    def size(text: str) -> int:
        return len(generator.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    answers = [prompting.answer(name) for name in classes]
    room = generator.context - max(size(answer) for answer in answers)
    shown = ["".join(shots[first:]) for first in range(len(shots) + 1)]
    sizes = [size(text) for text in shown]
    prompts, cut = [], 0
    for text in texts:
        question = prompting.question(text)
        left = room - size(question)
        first = next((number for number, taken in enumerate(sizes) if taken <= left), len(shots))
        prompts.append(shown[first] + question)
        cut += first > 0
    nats, count = generator.log_likelihood([prompt for prompt in prompts for _ in answers], answers * len(prompts))
    scores = nats if bool((count == count[0]).all()) else nats / count
    return scores.view(len(texts), len(classes)).softmax(1), cut


def _ask(
    generator: Generator, prompting: Prompting, texts: Sequence[str], examples: Examples, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Each draw's answers: (S, N, C) probabilities, and (S, N) whether a text was among the shots, its label told."""
    draws = prompting.draws if prompting.shots else 1
    chances = torch.empty(draws, len(texts), len(examples.classes))
    told, cut = torch.zeros(draws, len(texts), dtype=torch.bool), 0
    for number in range(draws):
        rows = examples.drawn(prompting.shots, Draw(prompting.seed, number, torch.arange(len(examples.texts))))
        shots = [prompting.example(examples.texts[row], examples.classes[examples.labels[row]]) for row in rows]
        for start in range(0, len(texts), BLOCK):
            some = texts[start : start + BLOCK]
            found, short = label_chances(generator, prompting, some, shots, examples.classes)
            chances[number, start : start + BLOCK] = found
            cut += short
            progress.part("prompting", number * len(texts) + start + len(some), draws * len(texts))
        seen = {examples.texts[row] for row in rows}
        told[number] = torch.tensor([text in seen for text in texts], dtype=torch.bool)
    if cut:
        log.warning(
            "%d of %d prompts have no room for all of the shots: this network reads %d tokens at once",
            cut, draws * len(texts), generator.context,
        )  # fmt: skip
    return chances, told


def _accuracy(chances: Tensor, told: Tensor, labels: Sequence[str], classes: Sequence[str]) -> Accuracy | None:
    """How many texts get their own label; None where none has a label that is known and was never told.

    Args:
        chances: (S, N, C) of each draw.
        told: (S, N) whether the text and its label were among the shots.
        labels: N of them, empty for none.
        classes: C that are known.
    """
    unknown = sorted(set(labels) - {*classes, ""})
    if unknown:
        log.warning("labels that the examples lack, left out of the accuracy: %s", ", ".join(unknown[:5]))
    index = {name: number for number, name in enumerate(classes)}
    wanted = torch.tensor([index.get(label, -1) for label in labels], dtype=torch.int64)
    scored = (wanted >= 0) & ~told  # (S, N)
    if not bool(scored.any(1).all()):
        return None
    right = ((chances.argmax(2) == wanted) & scored).sum(1).double() / scored.sum(1)  # (S,)
    sd = float(right.std(correction=1)) if len(right) > 1 else None
    known = wanted[wanted >= 0]
    return Accuracy(float(right.mean()), sd, float(known.bincount().max() / len(known)), len(known))


def prompt_classes(
    place: str | os.PathLike,
    data: Data,
    like: Data,
    out: str | os.PathLike,
    prompting: Prompting,
    columns: tuple[str, ...] = (),
    quiet: bool = False,
) -> tuple[Path, Accuracy | None]:
    """Write a CSV with `name`, `part`, `label` and `probability` for each row of the data.

    All texts of a draw have the same shots before them. The probability is the mean over the draws, and the label the
    one with the highest. A row that is empty or cannot be read has neither.

    Args:
        place: a run of a language model, or an exported folder.
        data: texts to classify.
        like: labelled examples, which the shots are drawn from; their labels are the classes.
        out: file to write.
        prompting: how the model is asked.
        columns: `meaning=name` pairs for the examples, and for the data where they are there.
        quiet: no progress on the terminal.

    Returns:
        The file, and where the data has labels of its own, how many are found; a text is not scored in a draw that
        shows it with its label.

    Raises:
        UserError: no language model, examples without labels or too few of them, data of another kind, or a file that
            cannot be written.
    """
    file, names = csv_file(out), columns_of(columns)
    generator = load_predictor(place, Generator)
    source = open_source(data, columns_there(data, columns))
    rows = Rows.of(source, names.get("label", "label"))
    examples = Examples.of(like, names)
    most = len(examples.texts)
    if prompting.shots > most:
        raise UserError(f"--shots {prompting.shots}: --like has {most} labelled texts, allowed are as many or fewer")
    good = [row for row, text in enumerate(rows.texts) if text]
    chances, told = _ask(generator, prompting, [rows.texts[row] for row in good], examples, Progress(not quiet))
    labels: list[str | None] = [None] * len(rows.texts)
    sure = [0.0] * len(rows.texts)
    for row, chance, number in zip(good, *(found.tolist() for found in chances.mean(0).max(1)), strict=True):
        labels[row], sure[row] = examples.classes[number], chance
    write_classes(file, rows.names, rows.parts, labels, sure)
    return file, _accuracy(chances, told, [rows.labels[row] for row in good], examples.classes)
