"""What a network of sentence order goes by: its answers when something is taken away from the passages.

    python benchmarks/order_cues.py RUN [RUN ...] [--pairs 1500]

RUN: runs of `sentence_order` whose data is still there. Asked about held-out pairs, evenly spread, those of `selfsup
eval`: how often a passage and the next one score higher than swapped (order), and than with a foreign one (next), in %.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from selfsup.data.segments import SegmentReader
from selfsup.data.token_store import TokenStore
from selfsup.eval.hidden import evenly
from selfsup.eval.order import Questions, ranker_of, wins
from selfsup.objective import load_objective
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.run import Run

Change = Callable[[str], str]
PRONOUNS = ["he", "she", "him", "her", "his", "hers", "they", "them", "their", "it", "its", "i", "you"]
SAYING = ["said", "cried", "replied", "asked", "answered"]


def without(pattern: str, put: str = "") -> Change:
    """What takes away all that matches."""
    return lambda text: re.sub(pattern, put, text)


def sentences(text: str) -> list[str]:
    """The sentences of a passage, roughly."""
    return re.split(r'(?<=[.!?])["\s]+', text.strip())


def bare(text: str) -> str:
    """Without quotation marks, with one blank for all white space, and none at the edges."""
    return re.sub(r"\s+", " ", re.sub(r'["“”]', "", text)).strip()


def letters(text: str) -> str:
    """Words in small letters and nothing else."""
    return re.sub(r"[^\w ]", "", re.sub(r"\s+", " ", text).lower()).strip()


CHANGES: dict[str, tuple[Change, Change]] = {  # of the passage that stands first, and second
    "nothing": (str, str),
    "double quotation marks": (without(r'["“”]'),) * 2,
    "white space, but one blank": (without(r"\s+", " "),) * 2,
    "both, and blanks at the edges": (bare, bare),
    "names": (without(r"(?<=[a-z,] )[A-Z]\w+"),) * 2,
    "pronouns and verbs of saying": (without(rf"(?i)\b({'|'.join(PRONOUNS + SAYING)})\b"),) * 2,
    "the two sentences at the seam": (
        lambda text: " ".join(sentences(text)[:-1]) or text,
        lambda text: " ".join(sentences(text)[1:]) or text,
    ),
    "all but these": (lambda text: sentences(text)[-1], lambda text: sentences(text)[0]),
    "all but letters": (letters, letters),
}


def asked(folder: Path, pairs: int) -> dict[str, tuple[float, float]]:
    """Order and next, in %, for each of `CHANGES`."""
    run = Run(folder)
    store = prepare(run.data, None, False, Progress(False)).held_out
    assert isinstance(store, TokenStore)
    reader = load_objective(run.recipe.objective).reader(run.recipe.config, store)
    assert isinstance(reader, SegmentReader)
    questions, score = Questions.of(reader), ranker_of(run.objective()).scores
    rows = evenly(len(questions.first), pairs).tolist()
    first, second, foreign = (
        [passages[row] for row in rows] for passages in (questions.first, questions.second, questions.foreign)
    )
    found = {}
    for name, (ahead, behind) in CHANGES.items():
        before, after = [ahead(text) for text in first], [behind(text) for text in second]
        true = score(before, after)
        rivals = (
            score([ahead(text) for text in second], [behind(text) for text in first]),
            score(before, [behind(text) for text in foreign]),
        )
        order, following = (100 * wins(torch.stack([true, other], 1)).mean().item() for other in rivals)
        found[name] = order, following
    return found


def main() -> None:
    """Ask the runs and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=1500)
    given = parser.parse_args()
    found = [asked(run, given.pairs) for run in given.runs]
    heads = "".join(f" {run.name}: order, next |" for run in given.runs)
    sys.stdout.write(f"| taken away |{heads}\n|---|{'---|' * len(found)}\n")
    for name in CHANGES:
        sys.stdout.write(f"| {name} |" + "".join(" {:.1f}, {:.1f} |".format(*one[name]) for one in found) + "\n")


if __name__ == "__main__":
    main()
