"""Rates that fall from the last layer of a network to its first: what was learned before changes least below."""

from __future__ import annotations

import re

from timm.optim import param_groups_layer_decay
from torch import nn
from transformers import PreTrainedModel


def layer_scales(whole: nn.Module, networks: list[nn.Module], decay: float) -> dict[int, float]:
    """What the rate of each weight is multiplied with, by its id: 1 in the last layer, `decay` in the one before.

    Clark et al. 2020, "ELECTRA" (appendix A); Bao et al. 2022, "BEiT". Layers are timm's own groups, or the blocks of a
    transformer for text with all embeddings as the layer below. Weights that are not named here have 1.

    Args:
        whole: everything that is trained.
        networks: of the encoders; others of their classes inside `whole`, such as a student, are treated alike.
        decay: above 0, at most 1.
    """
    if decay == 1:
        return {}
    found: dict[int, float] = {}
    for part in whole.modules():
        if any(type(part) is type(network) for network in networks):
            found |= _of_text(part, decay) if isinstance(part, PreTrainedModel) else _of_pictures(part, decay)
    return found


def _of_pictures(network: nn.Module, decay: float) -> dict[int, float]:
    groups = param_groups_layer_decay(network, layer_decay=decay)
    return {id(weight): float(group["lr_scale"]) for group in groups for weight in group["params"]}


def _of_text(network: PreTrainedModel, decay: float) -> dict[int, float]:
    depth: dict[int, int] = {}
    for name, weight in network.named_parameters():
        block = re.search(r"\.(\d+)\.", f".{name}")
        depth[id(weight)] = int(block.group(1)) + 1 if block else 0 if "emb" in name or "wte" in name else -1
    top = max(depth.values())
    return {one: decay ** (top - (level if level >= 0 else top)) for one, level in depth.items()}
