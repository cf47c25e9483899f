"""Rates that fall towards the input."""

from __future__ import annotations

import pytest
import timm
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from selfsup.layer_decay import layer_scales
from selfsup.optim import make_optimizers


def named(whole: nn.Module, network: nn.Module) -> dict[str, float]:
    scales = layer_scales(whole, [network], 0.5)
    return {name: scales.get(id(weight), 1.0) for name, weight in whole.named_parameters()}


def test_a_vision_transformer() -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=24, num_heads=2, num_classes=0)
    found = named(nn.ModuleList([network, nn.Linear(24, 3)]), network)
    for name, scale in (
        ("0.cls_token", 0.5**3), ("0.patch_embed.proj.weight", 0.5**3), ("0.blocks.0.attn.qkv.weight", 0.5**2),
        ("0.blocks.2.mlp.fc2.bias", 1.0), ("0.norm.weight", 1.0), ("1.weight", 1.0),
    ):  # fmt: skip
        assert found[name] == pytest.approx(scale), name


def test_a_convolutional_network() -> None:
    network = timm.create_model("resnet10t", num_classes=0, stem_width=8, channels=(8, 8, 8, 8))
    found = named(network, network)
    assert found["conv1.0.weight"] < found["layer1.0.conv1.weight"] < found["layer4.0.conv1.weight"] <= 1
    assert found["layer2.0.conv1.weight"] == found["layer2.0.bn2.bias"]


@pytest.mark.parametrize(
    "network",
    [
        BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)),
        GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2)),
    ],
    ids=["bert", "gpt2"],
)
def test_text(network: nn.Module) -> None:
    found = named(network, network)
    lowest, block, top = (
        {scale for name, scale in found.items() if part in name}
        for part in (("emb", "encoder.layer.0", "encoder.layer.1") if "embeddings.LayerNorm.bias" in found
                     else ("wte", "h.0.", "ln_f"))
    )  # fmt: skip
    assert (lowest, block, top) == ({0.25}, {0.5}, {1.0})


def test_a_student_is_treated_as_the_network_is() -> None:
    teacher, student = (timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0) for _ in "ab")
    teacher.requires_grad_(False)
    scales = layer_scales(nn.ModuleList([teacher, student]), [teacher], 0.5)
    assert scales[id(student.pos_embed)] == 0.5 and id(teacher.pos_embed) not in scales


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd", "lars"])
def test_optimizers_go_by_it(name) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    scales = {id(weight): 0.25 for weight in module[0].parameters()}
    optimizers = make_optimizers(module, name, 1e-2, 2e-2, 0.1, 0.9, (0.9, 0.99), scales)
    peaks = {
        id(w): group["peak"] for optimizer in optimizers for group in optimizer.param_groups for w in group["params"]
    }
    assert len(peaks) == 4
    for low, high in zip(module[0].parameters(), module[1].parameters(), strict=True):
        assert peaks[id(low)] == pytest.approx(0.25 * peaks[id(high)])
    assert layer_scales(module, [module], 1.0) == {}
