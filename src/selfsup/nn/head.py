"""The head of a network of transformers, by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from selfsup.ops.language import token_loss

# Most logits at once, on a CPU and elsewhere: 16 MB and 256 MB, and as much again for their gradient. What is larger
# than 32 MB a CPU's allocator gives back and takes anew, which costs as much as making logits twice (decisions.md).
LOGITS = (1 << 22, 1 << 26)


class _Output(BaseModelOutputWithPooling):
    """States, and nothing of all else that the head of some network would pass on, such as a cache."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Given(nn.Module):
    """Stands where a network's forward was: gives an output that was computed before."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, *inputs: object, **settings: object) -> _Output:
        """The output, whatever is asked."""
        return self.output


@contextmanager
def _answering(body: nn.Module, output: _Output) -> Iterator[None]:
    body.forward = _Given(output).forward  # on the instance, before that of its class
    try:
        yield
    finally:
        del body.forward


def head_on(
    network: PreTrainedModel, states: Tensor, pooled: Tensor | None = None, inside: Tensor | None = None
) -> Tensor:
    """Logits of a network's own head on states that its body gave before, so that it can see some of them only.

    The network's own `forward` is called, with its body answering from memory: so it is right for every network whose
    head looks at one position at a time, whatever the head is made of and called.

    Args:
        network: with a head for masked or causal language, or for sequences.
        states: (B, T, D) last hidden states.
        pooled: (B, D) from the body's pooler, where the head asks for it.
        inside: (B, T) bool, which states are of a text's own tokens, where the head averages over them; all if None.

    Returns:
        (B, T, V), or (B, labels) from a head for sequences.
    """
    ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
    with _answering(network.base_model, _Output(last_hidden_state=states, pooler_output=pooled)):
        return network(input_ids=ids, attention_mask=None if inside is None else inside.long()).logits


def token_losses(network: PreTrainedModel, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of tokens in nats, and whether each was the likeliest, from the states that tell them.

    Where there would be more than `LOGITS`, they are made block by block, and again in the backward pass, so that one
    block is in memory at a time.

    Args:
        network: with its head for causal or masked language.
        states: (M, D) last hidden states.
        targets: (M,) ids.

    Returns:
        (M,) at least float32, and (M,) bool.
    """

    def block(some: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        return token_loss(head_on(network, some[None])[0], wanted)

    size = max(LOGITS[states.device.type != "cpu"] // int(network.config.vocab_size), 1)
    if len(states) <= size:
        return block(states, targets)
    parts = [
        checkpoint(block, some, wanted, use_reentrant=False)
        for some, wanted in zip(states.split(size), targets.split(size), strict=True)
    ]
    return torch.cat([nats for nats, _ in parts]), torch.cat([correct for _, correct in parts])  # type: ignore[misc]
