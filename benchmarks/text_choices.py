"""What each choice for text is worth: the same steps with it and without it, in turn, and the memory of each.

    python benchmarks/text_choices.py [--quick] [--data novels_en] [--what "masked head" "length groups" "blocks"]

`ratio` over 1: the choice is faster. `masked head`: logits of the hidden tokens only, beside all of them; `length
groups`: sentences of about equal length together, beside all padded to the longest; `blocks`: logits of a causal
network made block by block past a bound, which trades time for memory. 4 layers, 4 heads, width 256, AdamW, float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from choices import Steps, compare, start
from side_by_side import arguments, highest
from torch import Tensor

from selfsup.nn import head, ragged
from selfsup.ops.language import token_loss

NETWORK = {"layers": 4, "heads": 4, "width": 256, "optimizer": "adamw"}


class Without:
    """Steps of a run with something of the package replaced meanwhile."""

    def __init__(self, steps: Callable[[], float], place: object, name: str, other: object) -> None:
        self.steps, self.place, self.name, self.other = steps, place, name, other

    def __call__(self) -> float:
        """Do a round; its seconds."""
        ours = vars(self.place)[self.name]
        setattr(self.place, self.name, self.other)
        try:
            return self.steps()
        finally:
            setattr(self.place, self.name, ours)


def published(what: str, ours: Callable[[], float], other: Callable[[], float], rounds: int, **about: object) -> None:
    """Memory of one round of each, then the times in turn."""
    memory = []
    for side in (ours, other):
        side()  # what is made once
        with highest() as most:
            side()
        memory.append(round(most()))
    compare(what, ours, other, rounds, memory_mb=memory[0], memory_mb_without=memory[1], **about)


def masked_head(data: str, steps: int, rounds: int) -> None:
    """Logits at the hidden tokens only."""
    settings = {**NETWORK, "batch": 16, "rows": "windows", "vocabulary": 16384}
    ours, full = (start("masked_lm", data, settings) for _ in range(2))
    objective = full.objective

    def forward(batch: dict[str, Tensor], draw: object) -> dict[str, Tensor]:
        views = objective.views(batch, draw)
        hidden = views["counted"]
        nats, _ = token_loss(objective.network(views["input"]).logits[hidden], views["target"][hidden])
        return {"loss": nats.mean(), "count": views["counted"].sum()}

    full.steps.wrapped = forward
    published("masked head", Steps(ours, steps), Steps(full, steps), rounds, kinds=objective.facts.vocabulary)


def length_groups(data: str, steps: int, rounds: int) -> None:
    """Rows of about equal length together."""
    settings = {**NETWORK, "batch": 128, "rows": "texts"}
    text = start("masked_lm", data, NETWORK).reader.store.cut(0, 500_000).text()
    sentences = re.split(r"(?<=[.!?])\s+", text)
    ours, padded = (start("masked_lm", data, settings, sentences) for _ in range(2))
    other = Without(Steps(padded, steps), ragged, "length_groups", lambda length: [length.argsort(descending=True)])
    [(batch, _)] = next(ours.read(0, 1))
    length = batch["tokens_length"]
    full = float(length.sum() / (len(length) * length.max()))
    published("length groups", Steps(ours, steps), other, rounds, mean_share_of_longest=round(full, 3))


def blocks(data: str, steps: int, rounds: int) -> None:
    """Logits block by block."""
    settings = {**NETWORK, "batch": 16, "context": 512, "vocabulary": 16384}
    ours, whole = (start("causal_lm", data, settings) for _ in range(2))
    other = Without(Steps(whole, steps), head, "LOGITS", (1 << 62, 1 << 62))
    published("blocks", Steps(ours, steps), other, rounds, kinds=whole.objective.facts.vocabulary, bound=head.LOGITS[0])


CASES = {"masked head": masked_head, "length groups": length_groups, "blocks": blocks}


def main() -> None:
    """All choices in turn."""
    given = arguments(__doc__).parse_args()
    for what in given.what or CASES:
        CASES[what](given.data or "sample:prose", *((1, 1) if given.quick else (4, 5)))


if __name__ == "__main__":
    main()
