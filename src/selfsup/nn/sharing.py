"""Fewer weights for the same depth: blocks that are one, and a narrow table of tokens (Lan et al. 2020, "ALBERT")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


def blocks_of(network: nn.Module) -> nn.ModuleList:
    """The blocks of a transformer: its longest list of modules."""
    return max((part for part in network.modules() if isinstance(part, nn.ModuleList)), key=len)


def share_blocks(network: nn.Module) -> None:
    """Make every block use the weights of the first that has them; each keeps its number, by which a cache knows it.

    ModernBERT's first block lacks a norm that the others have.
    """
    shared: dict[str, nn.Parameter] = {}
    for block in blocks_of(network):
        for name, weight in list(block.named_parameters()):
            place, _, last = name.rpartition(".")
            block.get_submodule(place).register_parameter(last, shared.setdefault(name, weight))


class NarrowEmbedding(nn.Module):
    """A (V, E) table and a matrix from E to D, in place of a (V, D) table."""

    def __init__(self, vocabulary: int, narrow: int, width: int, sd: float) -> None:
        super().__init__()
        self.table, self.up = nn.Embedding(vocabulary, narrow), nn.Linear(narrow, width, bias=False)
        nn.init.normal_(self.table.weight, std=1.0)
        nn.init.normal_(self.up.weight, std=sd / narrow**0.5)  # so that the product has the deviation of a plain table

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) ids to (B, T, D)."""
        return self.up(self.table(ids))

    def written_out(self) -> Tensor:
        """The (V, D) table that does the same."""
        return self.table.weight @ self.up.weight.T


class NarrowHead(nn.Module):
    """Logits by the transposed narrow embedding, and the bias of the head that it replaces, if that had one."""

    def __init__(self, embedding: NarrowEmbedding, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.embedding, self.bias = embedding, bias

    @property
    def weight(self) -> Tensor:
        """The table, which optimizers treat as such."""
        return self.embedding.table.weight

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V)."""
        return F.linear(states @ self.embedding.up.weight, self.embedding.table.weight, self.bias)


def factorise_embedding(network: PreTrainedModel, narrow: int) -> None:
    """Put a narrow table of tokens, tied to the head, into a network whose table is tied to its head."""
    plain, head = network.get_input_embeddings(), network.get_output_embeddings()
    assert isinstance(plain, nn.Embedding) and isinstance(head, nn.Linear)
    vocabulary, width = plain.weight.shape
    embedding = NarrowEmbedding(vocabulary, narrow, width, float(network.config.initializer_range))
    network.set_input_embeddings(embedding)
    network.set_output_embeddings(NarrowHead(embedding, head.bias))


def written_out(network: PreTrainedModel) -> dict[str, Tensor]:
    """The state of a network by the names of a plain one: shared weights repeated, a narrow table multiplied out."""
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    for name, part in network.named_modules():
        if isinstance(part, NarrowEmbedding):
            state[f"{name}.weight"] = part.written_out().detach().clone()
        elif isinstance(part, NarrowHead):
            state[f"{name}.weight"] = part.embedding.written_out().detach().clone()
    return state
