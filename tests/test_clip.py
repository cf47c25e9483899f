"""CLIP and SigLIP: losses against transformers and ten independent lines, towers, captions, and their uses."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import BertConfig, BertForMaskedLM, BertModel, CLIPConfig, CLIPModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

import selfsup
from captioned import caption_case, picture, rows, write
from contract.case import steps
from selfsup import cli
from selfsup.construct import construct
from selfsup.data.captions import CaptionStore, captioned
from selfsup.data.source import open_source
from selfsup.data.tokenizer import train_tokenizer, with_template
from selfsup.errors import UserError
from selfsup.eval.captions import Links, chance_at, found_at
from selfsup.eval.doctor import examine
from selfsup.eval.zero_shot import class_vectors, mean_per_class, read_templates
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.vit import visible_vectors
from selfsup.objectives import clip
from selfsup.ops import contrastive
from selfsup.ops.image_text import shared_info_nce, sigmoid_pairs, sigmoid_trivial
from selfsup.parse import call
from selfsup.predictors.pair import Pair
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.search.index import Index
from selfsup.search.query import search
from selfsup.sides import load_sides
from selfsup.text_encoder import TextEncoder


def unit(rows: int = 6, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return F.normalize(first, dim=1).requires_grad_(), F.normalize(second, dim=1).requires_grad_()


def apart(rows: int) -> torch.Tensor:
    return torch.arange(rows)[:, None].expand(-1, 2)


COPIES = torch.tensor([[0, 0], [1, 1], [0, 2], [3, 1], [4, 4], [5, 1]])  # row 2 has the picture of 0; 1, 3, 5 one text


def by_hand(x: torch.Tensor, y: torch.Tensor, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Both ways, one row at a time: cross-entropy with a target that is spread over all that belong together."""
    total = x.new_zeros(())
    for first, second in ((x, y), (y, x)):
        for i in range(len(first)):
            logits = torch.stack([scale * torch.dot(first[i], second[j]) for j in range(len(second))])
            mine = [j for j in range(len(second)) if ids[i, 0] == ids[j, 0] or ids[i, 1] == ids[j, 1]]
            chances = torch.exp(logits) / torch.exp(logits).sum()
            total = total - sum(torch.log(chances[j]) for j in mine) / len(mine)
    return total / (2 * len(x))


@pytest.mark.parametrize("block", [1 << 24, 12])
@pytest.mark.parametrize("ids", [apart(6), COPIES], ids=["apart", "copies"])
def test_softmax_equals_ten_lines(ids: torch.Tensor, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "BLOCK", (block, block))  # 12 logits at once: blocks of two rows
    (x, y), scale = unit(), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ways = [shared_info_nce(*pair, ids, ids, scale)[0] for pair in ((x, y), (y, x))]
    ours, wanted = torch.stack(ways).mean(), by_hand(x, y, ids, scale)
    assert torch.allclose(ours, wanted, rtol=1e-9)
    for got, right in zip(*(torch.autograd.grad(loss, [x, y, scale]) for loss in (ours, wanted)), strict=True):
        assert torch.allclose(got, right, rtol=1e-7, atol=1e-9)


