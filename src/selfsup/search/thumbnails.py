"""Pictures made small enough to be kept beside their vectors, and to be shown many on a page."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from selfsup.data.decode import channels_of, open_picture, upright

EDGE = 96  # pixels of the longer edge


def small(content: bytes, edge: int) -> Image.Image:
    """The picture in an encoded file as it is seen, in color, no edge longer than `edge` pixels.

    Of more than three channels the first three are shown.

    Raises:
        BROKEN: the content is no picture.
    """
    picture = open_picture(content)
    channels = channels_of(picture)
    seen = upright(picture, channels)
    if isinstance(seen, np.ndarray):
        seen = Image.fromarray(seen[:, :, 0] if channels < 3 else np.ascontiguousarray(seen[:, :, :3]))
    seen = seen.convert("RGB")
    seen.thumbnail((edge, edge))
    return seen


def thumbnail(content: bytes) -> bytes:
    """A PNG of the picture in an encoded file.

    Raises:
        BROKEN: the content is no picture.
    """
    target = io.BytesIO()
    small(content, EDGE).save(target, "PNG")
    return target.getvalue()
