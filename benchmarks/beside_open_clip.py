"""open_clip's CLIP from the weights of a run of selfsup: its network, loss, transform, loader and step of training.

The picture tower is the same timm network in open_clip's wrapper, the text tower open_clip's own of the same shape,
whose context is cut to the longest caption. Both begin as the same function, which `like` checks.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, ClipLoss, image_transform
from open_clip_train.precision import get_autocast
from open_clip_train.scheduler import cosine_lr
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from selfsup.image_encoder import ImageEncoder
from selfsup.loop import Training
from selfsup.planning import make_plan
from selfsup.predictors.pair import Pair

AUTOCAST = {"float32": "fp32", "bfloat16": "amp_bf16"}  # open_clip's names
METADATA = "metadata.jsonl"


def captions_of(folder: Path) -> list[list[str]]:
    """The captions of each row of a part."""
    rows = [json.loads(line) for line in (folder / METADATA).read_text(encoding="utf-8").splitlines()]
    return [row.get("texts") or [row["text"]] for row in rows]


class Captioned(Dataset):
    """A picture as open_clip's transform makes it, with the ids of one of its captions.

    Args:
        folder: with `metadata.jsonl`.
        ids: (captions, context) of each row.
        transform: of pictures.
        kept: whether all pictures are decoded to tensors beforehand.
    """

    def __init__(self, folder: Path, ids: list[Tensor], transform: Any, kept: bool) -> None:  # noqa: ANN401
        lines = (folder / METADATA).read_text(encoding="utf-8").splitlines()
        self.files = [folder / json.loads(line)["file_name"] for line in lines]
        self.ids, self.transform = ids, transform
        self.kept = [to_tensor(Image.open(file).convert("RGB")) for file in self.files] if kept else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        picture = Image.open(self.files[row]) if self.kept is None else self.kept[row]
        ids = self.ids[row]
        return self.transform(picture), ids[int(torch.randint(len(ids), ()))]


def text_state(text: CLIPTextModel, context: int) -> dict[str, Tensor]:
    """The weights of a text tower under the names that they have in open_clip."""
    state = text.state_dict()
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"][:context],
    }
    names = {
        "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
        for layer in range(text.config.num_hidden_layers):
            ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            parts = [state[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
            found |= {f"{theirs}.{name}.{kind}": state[f"{ours}.{own}.{kind}"] for name, own in names.items()}
    return found


def like(pair: Pair, context: int) -> CLIP:
    """open_clip's network that maps pictures and captions to the same vectors as a pair of ours."""
    about, text, width = pair.image.about, pair.text.model, pair.projections[0].out_features
    assert isinstance(text, CLIPTextModel)
    shape = text.config
    vision = {"timm_model_name": about.network, "timm_pool": "", "timm_proj": "linear", "image_size": about.size}
    reading = {
        "context_length": context, "vocab_size": shape.vocab_size, "width": shape.hidden_size, "layers":
        shape.num_hidden_layers, "heads": shape.num_attention_heads, "pool_type": "eos", "eos_id": shape.eos_token_id,
    }  # fmt: skip
    network = CLIP(width, vision, reading, output_dict=True)
    # Its interface passes no arguments on to timm, so the same network takes the place of timm's usual one.
    network.visual.trunk = deepcopy(pair.image.module)
    projections = [deepcopy(projection.weight.detach()) for projection in pair.projections]
    matrix = nn.Linear(*projections[0].shape[::-1], bias=False)
    network.visual.head = nn.Sequential(OrderedDict(drop=nn.Dropout(0.0), proj=matrix))
    missing, unknown = network.load_state_dict(
        {
            **text_state(text, context), "text_projection": projections[1].T, "logit_scale": pair.log_scale.detach(),
            "visual.head.proj.weight": projections[0],
        },
        strict=False,
    )  # fmt: skip
    assert not unknown and all(name.startswith("visual.trunk.") for name in missing)
    return network.to(pair.log_scale.device)


