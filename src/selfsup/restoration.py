"""Pictures with something missing, filled by a run that learned to."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from selfsup.data.decode import BROKEN, SUFFIXES, open_picture, transparent, upright
from selfsup.embedding import fresh_file
from selfsup.errors import UserError
from selfsup.ops.holes import smooth_fill
from selfsup.predict import load_predictor
from selfsup.predictors.inpainter import Inpainter
from selfsup.run import check_writable

log = logging.getLogger("selfsup")


def files_of(source: Path) -> list[Path]:
    """A picture, or all pictures in a folder and below, in order.

    Raises:
        UserError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give a picture, or a folder of pictures")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{source}: there is no picture in it")
    return found


def restored(inpainter: Inpainter, picture: Tensor, hole: Tensor) -> Tensor:
    """A picture of any size with its hole filled: smoothly in full resolution, and changed as the network says.

    Args:
        inpainter: whose network sees pictures of one size.
        picture: (C, H, W) in [0, 1].
        hole: (H, W) bool.

    Returns:
        (C, H, W) in [0, 1], outside of the hole as it was.
    """
    size, missing = inpainter.encoder.about.size, hole[None, None]
    whole = smooth_fill(picture[None], missing)
    small, small_hole = whole, missing
    if tuple(hole.shape) != (size, size):
        small = F.interpolate(whole, (size, size), mode="bilinear", antialias=True)
        small_hole = F.interpolate(missing.float(), (size, size), mode="bilinear", antialias=True) > 0
    change = inpainter.fill(small, small_hole) - smooth_fill(small, small_hole)
    change = F.interpolate(change, hole.shape, mode="bilinear") if change.shape != whole.shape else change
    return torch.where(missing, (whole + change).clamp(0, 1), whole)[0]


def _mask_of(file: Path) -> Image.Image:
    try:
        mask = upright(open_picture(file.read_bytes()), 1)
    except BROKEN as error:
        raise UserError(f"--mask {file}: {error}; give a picture that is white where something is missing") from error
    return mask if isinstance(mask, Image.Image) else Image.fromarray(mask[:, :, 0])


def _opened(file: Path, channels: int, mask: Image.Image | None) -> tuple[Tensor, Tensor]:
    """(C, H, W) in [0, 1] and (H, W) bool of a picture and its hole; raises `BROKEN`."""
    picture = open_picture(file.read_bytes())
    clear = transparent(picture) if mask is None else None
    pixels = np.atleast_3d(np.asarray(upright(picture, channels)))
    if mask is not None:
        clear = np.asarray(mask.resize(pixels.shape[1::-1], Image.Resampling.NEAREST)) >= 128
    if clear is None or not clear.any():
        raise ValueError("nothing is missing: no transparent part, and no --mask that is white somewhere")
    if clear.all():
        raise ValueError("all of it is missing")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, torch.from_numpy(clear.copy())


def fill_pictures(
    place: str | os.PathLike, source: str | os.PathLike, out: str | os.PathLike, mask: str | os.PathLike | None = None
) -> list[Path]:
    """Fill what is missing in pictures: transparent parts, or what a mask says.

    Args:
        place: a run of `inpainting`, or the folder that its `reconstruct` was exported to.
        source: a picture, or a folder of pictures.
        out: folder for the results, each a `.png` of the same name (`.npy` where there are neither 1 nor 3 channels).
        mask: a picture that is white where something is missing, stretched over each of the pictures.

    Returns:
        The files written. Pictures that cannot be read, or in which nothing is missing, are named and left out.

    Raises:
        UserError: no picture could be filled, nothing there fills pictures, or a file cannot be written.
    """
    origin, target = Path(source), Path(out)
    inpainter = load_predictor(place, Inpainter)
    files, drawn = files_of(origin), None if mask is None else _mask_of(Path(mask))
    check_writable(target / "any.png")
    channels = len(inpainter.encoder.about.mean)
    suffix, written, reason = ".png" if channels in (1, 3) else ".npy", [], ""
    for file in files:
        name = file.relative_to(origin) if origin.is_dir() else Path(file.name)
        goal = target / name.with_suffix(suffix)
        if goal in written:  # a.jpg and a.png
            goal = target / name.with_name(name.name + suffix)
        try:
            picture, hole = _opened(file, channels, drawn)
        except BROKEN as error:
            reason = f"{file}: {error}"
            log.warning("left out: %s", reason)
            continue
        pixels = (restored(inpainter, picture, hole) * 255).round().byte().permute(1, 2, 0).numpy()
        with fresh_file(goal) as fresh, open(fresh, "wb") as stream:
            if suffix == ".npy":
                np.save(stream, pixels)
            else:
                Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(stream, "png")
        written.append(goal)
    if not written:
        raise UserError(f"none of {len(files)} pictures was filled; the last: {reason}")
    return written