def test_softmax_equals_transformers() -> None:
    (x, y), scale = unit(), torch.tensor(3.0, dtype=torch.float64)
    ways = [shared_info_nce(*pair, apart(6), apart(6), scale)[0] for pair in ((x, y), (y, x))]
    ours, theirs = torch.stack(ways).mean(), image_text_contrastive_loss(scale * y @ x.T)
    assert torch.allclose(ours, theirs, rtol=1e-9)
    for got, right in zip(*(torch.autograd.grad(loss, [x, y]) for loss in (ours, theirs)), strict=True):
        assert torch.allclose(got, right, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("block", [1 << 24, 12])
@pytest.mark.parametrize("ids", [apart(6), COPIES], ids=["apart", "copies"])
def test_sigmoid_equals_ten_lines_and_transformers(
    ids: torch.Tensor, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "BLOCK", (block, block))
    x, y = unit()
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (4.0, -1.5))
    ours = sigmoid_pairs(x, y, ids, ids, scale, bias)[0].mean()
    total = x.new_zeros(())
    for i in range(6):
        for j in range(6):
            z = 1 if ids[i, 0] == ids[j, 0] or ids[i, 1] == ids[j, 1] else -1
            total = total - torch.log(1 / (1 + torch.exp(-z * (scale * torch.dot(x[i], y[j]) + bias))))
    wanted = [total / 6]
    if ids is not COPIES:  # what SiglipModel.forward computes of its logits per text
        logits = y @ x.T * scale + bias
        eye = torch.eye(6, dtype=logits.dtype)
        wanted.append(-F.logsigmoid((2 * eye - 1) * logits).sum(-1).mean())
    for theirs in wanted:
        assert torch.allclose(ours, theirs, rtol=1e-9)
        grads = (torch.autograd.grad(loss, [x, y, scale, bias], retain_graph=True) for loss in (ours, theirs))
        for got, right in zip(*grads, strict=True):
            assert torch.allclose(got, right, rtol=1e-7, atol=1e-9)


def test_what_knowing_nothing_loses() -> None:
    same = F.normalize(torch.ones(8, 3), dim=1)
    loss, _ = shared_info_nce(same, same, COPIES.repeat(2, 1)[:8], COPIES.repeat(2, 1)[:8], torch.tensor(5.0))
    assert torch.allclose(loss, torch.full_like(loss, math.log(8)))
    nothing = torch.zeros(8, 3)
    bias = torch.tensor(-math.log(7))  # the share of pairs that belong together, as a logit
    loss, _ = sigmoid_pairs(nothing, nothing, apart(8), apart(8), torch.tensor(1.0), bias)
    assert loss.mean() == pytest.approx(float(sigmoid_trivial(8, torch.tensor(1.0))))


def test_the_nearest_of_several_is_right() -> None:
    x = F.normalize(torch.eye(3), dim=1)
    y = x[[1, 0, 2]]
    ids = torch.tensor([[0, 0], [1, 0], [2, 2]])  # rows 0 and 1 have the same text
    assert shared_info_nce(x, y, ids, ids, torch.tensor(9.0))[1].tolist() == [True, True, True]
    assert shared_info_nce(x, y, apart(3), apart(3), torch.tensor(9.0))[1].tolist() == [False, False, True]


# Retrieval


def test_retrieval_of_many_to_many() -> None:
    """Two pictures, three texts; the second text is of both pictures, the third of the second picture only."""
    pictures = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = F.normalize(torch.tensor([[0.2, 1.0], [1.0, 0.3], [0.9, 0.4]]), dim=1)
    pairs = np.array([[0, 0], [0, 1], [1, 1], [1, 2]])
    assert found_at(pictures, texts, pairs, (1, 2)).tolist() == [[True, False], [True, True]]
    assert found_at(texts, pictures, pairs[:, ::-1], (1, 2)).tolist() == [[False, True, False], [True, True, True]]
    assert chance_at(2, 3, pairs, (1, 2)).tolist() == pytest.approx(np.array([[2 / 3, 2 / 3], [1, 1]]))
    chance = chance_at(3, 2, pairs[:, ::-1], (1, 2))
    assert chance.tolist() == pytest.approx(np.array([[0.5, 1, 0.5], [1, 1, 1]]))


def test_five_captions_a_picture_are_no_errors() -> None:
    """Whichever of its captions is the nearest: a metric that knew one caption a picture would have 1 in 5."""
    chance = np.random.default_rng(0)
    pictures = F.normalize(torch.tensor(chance.normal(size=(40, 16))), dim=1)
    texts = F.normalize(pictures.repeat_interleave(5, 0) + 0.01 * torch.tensor(chance.normal(size=(200, 16))), dim=1)
    pairs = np.stack([np.repeat(np.arange(40), 5), np.arange(200)], 1)
    assert found_at(pictures, texts, pairs, (1,)).all() and found_at(texts, pictures, pairs[:, ::-1], (1,)).all()


