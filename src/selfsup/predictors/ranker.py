"""A network that judges what follows what, in use: it scores passages as continuations of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from selfsup.data.tokenizer import Template
from selfsup.encoder import evaluating
from selfsup.nn.head import head_on
from selfsup.nn.ragged import marked, passes
from selfsup.predictors.predictor import TextPredictor

BATCH = 64  # pairs at once


class Ranker(TextPredictor):
    """Scores pairs of passages; more is more likely in this order."""

    kind = "order"
    auto = AutoModelForSequenceClassification

    def _cut(self, texts: Sequence[str], room: int, keep_end: bool) -> tuple[Tensor, Tensor]:
        """(N, room) ids and (N,) lengths; of a longer text what stands next to the other one is kept."""
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        ids = torch.zeros(len(rows), room, dtype=torch.int64)
        length = torch.zeros(len(rows), dtype=torch.int64)
        for number, row in enumerate(rows):
            kept = row[-room:] if keep_end else row[:room]
            ids[number, : len(kept)], length[number] = torch.tensor(kept, dtype=torch.int64), len(kept)
        return ids, length

    def scores(self, first: Sequence[str], second: Sequence[str]) -> Tensor:
        """(N,) on the CPU: how well each of the second passages follows the first that stands at its place."""
        template, device = Template.of(self.tokenizer), self.network.device
        room = (self.context - len(template.start) - len(template.between) - len(template.stop)) // 2
        found = torch.empty(len(first))
        with evaluating(self.network):
            for start in range(0, len(first), BATCH):
                part = slice(start, start + BATCH)
                pairs = self._cut(first[part], room, True), self._cut(second[part], room, False)
                tokens, length, types = (value.to(device) for value in marked(template, *pairs))
                for rows, last, inside, pooled in passes(self.network, tokens, length, types):
                    found[start + rows.cpu()] = head_on(self.network, last, pooled, inside)[:, 0].float().cpu()
        return found
