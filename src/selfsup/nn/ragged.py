"""Texts of unequal length through a network, with little padding."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextModel, PreTrainedModel

from selfsup.data.tokenizer import Template
from selfsup.ops.pooling import Pooling, pooled
from selfsup.ops.ragged import joined

LEAST = 1024  # tokens in a group: smaller ones cost more in calls than they save in padding
SHORTEST = 0.8  # of a group's longest row


def marked(
    template: Template, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """One or two texts of each row between the tokenizer's marks.

    Args:
        template: the marks.
        first: (B, L) tokens and (B,) lengths.
        second: the same of another text.

    Returns:
        (B, W) tokens, (B,) lengths, and (B, W) segment of each token, 0 or 1.
    """
    tokens, count = first

    def constant(ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return tokens.new_tensor(ids).expand(len(tokens), -1), torch.full_like(count, len(ids))

    middle = [] if second is None else [constant(template.between), second]
    parts = [constant(template.start), first, *middle, constant(template.stop)]
    row, length, part = joined(parts, sum(part.shape[1] for part, _ in parts))
    return row, length, (part > 2).long()


def length_groups(length: Tensor, most: int | None = None) -> list[Tensor]:
    """Row numbers by length, longest first, in groups of about equal length.

    A group ends before a row shorter than `SHORTEST` of its longest, once it holds `LEAST` tokens.

    Args:
        length: (N,) tokens in each row.
        most: tokens of a group, padding included, unless it is of one row; any number when None.
    """
    order = torch.argsort(length, descending=True, stable=True)
    sizes = length[order].tolist()
    cuts, start = [], 0
    for place, size in enumerate(sizes):
        held = (place - start) * sizes[start]
        full = most is not None and place > start and held + sizes[start] > most
        if full or (size < SHORTEST * sizes[start] and held >= LEAST):
            cuts.append(place - start)
            start = place
    return list(order.split([*cuts, len(sizes) - start]))


def close_groups(length: Tensor, most: int, spare: int) -> list[Tensor]:
    """Row numbers by length, longest first, in groups for a network that runs without gradients.

    Without gradients a call is cheap, so that most groups are of a single length: they need no padding and no mask.
    Lengths share a group only where few rows have them: until there would be more than `spare` tokens of padding.

    Args:
        length: (N,) tokens in each row.
        most: tokens of a group, padding included, unless it is of one row.
        spare: as many tokens pass the network in the time that a call costs.
    """
    order = torch.argsort(length, descending=True, stable=True)
    sizes, counts = torch.unique_consecutive(length[order], return_counts=True)
    groups: list[list[int]] = []  # longest row, rows
    padding = 0
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        wasted = (groups[-1][0] - size) * count if groups else 0
        if groups and padding + wasted <= spare:
            groups[-1][1] += count
            padding += wasted
        else:
            groups.append([size, count])
            padding = 0
    cuts: list[int] = []
    for longest, rows in groups:
        pieces = -(-rows // max(most // longest, 1))
        cuts += [rows * (piece + 1) // pieces - rows * piece // pieces for piece in range(pieces)]
    return list(order.split(cuts))


def passes(
    network: PreTrainedModel, ids: Tensor, length: Tensor, types: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Run the body of a transformer over ragged rows, those of about equal length together.

    Args:
        network: whose body runs, its head does not.
        ids: (N, L) tokens; what lies beyond a row's length is not looked at.
        length: (N,) tokens in each row, at least 1.
        types: (N, L) of which segment each token is; only a network that has an embedding for it is told.

    Yields:
        Row numbers (n,), their last hidden states (n, W, D) up to the longest of them, which of these are of a row's
        own tokens (n, W), and (n, D) from its pooler, if it has one.
    """
    told = types is not None and "type_vocab_size" in vars(network.config) and network.config.type_vocab_size > 1
    for rows in length_groups(length):
        sizes = length[rows]
        width = int(sizes[0])
        inside = torch.arange(width, device=ids.device) < sizes[:, None]  # (n, W)
        mask = None if bool(inside.all()) else inside.long()  # without one, attention has its fastest kernel
        settings = {"token_type_ids": types[rows, :width]} if told and types is not None else {}
        output = network.base_model(input_ids=ids[rows, :width], attention_mask=mask, **settings)
        yield rows, output.last_hidden_state, inside, output.get("pooler_output")


def text_vectors(network: PreTrainedModel, ids: Tensor, length: Tensor, pool: Pooling, most: int | None) -> Tensor:
    """(N, D) pooled last hidden states of ragged rows, in their order.

    Where `most` tokens pass the network at once, activations are made again in the backward pass, with the same
    dropout: gradient caching (Gao et al. 2021) with exact replay.

    Args:
        network: whose body runs.
        ids: (N, L) tokens.
        length: (N,) tokens in each row, at least 1.
        pool: how states become a vector.
        most: tokens in a group; None for all groups without a second pass.
    """

    def group(some: Tensor, sizes: Tensor) -> Tensor:
        inside = torch.arange(some.shape[1], device=some.device) < sizes[:, None]
        # What stands behind the end of a text a causal pooler at its end does not see.
        whole = isinstance(network, CLIPTextModel) or bool(inside.all())
        settings = {} if isinstance(network, CLIPTextModel) else {"use_cache": False}
        output = network.base_model(input_ids=some, attention_mask=None if whole else inside.long(), **settings)
        return output.pooler_output if pool == "pooler" else pooled(output.last_hidden_state, inside, pool)

    groups = length_groups(length, most)
    parts = [(ids[rows, : int(length[rows[0]])], length[rows]) for rows in groups]
    again = most is not None and torch.is_grad_enabled()
    found = [checkpoint(group, *part, use_reentrant=False) if again else group(*part) for part in parts]
    return torch.cat(found)[torch.cat(groups).argsort()]  # type: ignore[arg-type]
