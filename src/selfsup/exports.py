"""Folders that other tools load, each with a card that says how."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from selfsup.encoder import load_encoder
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.predictors.inpainter import PROGRAM, Inpainter
from selfsup.predictors.pair import Pair
from selfsup.run import Run, write_text, writing
from selfsup.sentence_files import loads_as_sentences, sentences_snippet, write_sentences
from selfsup.text_encoder import TextEncoder
from selfsup.word_files import words_snippet, write_words
from selfsup.word_vectors import WordVectors

TIMM = """import timm
import torch

model = timm.create_model("{network}", {arguments})
{stem}model.load_state_dict(load_file("{folder}/model.safetensors"))
model.eval()
"""
TIMM_PLAIN = """import timm
import torch

model = timm.create_model("local-dir:{folder}", pretrained=True)
model.eval()
"""
PICTURES = """# pictures (B, {channels}, {size}, {size}) in [0, 1], resized to a square with antialiasing
mean, sd = torch.tensor({mean})[:, None, None], torch.tensor({sd})[:, None, None]
features = model((pictures - mean) / sd)  # (B, {width})
"""
FILLING = """import torch

# pictures (B, {channels}, {size}, {size}) in [0, 1]; hole (B, 1, {size}, {size}) bool, true where something is missing
network = torch.export.load("{folder}/{program}").module()
mean, sd = torch.tensor({mean})[:, None, None], torch.tensor({sd})[:, None, None]
filled = (network((pictures - mean) / sd, hole) * sd + mean).clamp(0, 1)
"""
TEXT = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
{use}
"""
USES = {
    "AutoModel": 'hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state  # (1, T, D); mean over T',
    "AutoModelForCausalLM": 'logits = model(**tokenizer(text, return_tensors="pt")).logits  # (1, T, V)',
    "AutoModelForMaskedLM": 'logits = model(**tokenizer(text, return_tensors="pt")).logits  # (1, T, V)',
    "AutoModelForSequenceClassification": 'logits = model(**tokenizer(text, following, return_tensors="pt")).logits'
    "  # (1, 1), more is likelier",
}
PAIR = """import torch
{load}model.eval()
tokenizer = AutoTokenizer.from_pretrained("{folder}")
# pictures (B, {channels}, {size}, {size}) in [0, 1], resized to a square with antialiasing
mean, sd = torch.tensor({mean})[:, None, None], torch.tensor({sd})[:, None, None]
seen = model.get_image_features(pixel_values=(pictures - mean) / sd).pooler_output
tokens = tokenizer(texts, padding=True, truncation=True, max_length={context}, return_tensors="pt")
{read}
image, text = (torch.nn.functional.normalize(vectors, dim=1) for vectors in (seen, said))  # (B, {width}), (N, {width})
logits = model.logit_scale.exp() * image @ text.T  # (B, N)
"""
PAIR_PLAIN = """from transformers import AutoTokenizer, VisionTextDualEncoderModel

model = VisionTextDualEncoderModel.from_pretrained("{folder}")
"""
PAIR_STEM = """from safetensors.torch import load_file
from transformers import AutoTokenizer, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

whole = VisionTextDualEncoderModel(VisionTextDualEncoderConfig.from_pretrained("{folder}"))
model = whole.vision_model.timm_model
{stem}
model = whole
model.load_state_dict(load_file("{folder}/model.safetensors"))
"""
READ: dict[str, str] = {
    "pooler": "said = model.get_text_features(**tokens).pooler_output",
    "mean": """hidden = model.text_model(**tokens).last_hidden_state  # this tower has no pooler: the mean of its states
mask = tokens["attention_mask"][:, :, None]
said = model.text_projection((hidden * mask).sum(1) / mask.sum(1))""",
    "cls": """hidden = model.text_model(**tokens).last_hidden_state  # the first state is its vector
said = model.text_projection(hidden[:, 0])""",
}
POOLER = 'vector = model(**tokenizer(text, return_tensors="pt")).pooler_output  # (1, D)'
# Which class loads the folder of an encoder or predictor of text.
AUTO = {
    "text": "AutoModel",
    "generate": "AutoModelForCausalLM",
    "fill": "AutoModelForMaskedLM",
    "order": "AutoModelForSequenceClassification",
}


def snippet(encoder: ImageEncoder, folder: Path) -> str:
    """Python that loads an image encoder with timm alone."""
    about = encoder.about
    values = {
        "network": about.network, "folder": folder, "channels": len(about.mean), "size": about.size,
        "mean": list(about.mean), "sd": list(about.sd), "width": encoder.width,
        "arguments": ", ".join(f"{name}={value!r}" for name, value in about.arguments.items()),
        "stem": f"{about.stem}\n" if about.stem else "",
    }  # fmt: skip
    load = (
        TIMM.replace("import torch\n", "import torch\nfrom safetensors.torch import load_file\n")
        if about.stem
        else TIMM_PLAIN
    )
    return (load + PICTURES).format(**values)


