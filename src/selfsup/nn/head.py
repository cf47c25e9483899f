"""The head of a network of transformers, by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class _Given(nn.Module):
    """Stands where a network's forward was: gives an output that was computed before."""

    def __init__(self, output: BaseModelOutputWithPooling) -> None:
        super().__init__()
        self.output = output

    def forward(self, *inputs: object, **settings: object) -> BaseModelOutputWithPooling:
        """The output, whatever is asked."""
        return self.output


@contextmanager
def _answering(body: nn.Module, output: BaseModelOutputWithPooling) -> Iterator[None]:
    body.forward = _Given(output).forward  # on the instance, before that of its class
    try:
        yield
    finally:
        del body.forward


def head_on(network: PreTrainedModel, states: Tensor, pooled: Tensor | None = None) -> Tensor:
    """Logits of a network's own head on states that its body gave before, so that it can see some of them only.

    The network's own `forward` is called, with its body answering from memory: so it is right for every network whose
    head looks at one position at a time, whatever the head is made of and called.

    Args:
        network: with a head for masked or causal language, or for sequences.
        states: (B, T, D) last hidden states.
        pooled: (B, D) from the body's pooler, where the head asks for it.

    Returns:
        (B, T, V), or (B, labels) from a head for sequences.
    """
    ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
    with _answering(network.base_model, BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)):
        return network(input_ids=ids).logits