class OpenClip:
    """The run of open_clip.

    Args:
        training: the run of selfsup, before its first step.
        folder: with `train` and perhaps `test`.
        kept: whether all pictures are decoded beforehand.
        workers: processes of its loader.
        accumulate: batches of a step (open_clip's `--accum-freq`).
    """

    def __init__(self, training: Training, folder: Path, kept: bool, workers: int, accumulate: int = 1) -> None:
        recipe, objective = training.recipe, training.objective
        pair: Pair = objective.pair
        self.device, self.tokenizer, self.about = training.runtime.device, pair.text.tokenizer, pair.image.about
        self.batch, self.accumulate = recipe.optimizer.batch // accumulate, accumulate
        parts = [captions_of(folder / part) for part in ("train", "test") if (folder / part).exists()]
        texts = [text for part in parts for row in part for text in row]
        longest = max(len(ids) for ids in self.tokenizer(texts)["input_ids"])
        self.context = min(longest, recipe.config.context)
        self.network, self.criterion = like(pair, self.context), ClipLoss()
        self.autocast = get_autocast(AUTOCAST[recipe.precision], device_type=self.device.type)
        self.clip = recipe.optimizer.clip
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        groups = [
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.optimizer.decay},
        ]
        rate, steps = recipe.optimizer.rate, recipe.budget.steps
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=recipe.optimizer.betas, fused=True)
        self.scheduler = cosine_lr(self.optimizer, rate, make_plan(recipe.optimizer, 0, steps).warmup, steps)
        transform = image_transform(self.about.size, True, self.about.mean, self.about.sd)
        ids = [self.ids(texts) for texts in captions_of(folder / "train")]
        self.loader = DataLoader(
            Captioned(folder / "train", ids, transform, kept), self.batch, shuffle=True, drop_last=True,
            num_workers=workers, persistent_workers=workers > 0, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        self.stream, self.done = self._endless(), 0
        self.network.train()

    def ids(self, texts: list[str]) -> Tensor:
        """(N, context) of some captions."""
        tokenizer: PreTrainedTokenizerBase = self.tokenizer
        settings = {"padding": "max_length", "truncation": True, "max_length": self.context, "return_tensors": "pt"}
        return tokenizer(texts, **settings)["input_ids"]

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def read(self) -> list[tuple[Tensor, Tensor]]:
        """The batches of a step."""
        return [next(self.stream) for _ in range(self.accumulate)]

    def moved(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """A batch on the device, pictures as convolutions are fastest with."""
        images, texts = batch
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return images, texts.to(self.device, non_blocking=True)

    def step(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        """One step as in open_clip_train.train.train_one_epoch."""
        self.scheduler(self.done)
        moved = [self.moved(batch) for batch in batches]
        self.optimizer.zero_grad()
        if len(moved) == 1:
            with self.autocast():
                loss = sum(self.criterion(**self.network(*moved[0]), output_dict=True).values())
            loss.backward()
        else:
            self._accumulated(moved)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip, norm_type=2.0)
        self.optimizer.step()
        with torch.no_grad():
            self.network.logit_scale.clamp_(0, math.log(100))
        self.done += 1

    def next(self) -> None:
        """The next step, data included."""
        self.step(self.read())

    def _accumulated(self, moved: list[tuple[Tensor, Tensor]]) -> None:
        """Features of all batches without gradients; then those of each again, among those of the others."""
        features: dict[str, list[Tensor]] = {}
        with torch.no_grad(), self.autocast():
            for batch in moved:
                for name, value in self.network(*batch).items():
                    features.setdefault(name, []).append(value)
        features.pop("logit_scale")
        for number, batch in enumerate(moved):
            with self.autocast():
                out = self.network(*batch)
                scale = out.pop("logit_scale")
                every = {
                    name: torch.cat([*values[:number], out[name], *values[number + 1 :]])
                    for name, values in features.items()
                }
                loss = sum(self.criterion(**every, logit_scale=scale, output_dict=True).values())
            loss.backward()

    def encoder(self) -> ImageEncoder:
        """Its picture tower with its projection, as an encoder of ours, so that both see the same pictures."""
        return ImageEncoder(self.network.visual, self.about)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """(N, D) of captions, of length 1."""
        self.network.eval()
        parts = [self.network.encode_text(ids.to(self.device), normalize=True) for ids in self.ids(texts).split(256)]
        return torch.cat(parts).float().cpu()
