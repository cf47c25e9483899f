"""MAE against transformers' `ViTMAEForPreTraining`, and passes that leave patches out."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import timm
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from selfsup.data.draw import Draw
from selfsup.data.facts import ImageFacts
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.vit import plain_transformer, states, visible_states, waves
from selfsup.objectives import mae
from selfsup.ops.patches import patchify, standardized, unpatchify

FACTS = ImageFacts(rows=100, channels=3, resolution=18, size=16, mean=(0.5,) * 3, sd=(0.25,) * 3)
SHAPE = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2}


def encoder(network: str = "vit_tiny_patch16_224", arguments: dict | None = None) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder.create(network, SHAPE if arguments is None else arguments, 16, FACTS.mean, FACTS.sd)


def batch(rows: int) -> tuple[dict[str, torch.Tensor], Draw]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (rows, 18, 18, 3), generator=generator, dtype=torch.uint8)
    size = torch.full((rows,), 18, dtype=torch.int32)
    return {"image": image, "height": size, "width": size}, Draw(0, 0, torch.arange(rows))


def theirs_of(network: ViTMAEForPreTraining, name: str) -> list[torch.Tensor]:
    """The weights of transformers that one of ours is put together from."""
    for old, new in (
        ("backbone.blocks", "vit.layers"), ("decoder.blocks", "decoder.decoder_layers"),
        ("decoder.last", "decoder.decoder_layers.1"),
        ("backbone.norm", "vit.layernorm"),
        ("decoder.norm", "decoder.decoder_norm"), ("decoder.enter", "decoder.decoder_embed"),
        ("decoder.leave", "decoder.decoder_pred"), ("decoder.mask", "decoder.mask_token"),
        ("backbone.cls_token", "vit.embeddings.cls_token"),
        ("backbone.patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
        ("backbone.pos_embed", "vit.embeddings.position_embeddings"), (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."), (".attn.proj.", ".attention.o_proj."),
    ):  # fmt: skip
        name = name.replace(old, new)
    named = dict(network.named_parameters())
    if ".attn.qkv." in name:
        return [named[name.replace(".attn.qkv.", f".attention.{part}_proj.")] for part in "qkv"]
    return [named[name]]


@pytest.mark.parametrize("target", ["standardized", "pixels"])
def test_loss_and_gradient_equal_transformers(target: Literal["standardized", "pixels"]) -> None:
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, image_size=16,
            patch_size=4, decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=1,
            decoder_intermediate_size=128, norm_pix_loss=target == "standardized", layer_norm_eps=1e-6,
        )
    )  # fmt: skip
    ours = mae.build(mae.Config(target=target, decoder_width=32, decoder_layers=2), FACTS, {"image": encoder()})
    ours.decoder.norm.eps = 1e-6  # torch's own is 1e-5; timm's and theirs are 1e-6
    for block in (*ours.decoder.blocks, ours.decoder.last):
        block.norm1.eps = block.norm2.eps = 1e-6  # type: ignore[union-attr]
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            weight.copy_(torch.cat(theirs_of(theirs, name)).view_as(weight))
        theirs.decoder.decoder_pos_embed[0, 1:] = ours.decoder.positions  # theirs are zeros until weights are loaded
    rows, draw = batch(3)
    views = ours.views(rows, draw)
    order = torch.cat([views["visible"], views["hidden"]], 1)
    losses = ours(rows, draw, views)
    found = theirs(pixel_values=views["image"], noise=order.argsort(1).float())
    assert torch.allclose(losses["loss"], found.loss, rtol=1e-5)
    assert torch.allclose(losses["example_loss"].mean(), losses["loss"]) and losses["count"] == 3 * 12
    losses["loss"].backward()
    found.loss.backward()
    for name, weight in ours.named_parameters():
        pieces = [piece.grad for piece in theirs_of(theirs, name)]
        if name != "backbone.pos_embed":  # theirs is fixed
            right = torch.cat([piece for piece in pieces if piece is not None]).view_as(weight)
            assert weight.grad is not None
            assert torch.allclose(weight.grad, right, rtol=1e-3, atol=1e-6), name


def test_fixed_positions() -> None:
    """Vaswani et al. 2017, section 3.5, of the column and then of the row; sines before cosines."""
    found = waves(16, 3, 5)
    for row in range(3):
        for column in range(5):
            angles = [(place / 10_000 ** (i / 4), wave) for place in (column, row) for wave in (0, 1) for i in range(4)]
            right = torch.tensor([math.cos(angle) if wave else math.sin(angle) for angle, wave in angles])
            assert torch.allclose(found[5 * row + column], right, atol=1e-6)


def test_patches() -> None:
    pictures = torch.randn(2, 5, 8, 12)
    patches = patchify(pictures, 4)
    assert patches.shape == (2, 6, 80)
    assert torch.equal(patches[1, 4].view(4, 4, 5), pictures[1, :, 4:8, 4:8].permute(1, 2, 0))
    assert torch.equal(unpatchify(patches, 4, 8), pictures)
    flat = standardized(torch.stack([torch.full((9,), 3.0), torch.arange(9.0)]))
    assert torch.equal(flat[0], torch.zeros(9)) and flat[1].var() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("network", "more"),
    [
        ("vit_tiny_patch16_224", {}), ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
        ("deit3_small_patch16_224", {}), ("vit_base_patch16_gap_224", {}), ("vit_base_patch16_clip_224", {}),
        ("vit_small_patch14_reg4_dinov2", {}),
    ],
)  # fmt: skip
def test_all_patches_in_view_are_the_plain_forward(network: str, more: dict) -> None:
    whole = encoder(network, {**SHAPE, **more})
    module, pictures = plain_transformer(whole, "mae").eval(), torch.randn(2, 3, 16, 16)
    seen = states(module, pictures)
    assert torch.allclose(seen, module.fc_norm(module.forward_features(pictures)), atol=1e-5)
    everything = torch.arange(16).expand(2, -1)
    assert torch.allclose(visible_states(module, pictures, everything), seen, atol=1e-5)


def test_hidden_patches_are_not_seen() -> None:
    module = plain_transformer(encoder(), "mae").eval()
    pictures, visible = torch.randn(1, 3, 16, 16), torch.tensor([[5, 0, 10]])
    patches = patchify(torch.randn(1, 3, 16, 16), 4)
    patches[:, visible[0]] = patchify(pictures, 4)[:, visible[0]]
    seen = [visible_states(module, shown, visible) for shown in (pictures, unpatchify(patches, 4, 16))]
    assert torch.allclose(*seen, atol=1e-5)


def test_knowing_nothing() -> None:
    """Telling the mean of each patch costs what the objective calls trivial."""
    objective = mae.build(mae.Config(target="standardized"), FACTS, {"image": encoder()})
    rows, draw = batch(6)
    for weight in (objective.decoder.leave.weight, objective.decoder.leave.bias):
        torch.nn.init.zeros_(weight)
    losses = objective(rows, draw)
    assert torch.allclose(losses["loss"], losses["trivial"]) and losses["trivial"] == pytest.approx(47 / 48, abs=1e-4)


@pytest.mark.parametrize(
    ("network", "arguments", "said"),
    [
        ("resnet10t", {}, "which resnet10t is not; drop --network"),
        ("vit_small_r26_s32_224", {"img_size": 32, "depth": 1}, "vit_small_r26_s32_224 is not"),
        ("beit_base_patch16_224", {"img_size": 16, "patch_size": 4, "depth": 1}, "beit_base_patch16_224 is not"),
        ("vit_base_patch16_siglip_224", SHAPE, "pooling by attention"),
    ],
)
def test_other_networks_are_refused_in_one_line(network: str, arguments: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        mae.build(mae.Config(), FACTS, {"image": encoder(network, arguments)})
    assert "\n" not in str(caught.value)


def test_a_rate_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"--mask-rate 0\.99 of 16 patches leaves 0 in view"):
        mae.build(mae.Config(mask_rate=0.99), FACTS, {"image": encoder()})


def test_export_is_a_plain_transformer(tmp_path) -> None:
    whole = encoder(arguments={**SHAPE, "global_pool": "avg", "fc_norm": False})
    whole.save(tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pictures = torch.randn(2, 3, 16, 16)
    assert torch.allclose(
        model(pictures), states(plain_transformer(whole, "mae").eval(), pictures)[:, 1:].mean(1), atol=1e-5
    )
