"""Runs that start from the weights of other runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from transformers import BertConfig, BertModel

import selfsup
from selfsup.data.tokenizer import train_tokenizer, with_template
from selfsup.errors import UserError

SMALL = {"hidden": 16, "output": 8, "batch": 32, "precision": "float32"}
WORDS = {"context": 16, "layers": 1, "heads": 2, "width": 16, "batch": 8, "precision": "float32"}


@pytest.fixture(scope="module")
def place(cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("init")
    recipe = selfsup.recipe("simclr", data="sample:digits", pixels=16, steps=3, **SMALL)
    selfsup.train(recipe, root / "pictures", quiet=True)
    (root / "first.txt").write_text("the cat sat on the mat. " * 100)
    (root / "second.txt").write_text("the dog ate the mat, and the cat. " * 100)
    recipe = selfsup.recipe("causal_lm", data=str(root / "first.txt"), tokenizer="char", steps=3, **WORDS)
    selfsup.train(recipe, root / "text", quiet=True)
    return root


GIVEN = {name: value for name, value in WORDS.items() if name not in ("layers", "heads", "width")}  # of the old network


def states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict().items() if value.is_floating_point()}


def test_pictures(place: Path, tmp_path: Path) -> None:
    """Step 0 of the new run is the end of the old one; it resumes although the old run is gone."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 16, 16), np.uint8)
    recipe = selfsup.recipe("simclr", pixels=16, steps=2, init=str(place / "pictures"), **SMALL)
    run = selfsup.train(recipe, tmp_path / "run", data=noise, quiet=True)
    old, begun = selfsup.load(place / "pictures"), run.untrained().encoders()["image"]
    for name, value in states(old.module).items():
        assert torch.equal(states(begun.module)[name], value), name
    assert begun.about.mean == run.facts.mean != old.about.mean
    changed = [
        name
        for name, value in states(selfsup.load(run.folder).module).items()
        if not torch.equal(value, states(old.module)[name])
    ]
    assert changed
    record = json.loads((run.folder / "run.json").read_text())
    record["recipe"]["backbone"]["init"] = "gone"
    (run.folder / "run.json").write_text(json.dumps(record))
    assert selfsup.resume(run.folder, more=2, data=noise, quiet=True).step == 4


def timm_folder(folder: Path, **arguments: object) -> torch.nn.Module:
    """A folder as timm itself writes it, of a small ViT for 32 pixels."""
    torch.manual_seed(0)
    given = {
        "img_size": 32,
        "patch_size": 8,
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "num_classes": 3,
        **arguments,
    }
    network = timm.create_model("vit_tiny_patch16_224", **given).eval()
    timm.models.save_for_hf(network, folder, model_args=given, safe_serialization=True)
    return network


def test_a_folder_of_timm(tmp_path: Path) -> None:
    """Equal vectors, another size of pictures by interpolated positions, and a run that can be exported again."""
    network = timm_folder(tmp_path / "vit")
    found = selfsup.load(tmp_path / "vit")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    shown = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        assert torch.allclose(found.encode(list(pictures)), network.forward_head(network.forward_features(shown), True))
    larger = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    for objective, settings in (("mae", {"decoder_width": 32}), ("dino", {"small": 1, "prototypes": 64})):
        recipe = selfsup.recipe(
            objective, pixels=16, steps=2, batch=16, init=str(tmp_path / "vit"), layer_decay=0.75, **settings
        )
        run = selfsup.train(recipe, tmp_path / objective, data=larger, quiet=True)
        begun = run.untrained().encoders()["image"].module
        assert begun.pos_embed.shape == (1, 5, 32)
        assert torch.equal(begun.blocks[1].mlp.fc1.weight, network.blocks[1].mlp.fc1.weight)
        selfsup.export(run.folder, tmp_path / f"{objective}-out")
        again = selfsup.load(tmp_path / f"{objective}-out" / "image")
        assert torch.equal(again.encode(list(larger[:2])), selfsup.load(run.folder).encode(list(larger[:2])))


def test_pictures_that_are_no_whole_patches_are_refused(tmp_path: Path) -> None:
    timm_folder(tmp_path / "vit")
    recipe = selfsup.recipe("mae", data="sample:digits", pixels=20, steps=2, init=str(tmp_path / "vit"))
    colors = np.zeros((80, 20, 20, 3), np.uint8)
    with pytest.raises(UserError, match=r"--init .*patches of 8 px, and pictures of 20 px"):
        selfsup.train(recipe, tmp_path / "run", data=colors, quiet=True)
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded by timm"):
        selfsup.load(tmp_path / "vit")


def test_text_keeps_its_tokenizer(place: Path, tmp_path: Path) -> None:
    recipe = selfsup.recipe("causal_lm", data=str(place / "second.txt"), steps=2, init=str(place / "text"), **GIVEN)
    run = selfsup.train(recipe, tmp_path / "run", quiet=True)
    old, begun = selfsup.Run(place / "text").objective(), run.untrained()
    for name, value in states(old).items():
        assert torch.equal(states(begun)[name], value), name
    ids = [encoder.tokenizer("the cat")["input_ids"] for encoder in (old.encoders()["text"], begun.encoders()["text"])]
    assert ids[0] == ids[1]
    assert run.facts.vocabulary == selfsup.Run(place / "text").facts.vocabulary


def test_what_sharing_saves_and_when_no_more_is_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {**WORDS, "layers": 4, "share": True, "tokenizer": "byte", "steps": 1}
    first, second = str(place / "first.txt"), str(place / "second.txt")
    shared = selfsup.train(selfsup.recipe("masked_lm", data=first, **shape), tmp_path / "shared")
    own, unshared = map(float, re.findall(r"the network (\S+), unshared (\S+)\)", capsys.readouterr().err)[0])
    assert own < unshared
    recipe = selfsup.recipe("masked_lm", data=second, steps=1, init=str(shared.folder), **GIVEN)
    written = selfsup.train(recipe, tmp_path / "written")
    assert "written out)" in capsys.readouterr().err
    weights = [sum(weight.numel() for weight in run.objective().parameters()) for run in (shared, written)]
    assert weights[1] > weights[0]


def test_another_family_is_refused(place: Path, tmp_path: Path) -> None:
    recipe = selfsup.recipe("simclr", data="sample:digits", steps=2, init=str(place / "text"), **SMALL)
    with pytest.raises(UserError, match=r"has no encoder .image.; allowed: text"):
        selfsup.train(recipe, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("name", ["runs/mistyped", "resnet50"])
def test_a_mistyped_path_goes_to_no_network(name: str, place: Path, tmp_path: Path) -> None:
    for objective, data in (("simclr", "sample:digits"), ("causal_lm", str(place / "first.txt"))):
        settings = SMALL if objective == "simclr" else GIVEN
        recipe = selfsup.recipe(objective, data=data, steps=2, init=name, **settings)
        with pytest.raises(UserError, match="no such"):
            selfsup.train(recipe, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_text_network_of_transformers_embeds(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = with_template(train_tokenizer("byte", 261, []))
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=32)  # fmt: skip
    network = BertModel(config).eval()
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = network(**tokenizer(["one"], return_tensors="pt")).last_hidden_state.mean(1)
    found = selfsup.load(f"{prefix}{tmp_path}").encode(["one", "one and two"])
    assert torch.allclose(found[:1], wanted, atol=1e-5) and not torch.allclose(found[1:], wanted, atol=1e-3)
