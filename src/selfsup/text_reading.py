"""How the states of a text's tokens become its vector, and what is put in front of a text before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from selfsup.ops.pooling import Pool, pooled

Role = Literal["query", "document"]


@dataclass(frozen=True)
class Reading:
    """How a text becomes a vector.

    Attributes:
        pool: the mean of the states of all its tokens, or the state of the first, the class token.
        normalize: whether the vector has the length 1.
        query, document: what is put in front of a text in this role.
    """

    pool: Pool = "mean"
    normalize: bool = False
    query: str = ""
    document: str = ""

    def prompt(self, role: Role | None) -> str:
        """What is put in front of a text."""
        return {"query": self.query, "document": self.document, None: ""}[role]

    def vector(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, D) of last hidden states (B, L, D), of which (B, L) are of a text's own tokens."""
        found = pooled(states, mask, self.pool)
        return F.normalize(found, dim=-1) if self.normalize else found


def reading_of(about: dict[str, Any]) -> Reading:
    """What a folder's `selfsup.json` says; older ones say nothing, nor do heads."""
    return Reading(**about.get("reading", {}))
