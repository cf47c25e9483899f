"""The least and the most answerable rows, as people look at them: a sheet of pictures, or texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from selfsup.data.draw import Draw
from selfsup.data.reader import Reader
from selfsup.encoder import evaluating
from selfsup.objective import Objective
from selfsup.pictures import Picture, sheet

LEAST, MOST = 12, 4  # pictures on the sheet
TEXTS = 40  # texts in the file
CHARACTERS = 400  # of each

Pages = dict[str, np.ndarray]  # title -> (B, H, W, C)


def extremes(difficulty: np.ndarray, content: np.ndarray | None, least: int, most: int) -> tuple[list[int], list[int]]:
    """Places of the rows that are least answerable, the worst first, and of those that are most; no content twice."""
    order = np.argsort(-difficulty, kind="stable")
    if content is not None:
        order = order[np.sort(np.unique(content[order], return_index=True)[1])]
    rest = order[least:]
    return order[:least].tolist(), rest[::-1][:most].tolist()


def pages_of(objective: Objective, reader: Reader, rows: np.ndarray, seed: int) -> Pages:
    """What the objective shows of some rows, by title; nothing for text."""
    draw = Draw(seed, -1, torch.from_numpy(rows))
    device = next(objective.parameters()).device
    batch = {name: value.to(device) for name, value in reader.gather(draw).items()}
    with evaluating(objective):
        shown = objective.pictures(batch, draw.to(device))
    return {name: images.float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() for name, images in shown.items()}


def draw_sheet(path: Path, pages: Sequence[Pages], titles: Sequence[str], heading: str) -> None:
    """A row of the sheet for each example: the first page of each under a title of its own."""
    rows = []
    for page, title in zip(pages, titles, strict=True):
        first, *rest = page.items()
        rows.append([Picture(first[1], title), *(Picture(image, name) for name, image in rest)])
    sheet(path, rows, heading)


def texts_in(reader: Reader, tokenizer: PreTrainedTokenizerBase, row: int, seed: int) -> dict[str, str]:
    """The texts of a row by the name they have in its batch."""
    batch = reader.gather(Draw(seed, -1, torch.tensor([row])))
    found = {}
    for name in batch:
        if f"{name}_length" not in batch:
            continue
        length = batch[f"{name}_length"].flatten()
        pieces = batch[name].reshape(len(length), -1)
        for number, (ids, size) in enumerate(zip(pieces, length.tolist(), strict=True)):
            text = str(tokenizer.decode(ids[:size].tolist(), skip_special_tokens=True))
            found[name if len(length) == 1 else f"{name} {number + 1}"] = " ".join(text.split())[:CHARACTERS]
    return found


def texts_page(parts: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]]) -> str:
    """Headings, below each its rows: a title, and the texts of the row by name."""
    lines = []
    for heading, rows in parts.items():
        lines += [heading, ""]
        for title, texts in rows:
            lines += [title, *(f"    {name}: {text}" for name, text in texts.items()), ""]
    return "\n".join(lines)
