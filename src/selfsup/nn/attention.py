"""Where a vision transformer looks."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


def class_attention(network: VisionTransformer, pictures: Tensor) -> Tensor:
    """How much the class token attends to each patch in the last block (Caron et al. 2021, figure 1).

    Args:
        network: with a class token.
        pictures: (B, C, S, S) normalized.

    Returns:
        (B, H, h, w) for each head; over the places it sums to 1, less what goes to the token itself and to registers.
    """
    x = network.norm_pre(network._pos_embed(network.patch_embed(pictures)))
    *before, last = network.blocks
    for block in before:
        x = block(x)
    x, attend = last.norm1(x), last.attn  # type: ignore[operator, union-attr]
    rows, tokens, _ = x.shape
    q, k, _ = attend.qkv(x).view(rows, tokens, 3, attend.num_heads, -1).permute(2, 0, 3, 1, 4)  # type: ignore[operator, union-attr]
    q, k = attend.q_norm(q), attend.k_norm(k)  # type: ignore[operator, union-attr]
    weights = (q[:, :, :1] @ k.transpose(2, 3) * attend.scale).softmax(-1)[:, :, 0, network.num_prefix_tokens :]  # type: ignore[union-attr]
    edge = network.patch_embed.patch_size[0]
    return weights.unflatten(2, (pictures.shape[2] // edge, pictures.shape[3] // edge))
