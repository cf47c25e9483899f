"""Text networks with fresh weights, and how they are written: ModernBERT and GPT-2 as transformers has them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from selfsup.data.tokenizer import Template, end_id
from selfsup.errors import UserError
from selfsup.nn.sharing import factorise_embedding, share_blocks, written_out

Family = Literal["decoder", "encoder"]
Auto = type[AutoModel | AutoModelForCausalLM | AutoModelForMaskedLM | AutoModelForSequenceClassification]
# GPT-2's own name for it, `gelu_new`, is the same function in eight operations: 12 % of a step
# (docs/decisions.md).
FUSED_GELU = "gelu_pytorch_tanh"
# With which head a family learns: its class, and the name of its folder in a run.
HEADS: dict[Family, tuple[Auto, str]] = {
    "decoder": (AutoModelForCausalLM, "generate"),
    "encoder": (AutoModelForMaskedLM, "fill"),
}


@dataclass(frozen=True)
class Shape:
    """How large a network is.

    Attributes:
        layers: number of blocks.
        heads: of attention.
        width: of the residual stream.
        dropout: everywhere in the network.
        share: all blocks use the same weights (Lan et al. 2020, "ALBERT", section 3.1).
        embedding: E, width of the table of tokens, which a matrix takes to the width of the network (ibid.); the
            width itself when None.
    """

    layers: int
    heads: int
    width: int
    dropout: float = 0.0
    share: bool = False
    embedding: int | None = None


SIZES = {"nano": Shape(4, 4, 128), "tiny": Shape(6, 8, 256), "small": Shape(8, 8, 512), "base": Shape(12, 12, 768)}


def _config(family: Family, tokenizer: PreTrainedTokenizerBase, context: int, shape: Shape) -> PreTrainedConfig:
    """What transformers calls a network of this family and shape."""
    if family == "decoder":
        return GPT2Config(
            vocab_size=len(tokenizer), n_positions=context, n_embd=shape.width, n_layer=shape.layers,
            n_head=shape.heads, resid_pdrop=shape.dropout, embd_pdrop=shape.dropout, attn_pdrop=shape.dropout,
            activation_function=FUSED_GELU, bos_token_id=end_id(tokenizer), eos_token_id=end_id(tokenizer),
        )  # fmt: skip
    marks = {
        "pad_token_id": tokenizer.pad_token_id, "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    return ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=8 * round(shape.width / 3),  # as many weights as BERT's
        max_position_embeddings=context, layer_types=["full_attention"] * shape.layers,
        embedding_dropout=shape.dropout, attention_dropout=shape.dropout, mlp_dropout=shape.dropout,
        **marks,
    )  # fmt: skip


def fresh_network(family: Family, tokenizer: PreTrainedTokenizerBase, context: int, shape: Shape) -> PreTrainedModel:
    """A network with its head and weights from torch's generator.

    An `encoder` is ModernBERT (Warner et al. 2024) with attention over the whole window in every block, a `decoder` is
    GPT-2; either may share its blocks and have a narrow table of tokens.

    Args:
        family: which way attention looks: `decoder` back only, `encoder` both ways.
        tokenizer: whose ids it reads.
        context: tokens that it reads at once.
        shape: how large it is.

    Raises:
        UserError: the width is no multiple of the heads, or a head of an encoder has an odd width.
    """
    width, heads = shape.width, shape.heads
    if width % heads:
        raise UserError(f"--width {width} is no multiple of --heads {heads}; try --width {-(-width // heads) * heads}")
    if family == "encoder" and width // heads % 2:
        raise UserError(f"--width {width} with --heads {heads} makes heads of odd width; try --width {2 * width}")
    config = _config(family, tokenizer, context, shape)
    network = HEADS[family][0].from_config(config, attn_implementation="sdpa")
    if shape.share:
        share_blocks(network.base_model)
    if shape.embedding is not None:
        factorise_embedding(network, shape.embedding)
    return network


def fresh_captioner(tokenizer: PreTrainedTokenizerBase, context: int, shape: Shape) -> CLIPTextModel:
    """The text tower of CLIP (Radford et al. 2021, section 2.4) with weights from torch's generator.

    Attention looks back only; the vector of a text is the state at its last mark.

    Raises:
        UserError: the width is no multiple of the heads, or the tokenizer ends a text with nothing, or with the id 2.
    """
    stop = Template.of(tokenizer).stop
    if not stop or stop[-1] == 2:  # see `with_ends`
        what = "no mark" if not stop else "the id 2, which transformers' CLIP takes for another"
        raise UserError(f"the tokenizer ends a text with {what}; give another --tokenizer, or a start with --text-init")
    if shape.width % shape.heads:
        raise UserError(
            f"--width {shape.width} is no multiple of --heads {shape.heads}; "
            f"try --width {-(-shape.width // shape.heads) * shape.heads}"
        )
    marks: Any = {
        "bos_token_id": tokenizer.cls_token_id, "eos_token_id": stop[-1],
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=shape.width, intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, max_position_embeddings=context,
        hidden_act="gelu", **marks,
    )  # fmt: skip
    return AutoModel.from_config(config, attn_implementation="sdpa")


def weights_unshared(family: Family, tokenizer: PreTrainedTokenizerBase, context: int, shape: Shape) -> int:
    """Number of weights of the same network without sharing, and with a table of tokens as wide as itself."""
    with torch.device("meta"):
        plain = fresh_network(family, tokenizer, context, replace(shape, share=False, embedding=None))
    return sum(weight.numel() for weight in plain.parameters())


def save_network(network: PreTrainedModel, auto: Auto, folder: Path) -> None:
    """Write a folder that a class of transformers loads whole: nothing missing, nothing left over.

    Shared weights are written out where the class knows no sharing. A pooler that the class has and the network lacks
    passes the first token's state on, through its tanh, in place of random weights.

    Args:
        network: with whatever head.
        auto: the class that is to load it.
        folder: to write.
    """
    disable_progress_bar()  # a bar for one file of a few MB
    network.save_pretrained(folder, state_dict=whole_state(network, auto))


def whole_state(network: PreTrainedModel, auto: Auto) -> dict[str, Tensor]:
    """The weights that a class of transformers wants of a network; see `save_network`."""
    with torch.device("meta"):
        plain = auto.from_config(network.config)
    have = written_out(network)
    state: dict[str, Tensor] = {}
    for name, wanted in plain.state_dict().items():
        if name in have:
            state[name] = have[name]
        elif name.endswith("pooler.weight") or "pooler.dense.weight" in name:
            state[name] = torch.eye(*wanted.shape)
        elif "pooler" in name:
            state[name] = torch.zeros(wanted.shape)
    missing = plain.state_dict().keys() - state.keys()
    assert not missing, f"{type(network).__name__} has no {', '.join(sorted(missing))}"
    return state
