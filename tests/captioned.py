"""Made-up pictures with captions, as files and as an objective over them made ready."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from contract.case import Case
from selfsup.objective import load_objective
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.resolve import resolve

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
SHAPES = ("square", "bar", "frame", "cross")


def picture(color: str, shape: str, number: int) -> Image.Image:
    """A shape of a color on gray, 16 x 16, a little off its place."""
    array = np.full((16, 16, 3), 128 + number % 7, np.uint8)
    y, x = 2 + number % 3, 2 + number // 3 % 3
    if shape in ("square", "frame"):
        array[y : y + 9, x : x + 9] = COLORS[color]
    if shape == "frame":
        array[y + 2 : y + 7, x + 2 : x + 7] = 128
    if shape in ("bar", "cross"):
        array[y + 3 : y + 6, x : x + 10] = COLORS[color]
    if shape == "cross":
        array[y : y + 10, x + 3 : x + 6] = COLORS[color]
    return Image.fromarray(array)


def rows(count: int) -> list[dict[str, Any]]:
    """A row a picture: its color and shape, its number, and two captions, of which others have the same."""
    names = [(color, shape) for color in COLORS for shape in SHAPES]
    found = []
    for number in range(count):
        color, shape = names[number % len(names)]
        found.append({"color": color, "shape": shape, "number": number, "texts": [f"a {color} {shape}", shape]})
    return found


def write(folder: Path, count: int) -> Path:
    """A folder with pictures and `metadata.jsonl`."""
    folder.mkdir(parents=True)
    lines = []
    for row in rows(count):
        name = f"{row['number']:03}.png"
        picture(row["color"], row["shape"], row["number"]).save(folder / name)
        lines.append(json.dumps({"file_name": name, "texts": row["texts"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def caption_case(folder: Path, **settings: Any) -> Case:
    """`clip` over a folder, with other settings of its own where given."""
    module = load_objective("clip")
    tiny = module.tiny()
    data = replace(tiny.data, source=str(folder))
    recipe = replace(tiny, precision="float32", config=replace(tiny.config, **settings), data=data)
    prepared = prepare(recipe.data, None, False, Progress(False))
    return Case("clip", module, resolve(recipe, prepared, torch.device("cpu"), "float32"), prepared)