def filling_snippet(encoder: ImageEncoder, folder: Path) -> str:
    """Python that fills pictures with torch alone."""
    about = encoder.about
    return FILLING.format(
        channels=len(about.mean), size=about.size, folder=folder, program=PROGRAM, mean=list(about.mean),
        sd=list(about.sd),
    )  # fmt: skip


def pair_snippet(pair: Pair, folder: Path) -> str:
    """Python that brings pictures and texts into one space with transformers alone."""
    about = pair.image.about
    load = PAIR_STEM if about.stem else PAIR_PLAIN
    return PAIR.format(
        load=load.format(folder=folder, stem=about.stem), folder=folder, channels=len(about.mean), size=about.size,
        mean=list(about.mean), sd=list(about.sd), context=pair.text.context, read=READ[pair.text.reading.pool],
        width=pair.projections[0].out_features,
    )  # fmt: skip


def text_snippet(auto: str, folder: Path, pooler: bool = False) -> str:
    """Python that loads a text network with transformers alone."""
    return TEXT.format(auto=auto, folder=folder, use=POOLER if pooler else USES[auto])


def card(run: Run, code: str) -> str:
    """A model card: what it is, what it learned from, what it scored, how to load it."""
    record = run.record
    recipe: dict[str, Any] = record["recipe"]
    plan = record["plan"]
    last: dict[tuple[str, str, str, float], dict[str, Any]] = {}
    for line in run.lines("evals.jsonl"):
        last[line["task"], line["representation"], line["metric"], line.get("labels", 0)] = line
    scores = [
        f"| {task} | {who} | {labels:.2g} | {metric} | {line['mean']:.4f} | {line['chance']:.4f} "
        f"| {line.get('data', 'held-out')} |"
        for (task, who, metric, labels), line in last.items()
        if task not in ("health", "mining", "online knn", "verdict")
    ]
    head = ["| task | representation | labels | metric | value | chance | data |", "|---|---|---|---|---|---|---|"]
    verdicts = [line["text"] for line in last.values() if line["task"] == "verdict"]
    table = "\n".join([*(f"{text}\n" for text in verdicts), *head, *scores])
    library = "timm" if record["facts"]["kind"] == "image" else "transformers"
    if "sentence_transformers" in code:
        library = "sentence-transformers"
    return f"""---
library_name: {library}
tags: [self-supervised, {recipe["objective"]}]
---
# {run.folder.name}

Trained without labels by selfsup {record["versions"]["selfsup"]} with the objective `{recipe["objective"]}` on
`{recipe["data"]["source"]}`: {plan["stop"]:,} steps of {recipe["optimizer"]["batch"]} rows, seed {recipe["seed"]}.

```python
{code.rstrip()}
```

{table}
"""


def export(folder: str | os.PathLike, out: str | os.PathLike) -> dict[str, str]:
    """Copy the networks of a run to a folder for other tools.

    Every encoder and predictor gets a folder of its own, with a README.md: `image` for timm, `reconstruct` for torch,
    the others for transformers, see `AUTO`; `text` for sentence-transformers too; `pair` holds both towers.

    Returns:
        The code that loads each, by name.

    Raises:
        UserError: the run has no model yet, or `out` is not empty.
    """
    run, target = Run(folder), Path(out)
    model = run.folder / "model"
    if not model.exists():
        raise UserError(
            f"{folder} has no model yet: it was stopped before its first checkpoint; selfsup resume {folder}"
        )
    if target.is_file() or (target.exists() and any(target.iterdir())):
        raise UserError(f"{target} is not empty; give another folder")
    found = {}
    for place in sorted(entry for entry in model.iterdir() if entry.is_dir()):
        goal = target / place.name
        filler = words = sentences = None
        encoder = load_encoder(place) if place.name == "text" else None
        if isinstance(encoder, WordVectors):
            words, code = encoder, words_snippet(encoder, goal)
        elif isinstance(encoder, TextEncoder) and loads_as_sentences(encoder):
            sentences, code = encoder, text_snippet(AUTO["text"], goal) + sentences_snippet(encoder, goal)
        elif place.name in AUTO:
            pooler = isinstance(encoder, TextEncoder) and encoder.reading.pool == "pooler"
            code = text_snippet(AUTO[place.name], goal, pooler)
        elif place.name == Pair.kind:
            code = pair_snippet(Pair.load(place), goal)
        elif place.name == Inpainter.kind:
            filler = Inpainter.load(place)
            code = filling_snippet(filler.encoder, goal)
        else:
            encoder = load_encoder(place)
            assert isinstance(encoder, ImageEncoder)
            code = snippet(encoder, goal)
        with writing(goal):
            shutil.copytree(place, goal)
            write_text(goal / "README.md", card(run, code))
            if filler is not None:
                filler.compile(goal)
            if words is not None:
                write_words(words, goal)
            if sentences is not None:
                write_sentences(sentences, goal)
        found[place.name] = code
    return found
