"""A masked language model in use: it tells what stands behind a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForMaskedLM

from selfsup.data.tokenizer import Template
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.predictors.predictor import TextPredictor


@dataclass(frozen=True)
class Guess:
    """What may stand behind a mask.

    Attributes:
        token: as the tokenizer writes it, spaces included.
        probability: by the network.
    """

    token: str
    probability: float


class Filler(TextPredictor):
    """Fills in masks, each from everything around it; masks do not see each other's guesses."""

    kind = "fill"
    auto = AutoModelForMaskedLM

    def fill(self, text: str, top_k: int) -> list[list[Guess]]:
        """The likeliest tokens behind each mask of a text, likeliest first.

        Raises:
            UserError: no mask, or a text longer than the network reads.
        """
        mask = self.tokenizer.mask_token_id
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if mask not in ids:
            raise UserError(f"there is no {self.tokenizer.mask_token} in the text: write one where a word is missing")
        marks = Template.of(self.tokenizer)
        ids = [*marks.start, *ids, *marks.stop]
        if len(ids) > self.context:
            raise UserError(f"the text has {len(ids)} tokens with its marks, this network reads {self.context}")
        row = torch.tensor([ids], device=self.network.device)
        with evaluating(self.network):
            logits = self.network(input_ids=row).logits[0].float()  # (L, V)
        found = logits[row[0] == mask]
        found[:, list(self.tokenizer.all_special_ids)] = -torch.inf  # a mark is no word
        best = found.softmax(-1).topk(min(top_k, found.shape[1]))
        return [
            [Guess(str(self.tokenizer.decode([token])), chance) for token, chance in zip(tokens, chances, strict=True)]
            for tokens, chances in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
