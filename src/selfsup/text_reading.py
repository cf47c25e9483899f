"""How the states of a text's tokens become its vector, and what is put in front of a text before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from selfsup.ops.pooling import Pooling, pooled

Role = Literal["query", "document"]


@dataclass(frozen=True)
class Reading:
    """How a text becomes a vector.

    Attributes:
        pool: the mean of the states of all its tokens, the state of the first, the class token, or what the network's
            own pooler makes of them.
        normalize: whether the vector has the length 1.
        query, document: what is put in front of a text in this role.
    """

    pool: Pooling = "mean"
    normalize: bool = False
    query: str = ""
    document: str = ""

    def prompt(self, role: Role | None) -> str:
        """What is put in front of a text."""
        return {"query": self.query, "document": self.document, None: ""}[role]

    def vector(self, output: ModelOutput, mask: Tensor) -> Tensor:
        """(B, D) of a network's output, of whose states (B, L) are of a text's own tokens."""
        if self.pool != "pooler":
            return self.of_states(output["last_hidden_state"], mask)
        found = output["pooler_output"].float()
        return F.normalize(found, dim=-1) if self.normalize else found

    def of_states(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, D) of the states (B, L, D) behind any block; their mean where the last ones have a pooler."""
        found = pooled(states.float(), mask, "mean" if self.pool == "pooler" else self.pool)
        return F.normalize(found, dim=-1) if self.normalize else found


def reading_of(about: dict[str, Any]) -> Reading:
    """What a folder's `selfsup.json` says; older ones say nothing, nor do heads."""
    return Reading(**about.get("reading", {}))