def test_equal_pictures_and_captions_stand_once(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, color in (("a", "red"), ("b", "red"), ("c", "blue")):
        picture(color, "bar", 0).save(folder / f"{name}.png")
    lines = [
        {"file_name": "a.png", "text": "x"},
        {"file_name": "b.png", "text": "y"},
        {"file_name": "c.png", "text": "x"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = selfsup.recipe("clip", data=folder, pixels=16)
    store = prepare(recipe.data, None, False, Progress(False)).train
    assert isinstance(store, CaptionStore)
    links = Links.of(store.pictures, store.captions())
    assert (len(links.pictures), sorted(links.texts), len(links.pairs)) == (2, ["x", "y"], 3)


# Zero-shot


def test_templates_are_averaged_between_two_normalizations() -> None:
    class Lengths:
        def encode(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    found = class_vectors(Lengths(), ["dog", "whale"], ["{}", "a photo of a {}"])  # type: ignore[arg-type]
    for row, lengths in enumerate(((3, 16), (5, 18))):
        each = [np.array([n, 1]) / math.hypot(n, 1) for n in lengths]
        mean = sum(each) / 2
        assert found[row].numpy() == pytest.approx(mean / np.linalg.norm(mean))


def test_templates_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}\n\n{} in the wild\n")
    assert read_templates(file) == ("a photo of a {}", "{} in the wild")
    assert read_templates(None) == ("{}",)
    for content, said in (("a photo", "no {}"), ("", "empty")):
        file.write_text(content)
        with pytest.raises(UserError, match=said):
            read_templates(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_templates(tmp_path / "none.txt")


def test_the_mean_of_classes_counts_each_once() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert mean_per_class(torch.tensor([True, True, True, False]), labels) == 0.5


# Towers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` and `test` of colored shapes with captions."""
    root = tmp_path_factory.mktemp("captions")
    write(root / "train", 96)
    write(root / "test", 32)
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learned the shapes."""
    recipe = selfsup.recipe(
        "clip",
        data=folder,
        pixels=16,
        size="nano",
        layers=2,
        heads=2,
        width=32,
        output=16,
        batch=48,
        steps=150,
        rate=3e-3,
    )
    return selfsup.train(recipe, tmp_path_factory.mktemp("runs") / "clip", quiet=True)


def test_every_token_of_a_caption_counts(run: Run) -> None:
    """transformers' CLIP reads a text whose end has the id 2 at its largest id, and no further."""
    text = load_sides(run.folder)["text"]
    base = "a red square of blue"
    vectors = text.encode([base, "a red square of green", "a red frame of blue", "the red square of blue"])
    assert ((vectors[:1] @ vectors[1:].T) < 1 - 1e-5).all()


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_chunks_change_nothing(folder: Path, loss: str) -> None:
    """In float64 the losses and gradients of four chunks are those of the whole batch."""
    found = []
    for chunk in (None, 8):
        case = caption_case(folder, loss=loss, chunk=chunk, patch_dropout=0.5)
        objective = case.objective().double()
        batch, draw = case.batch(range(32))
        views = {name: v.double() if v.is_floating_point() else v for name, v in objective.views(batch, draw).items()}
        losses = objective(batch, draw, views)
        losses["loss"].backward()
        found.append([losses["loss"], *(w.grad for w in objective.parameters() if w.requires_grad)])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_chunks_are_refused_with_batch_norm(folder: Path) -> None:
    with pytest.raises(UserError, match="batch norm in the picture tower"):
        caption_case(folder, chunk=8).objective()


def test_a_bias_starts_at_the_share_of_what_belongs_together(folder: Path) -> None:
    case = caption_case(folder, loss="sigmoid", duplicates="negatives")
    objective = case.objective().eval()
    batch, draw = case.batch(range(32))
    with torch.no_grad():
        objective.log_scale.fill_(-20)  # all logits are the bias
        losses = objective(batch, draw)
    assert float(losses["loss"]) == pytest.approx(32 * math.log1p(1 / 32) + math.log(32), rel=1e-3)
    assert float(losses["trivial"]) == pytest.approx(float(losses["loss"]), rel=0.2)


def test_copies_are_counted_and_belong_together(folder: Path) -> None:
    batch, draw = caption_case(folder).batch(range(32))
    found = {
        kind: caption_case(folder, duplicates=kind).objective().eval()(batch, draw)
        for kind in ("positives", "negatives")
    }
    assert float(found["positives"]["duplicates"]) > 0.5  # 32 rows have 16 captions or four shapes
    assert found["positives"]["duplicates"] == found["negatives"]["duplicates"]
    assert found["positives"]["loss"] != found["negatives"]["loss"]


def test_patches_are_dropped_in_training_only(folder: Path) -> None:
    case = caption_case(folder, patch_dropout=0.5)
    objective = case.objective()
    batch, draw = case.batch(range(8))
    views = objective.views(batch, draw)
    patches = objective.image_tower.patch_embed.num_patches  # type: ignore[union-attr,operator]
    assert views["visible"].shape == (8, patches // 2)
    whole = {name: value for name, value in views.items() if name != "visible"}
    objective.eval()
    assert torch.equal(objective.vectors(views), objective.vectors(whole))
    objective.train()
    assert not torch.allclose(objective.vectors(views), objective.vectors(whole))
    every = torch.arange(patches).expand(8, -1)
    seen = visible_vectors(objective.image_tower, views["image"], every)  # type: ignore[arg-type]
    assert torch.allclose(seen, objective.image_tower(views["image"]), atol=1e-5)


def test_patch_dropout_needs_patches(folder: Path) -> None:
    case = caption_case(folder, patch_dropout=0.5)
    backbone = replace(case.recipe.backbone, network="resnet10t", size=None)
    with pytest.raises(UserError, match="patch-dropout hides patches"):
        replace(case, recipe=replace(case.recipe, backbone=backbone)).objective()


@pytest.mark.parametrize("lock", [("image",), ("text",), ("image", "text")])
def test_a_locked_tower_stays(folder: Path, lock: tuple) -> None:
    case = caption_case(folder, lock=lock)
    before, training = case.objective().state_dict(), case.training()
    steps(training, 3)
    objective = training.objective
    assert isinstance(objective, clip.CLIP)
    for side in ("image", "text"):
        moved = [
            name for name, value in objective.state_dict().items()
            if name.startswith(f"{side}_tower") and not torch.equal(value, before[name])
        ]  # fmt: skip
        assert bool(moved) == (side not in lock), moved
        assert objective.towers[side].training == (side not in lock)
    assert not torch.equal(objective.image_projection.weight, before["image_projection.weight"])


def test_the_temperature_is_clamped(folder: Path) -> None:
    for loss, most in (("softmax", 100.0), ("sigmoid", math.exp(9))):
        objective = caption_case(folder, loss=loss).objective()
        with torch.no_grad():
            objective.log_scale.fill_(9.0)
        objective.after_step(0.5)
        assert float(objective.log_scale.detach().exp()) == pytest.approx(most)


# Starts


def test_towers_start_from_earlier_runs(folder: Path, run: Run, tmp_path: Path) -> None:
    pictures = selfsup.recipe("simclr", data=folder, pixels=16, size="nano", batch=32, steps=2)
    selfsup.train(pictures, tmp_path / "pictures", quiet=True)
    (tmp_path / "lines.txt").write_text("\n".join(text for row in rows(96) for text in row["texts"]) * 4)
    texts = selfsup.recipe(
        "masked_lm", data=tmp_path / "lines.txt", layers=1, heads=2, width=32, context=32, batch=8, steps=2
    )
    selfsup.train(texts, tmp_path / "texts", quiet=True)
    asked = {"data": folder, "pixels": 16, "output": 16, "batch": 32, "steps": 2}
    recipe = selfsup.recipe("clip", image_init=tmp_path / "pictures", text_init=tmp_path / "texts", **asked)
    found = selfsup.train(recipe, tmp_path / "both", quiet=True)
    start = found.untrained().encoders()
    for name, place in (("image", "pictures"), ("text", "texts")):
        given = Run(tmp_path / place).encoder(name if name == "image" else "text").module.state_dict()
        kept = start[name].module.state_dict()
        assert given.keys() == kept.keys() and all(torch.equal(kept[key], value) for key, value in given.items())
    assert start["text"].reading.pool == "mean"  # type: ignore[attr-defined]  # ModernBERT has no pooler
    sides = load_sides(found.folder)
    assert sides["text"].encode(["a red bar"]).norm() == pytest.approx(1, abs=1e-5)
    lines = selfsup.evaluate(found.folder, folder / "test", quiet=True)
    assert {line["representation"] for line in lines} >= {"run", "start"}


def test_a_whole_pair_goes_on(folder: Path, run: Run, tmp_path: Path) -> None:
    """Both towers of one run bring their projections and their temperature along."""
    recipe = selfsup.recipe(
        "clip", data=folder, pixels=16, image_init=run.folder, text_init=run.folder, output=16, batch=32, steps=1
    )
    before = selfsup.train(recipe, tmp_path / "more", quiet=True).untrained().predictors()[0]
    given = Pair.load(run.folder / "model" / "pair")
    assert isinstance(before, Pair)
    assert float(before.log_scale.detach()) == pytest.approx(float(given.log_scale.detach()))
    for mine, theirs in zip(before.projections, given.projections, strict=True):
        assert torch.equal(mine.weight, theirs.weight)


def test_one_tower_brings_its_own_projection_only(folder: Path, run: Run) -> None:
    given = Pair.load(run.folder / "model" / "pair")
    asked = {"data": folder, "pixels": 16, "output": 16, "batch": 32, "steps": 1}
    for settings, scale in (({}, 1 / 0.07), ({"temperature": 0.5}, 2.0)):
        recipe = selfsup.recipe("clip", image_init=run.folder, layers=2, heads=2, width=32, **asked, **settings)
        prepared = prepare(recipe.data, None, False, Progress(False))
        assert isinstance(prepared.train, CaptionStore)
        objective = construct(recipe, prepared.facts, prepared.train.tokenizer_folder, None)
        assert isinstance(objective, clip.CLIP)
        assert torch.equal(objective.image_projection.weight, given.projections[0].weight)
        assert not torch.equal(objective.text_projection.weight, given.projections[1].weight)
        assert float(objective.log_scale.detach().exp()) == pytest.approx(scale)


def test_a_pooler_that_nobody_trained_is_not_read(tmp_path: Path) -> None:
    """transformers fills a missing pooler in by chance; one that came with the weights is the network's own way."""
    tokenizer = with_template(train_tokenizer("bpe", 300, ["a red square of blue"]))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    image = ImageEncoder.create("resnet10t", {}, 32, (0.5,) * 3, (0.2,) * 3)
    for kind, pool in ((BertForMaskedLM, "mean"), (BertModel, "pooler")):
        place = tmp_path / kind.__name__
        kind(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
        text = TextEncoder.from_hub(str(place), None, 16)
        pair = Pair.around(image, text, 16, 8, 0.07, "softmax")
        assert pair.text.reading.pool == pool
        learning = {name for name, weight in pair.text.module.named_parameters() if weight.requires_grad}
        assert any("pooler" in name for name in learning) == (pool == "pooler")


def test_the_text_half_of_a_clip_can_start(tmp_path: Path) -> None:
    tokenizer = with_template(train_tokenizer("bpe", 300, ["a red square of blue"]))
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": 5}
    CLIPModel(CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8})).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    found = TextEncoder.from_hub(str(tmp_path), None, 16)
    image = ImageEncoder.create("resnet10t", {}, 32, (0.5,) * 3, (0.2,) * 3)
    assert Pair.around(image, found, 16, 8, 0.07, "softmax").text.reading.pool == "pooler"


def test_what_no_tower_could_learn_from_is_refused(folder: Path, tmp_path: Path) -> None:
    for settings, said in (
        ({"lock": ("text",)}, "--lock text: a fresh tower"),
        ({"tokenizer": "char"}, "--tokenizer char ends a caption"),
        ({"text_init": tmp_path / "none"}, "--text-init .*none: no such run"),
        ({"image_init": tmp_path / "none"}, "none: no such run"),
    ):
        with pytest.raises(UserError, match=said):
            selfsup.train(
                selfsup.recipe("clip", data=folder, pixels=16, steps=1, **settings), tmp_path / "x", quiet=True
            )


# Data


def test_embedded_pictures_of_one_name_are_apart(tmp_path: Path) -> None:
    """Data sets keep the base names of what they embed, which folders share."""
    cells = []
    for color in ("red", "blue"):
        buffer = io.BytesIO()
        picture(color, "bar", 0).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": "0.png"})
    table = Dataset.from_dict({"image": cells, "text": ["red", "blue"]}).cast_column(
        "image", ImageFeature(decode=False)
    )
    found = captioned(open_source(table).parts["train"], "data")
    assert found.captions == [["red"], ["blue"]] and len(found.part) == 2


def test_captions_that_are_no_strings_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 4)
    for cell in ([["a", "b"]], 3, {"raw": "a"}):
        lines = [json.dumps({"file_name": f"{n:03}.png", "texts": cell}) for n in range(4)]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        with pytest.raises(UserError, match=r"holds .*, no caption"):
            captioned(open_source(folder).parts["train"], "data")


def test_other_captions_are_other_data(tmp_path: Path) -> None:
    found = []
    for names in ("aba", "abb"):
        folder = tmp_path / names
        folder.mkdir()
        lines = []
        for number, name in enumerate(names):
            picture("red", "bar", number).save(folder / f"{number}.png")
            lines.append(json.dumps({"file_name": f"{number}.png", "text": name}))
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        found.append(prepare(selfsup.recipe("clip", data=folder, pixels=16).data, None, False, Progress(False)).facts)
    assert found[0] != found[1]


def test_pictures_and_captions_that_are_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "data", 40)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[3]["texts"], lines[4]["texts"] = [], ["", "  "]
    (folder / lines[7]["file_name"]).unlink()
    (folder / lines[8]["file_name"]).write_bytes(b"no picture")
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(folder / lines[9]["file_name"])
    Image.new("P", (20, 20)).save(folder / lines[10]["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with caplog.at_level(logging.WARNING, "selfsup"):
        prepared = prepare(selfsup.recipe("clip", data=folder, pixels=16).data, None, False, Progress(False))
    said = " ".join(caplog.messages)
    assert "2 of 40 pictures have no caption" in said and lines[3]["file_name"] in said
    assert "2 of 38 pictures cannot be read" in said and lines[7]["file_name"] in said
    stores = [store for store in (prepared.train, prepared.held_out) if store is not None]
    assert sum(map(len, stores)) == 36
    for store in stores:  # every caption is that of its own picture
        assert isinstance(store, CaptionStore)
        for name, texts in zip(store.pictures.names(), store.captions(), strict=True):
            (own,) = (line for line in lines if name.endswith(line["file_name"]))
            assert texts == own["texts"]


def test_several_rows_of_one_file_are_one_picture(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b"):
        picture("red" if name == "a" else "blue", "bar", 0).save(folder / f"{name}.png")
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        writer.writerows([["a.png", "one"], ["b.png", '["two", "three"]'], ["a.png", "four"], ["a.png", "one"]])
    found = captioned(open_source(folder).parts["train"], "data")
    assert found.captions == [["one", "four"], ["two", "three"]]


def test_data_without_captions_is_refused(tmp_path: Path) -> None:
    picture("red", "bar", 0).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="no column 'text' or 'texts'"):
        prepare(selfsup.recipe("clip", data=tmp_path, pixels=16).data, None, False, Progress(False))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": ""}))
    with pytest.raises(UserError, match="none of the 1 rows has a caption"):
        prepare(selfsup.recipe("clip", data=tmp_path, pixels=16).data, None, False, Progress(False))


def test_a_caption_past_the_context_is_cut_at_a_token(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "selfsup"):
        case = caption_case(folder, context=8)
        batch, draw = case.batch(range(16))
    assert "captions are longer than 6 tokens" in " ".join(caplog.messages)
    objective = case.objective()
    views = objective.views(batch, draw)
    stop = objective.template.stop[-1]
    ends = views["input"].gather(1, views["length"][:, None] - 1)[:, 0]
    assert views["length"].max() == 8 and (ends == stop).all()


def test_each_epoch_draws_its_captions(folder: Path) -> None:
    case = caption_case(folder)
    store = case.prepared.train
    assert isinstance(store, CaptionStore)
    drawn = torch.stack([case.batch(range(64), epoch)[0]["pair_id"][:, 1] for epoch in range(24)])  # (epochs, rows)
    for row, numbers in enumerate(drawn.T.tolist()):
        assert set(numbers) == set(store.numbers[store.first[row] : store.first[row + 1]].tolist())


def test_a_batch_of_one_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="--batch 1: clip compares"):
        caption_case(folder).training(batch=1)


def test_the_doctor_names_captions_that_are_all_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 64)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps({**line, "texts": ["a picture"]}) for line in lines))
    recipe = selfsup.recipe("clip", data=folder, pixels=16, output=16, batch=32, steps=4)
    selfsup.train(recipe, tmp_path / "run", quiet=True)
    found = {finding.check: finding.said for finding in examine(tmp_path / "run", quiet=True).findings}
    assert "100% of all captions are the same one" in found["captions"]


