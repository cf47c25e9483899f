"""Hidden words and their loss: what BERT and ALBERT have in common."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from selfsup.data.draw import Draw
from selfsup.data.facts import TextFacts
from selfsup.data.words import Words
from selfsup.errors import UserError
from selfsup.ops.masking import choose_units, units

Unit = Literal["token", "word", "span"]
SPAN = 3.8  # mean length of a span: SpanBERT's (Joshi et al. 2020, section 3.1), whose lengths are geometric too
MASK, RANDOM = 0.8, 0.1  # of the chosen tokens so many become the mask, so many another token; the rest stays


def require_mask(facts: TextFacts) -> None:
    """Refuse text in which nothing can be hidden.

    Raises:
        UserError: its tokenizer has no mask.
    """
    if facts.mask is None:
        raise UserError(
            "the tokenizer has no mask token, so nothing can be hidden; "
            "give --tokenizer bpe, char or byte, or an --init that has one"
        )


class MaskedWords(nn.Module):
    """Hides tokens of texts (Devlin et al. 2019, section 3.1); it has no weights."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rate: float, unit: Unit) -> None:
        """Tables over the vocabulary of a tokenizer with a mask."""
        super().__init__()
        assert isinstance(tokenizer.mask_token_id, int)
        self.mask, self.rate, self.unit = tokenizer.mask_token_id, rate, unit
        special = torch.zeros(len(tokenizer), dtype=torch.bool)
        special[list(tokenizer.all_special_ids)] = True
        begins = torch.from_numpy(Words.of(tokenizer).begins) if unit == "word" else torch.ones_like(special)
        self.special: Tensor
        self.begins: Tensor
        self.ordinary: Tensor
        self.register_buffer("special", special, persistent=False)
        self.register_buffer("begins", begins, persistent=False)
        self.register_buffer("ordinary", (~special).nonzero()[:, 0], persistent=False)

    def hide(self, tokens: Tensor, length: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Choose tokens to predict, and change most of them; a mark is neither chosen nor put in a word's place.

        Args:
            tokens: (B, W).
            length: (B,).
            draw: of the rows.

        Returns:
            (B, W) what the network is shown, and (B, W) bool, which tokens it has to tell.
        """
        width = tokens.shape[1]
        inside = torch.arange(width, device=tokens.device) < length[:, None]
        allowed = inside & ~self.special[tokens]
        begins = draw.bernoulli("span", 1 / SPAN, width) if self.unit == "span" else self.begins[tokens]
        begins = begins | ~allowed | ~F.pad(allowed, (1, 0))[:, :-1]
        hidden = choose_units(draw.uniform("unit", width), begins, allowed, self.rate)
        kind = draw.uniform("kind", width)
        if self.unit == "span":  # a span shares its fate (Joshi et al. 2020, section 3.1)
            kind = kind.gather(1, units(begins))
        other = self.ordinary[draw.integers("other", len(self.ordinary), width)]
        changed = torch.where(kind < MASK, self.mask, torch.where(kind < MASK + RANDOM, other, tokens))
        return torch.where(hidden, changed, tokens), hidden