# Use


def drawn(file: Path) -> bool:
    """Whether a file holds a page that is not all white."""
    with Image.open(file) as page:
        return page.width > 300 and np.asarray(page.convert("L")).std() > 5


def test_a_run_tells_colors_by_their_names(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, page = tmp_path / "colors.csv", tmp_path / "colors.png"
    names = [f"a {color} square" for color in ("red", "green", "blue", "yellow")]
    words = [
        "classify",
        str(run.folder),
        str(folder / "test"),
        "--out",
        str(out),
        "--sheet",
        str(page),
        "--labels",
        *names,
    ]
    assert cli.run(words) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with open(out, newline="") as file:
        found = list(csv.DictReader(file))
    wanted = {f"{row['number']:03}.png": f"a {row['color']} square" for row in rows(32)}
    right = [wanted[Path(row["name"]).name] == row["label"] for row in found]
    assert len(found) == 32 and sum(right) > 0.7 * len(found)
    assert drawn(page)


def test_classify_says_what_does_not_go_together(run: Run, folder: Path, tmp_path: Path) -> None:
    start = ["classify", str(run.folder), str(folder / "test"), "--out", str(tmp_path / "x.csv")]
    for words, said in (
        ([], "with --like, or for a run of clip the names of classes with --labels"),
        (["--labels", "one"], "two classes or more"),
        (["--labels", "a", "b", "--like", "x"], "drop --like"),
        (["--sheet", "x.png", "--like", "x"], "without --labels"),
    ):
        with pytest.raises(UserError, match=said):
            call(start[0], [*start[1:], *words])


def test_text_finds_pictures_and_a_picture_finds_texts(run: Run, folder: Path, tmp_path: Path) -> None:
    pictures, _ = Index.build(run.folder, folder / "test", tmp_path / "pictures", quiet=True)
    shapes = {f"{row['number']:03}.png": row for row in rows(32)}
    for color in ("red", "green", "blue", "yellow"):
        hits = search(Index.load(tmp_path / "pictures"), f"a {color} bar", 2)
        assert all(shapes[Path(hit.id).name]["color"] == color for hit in hits)
    table = tmp_path / "captions.jsonl"
    texts = sorted({row["texts"][0] for row in rows(32)})
    table.write_text("\n".join(json.dumps({"id": text, "text": text}) for text in texts))
    index, _ = Index.build(run.folder, table, tmp_path / "texts", quiet=True)
    found = search(index, picture("green", "bar", 1), 3)
    assert found[0].id.startswith("a green")
    file = tmp_path / "asked.png"
    picture("green", "bar", 1).save(file)
    assert [hit.id for hit in search(Index.load(tmp_path / "texts"), file, 3)] == [hit.id for hit in found]
    assert shapes[Path(search(pictures, file, 1)[0].id).name]["color"] == "green"
    with pytest.raises(UserError, match="no such picture"):
        search(index, "photos/gone.jpg", 1)
    with pytest.raises(UserError, match="a picture was asked for, which has no words"):
        search(index, file, 1, "words")


def test_embed_gives_either_side(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "metadata.jsonl").write_text(  # two rows, and lists, of one file
        "\n".join(
            json.dumps({"file_name": f"{row['number']:03}.png", "texts": texts})
            for row in rows(32)
            for texts in ([row["texts"][0]], [])
        )
    )
    for row in rows(32):
        picture(row["color"], row["shape"], row["number"]).save(tmp_path / "texts" / f"{row['number']:03}.png")
    vectors = {}
    for side in ("image", "text"):
        words = f"embed {run.folder} --data {tmp_path}/texts --side {side} --out {tmp_path}/{side}.npy"
        assert cli.run(words.split()) == 0
        vectors[side] = torch.from_numpy(np.load(tmp_path / f"{side}.npy"))
        assert torch.allclose(vectors[side].norm(dim=1), torch.ones(32), atol=1e-5)
    near = (vectors["image"] @ vectors["text"].T).argmax(1)
    assert (near % 16 == torch.arange(32) % 16).double().mean() > 0.5  # 16 kinds of shapes


def test_eval_scores_captions_and_names_of_classes(run: Run, folder: Path, tmp_path: Path) -> None:
    lines = selfsup.evaluate(run.folder, quiet=True)
    scores = {(line["metric"], line["representation"]): line for line in lines if line["task"] == "captions"}
    one = scores["R@1 accuracy, picture to text", "run"]
    assert one["mean"] > 2 * one["chance"] and one["split"] == "held-out"
    for row in rows(64):
        place = tmp_path / "labelled" / row["color"]
        place.mkdir(parents=True, exist_ok=True)
        picture(row["color"], row["shape"], row["number"]).save(place / f"{row['number']}.png")
    templates = tmp_path / "templates.txt"
    templates.write_text("a {} square\na {} bar\n")
    lines = selfsup.evaluate(run.folder, tmp_path / "labelled", quiet=True, templates=templates, labels=("100%",))
    tasks = {line["task"] for line in lines}
    assert tasks >= {"knn", "linear", "zero-shot"} and "captions" not in tasks
    zero = {(line["metric"], line["representation"]): line for line in lines if line["task"] == "zero-shot"}
    assert zero["accuracy", "run"]["mean"] > 0.6 > 0.25 == zero["accuracy", "run"]["chance"]
    assert zero["accuracy", "untrained"]["mean"] < zero["accuracy", "run"]["mean"]
    assert ("mean per class accuracy", "run") in zero


def test_labels_that_do_not_serve_are_left(run: Run, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.loads(line) for line in (folder / "test" / "metadata.jsonl").read_text().splitlines()]
    data = Dataset.from_dict(
        {
            "image": [str(folder / "test" / line["file_name"]) for line in lines],
            "texts": [line["texts"] for line in lines],
            "label": ["only"] * len(lines),
        }
    )
    found = selfsup.evaluate(run.folder, data, quiet=True)
    assert {line["task"] for line in found} == {"captions", "verdict"}
    assert "not scored by labels" in caplog.text


def test_a_run_draws_its_pairs(run: Run) -> None:
    for name in ("similarity", "captions", "views", "loss"):
        assert drawn(run.folder / "pictures" / f"{name}.png")
