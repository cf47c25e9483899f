"""One picture, from a file, bytes or memory to a square of uint8."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PHOTOS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SUFFIXES = frozenset((*PHOTOS, ".ppm", ".pgm", ".pbm", ".jp2", ".ico", ".tga", ".avif", ".npy"))
GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
ALPHA_MODES = frozenset({"RGBA", "LA", "La", "PA", "RGBa"})
NUMPY_MAGIC = b"\x93NUMPY"
GAP = 3  # a JPEG is decoded at no less than so many times the edge that is asked for
# What PIL and numpy raise on broken files, each on its own kind.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, MemoryError, LookupError, TypeError, ArithmeticError)
BROKEN += (struct.error, Image.DecompressionBombError)

Cell = Mapping[str, object]  # {"path": str | None, "bytes": bytes | None}, as `datasets.Image(decode=False)` gives it


def cell_bytes(cell: Cell) -> bytes:
    """The encoded picture of a cell."""
    content = cell["bytes"]
    if isinstance(content, bytes):
        return content
    with open(str(cell["path"]), "rb") as file:
        return file.read()


def to_uint8(array: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) pixels of any number type as (H, W, C) uint8.

    Floats lie in [0, 1]; of 16 bits the upper eight are taken.

    Raises:
        ValueError: the array has no pixels, not two or three dimensions, or floats outside of [0, 1].
    """
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"an array of shape {array.shape} is no picture; (H, W) or (H, W, C) is")
    array = array[:, :, None] if array.ndim == 2 else array
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array)
        if array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ValueError(f"floats from {array.min():.3g} to {array.max():.3g} are no pixels; those in [0, 1] are")
        return (array.clip(0, 1) * 255).round().astype(np.uint8)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"values of type {array.dtype} are no pixels")
    if array.dtype.kind + str(array.dtype.itemsize) == "u2" or array.max() > 255:  # 16 bits, also in wider types
        return (array.clip(0, 65535) >> 8).astype(np.uint8)
    return array.clip(0, 255).astype(np.uint8)


def encode_picture(picture: object) -> bytes:
    """A picture in memory as the bytes of a file that `open_picture` reads.

    Args:
        picture: a PIL image, or an array or tensor: (H, W), (H, W, C) or (C, H, W).

    Raises:
        ValueError: it is none of these.
    """
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture = ImageOps.exif_transpose(picture)
        picture.save(buffer, "PNG" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF")
        return buffer.getvalue()
    array = np.asarray(picture)
    # Channels come first in a tensor; nobody has a picture of at most four lines and more than four channels.
    if array.ndim == 3 and (array.shape[0] <= 4 < array.shape[2] or not isinstance(picture, np.ndarray)):
        last = array.shape[2] in (1, 3) and array.shape[0] not in (1, 3)
        array = array if last else array.transpose(1, 2, 0)
    np.save(buffer, to_uint8(array))
    return buffer.getvalue()


def open_picture(content: bytes) -> Image.Image | np.ndarray:
    """The picture in an encoded file: an array where it is one, else a PIL image, not decoded yet.

    Raises:
        BROKEN: the content is no picture.
    """
    if content.startswith(NUMPY_MAGIC):
        return to_uint8(np.load(io.BytesIO(content), allow_pickle=False))
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # its own words name the address of a buffer
        raise OSError("no picture of a known format") from None


def size_of(picture: Image.Image | np.ndarray) -> tuple[int, int]:
    """Height and width as seen, upright; reads no pixels of a PIL image."""
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    width, height = picture.size
    turned = picture.getexif().get(0x0112, 1) >= 5  # the EXIF mark of orientation: 5 to 8 lie on their side
    return (width, height) if turned else (height, width)


def channels_of(picture: Image.Image | np.ndarray) -> int:
    """Number of channels that a picture asks for: 1 gray, 3 color, C of an array."""
    if isinstance(picture, np.ndarray):
        return picture.shape[2]
    return 1 if picture.mode in GRAY_MODES else 3


def transparent(picture: Image.Image | np.ndarray) -> np.ndarray | None:
    """(H, W) bool, upright: where a picture lets more than half of the light through; None if it has no such thing."""
    if isinstance(picture, np.ndarray) or not (picture.mode in ALPHA_MODES or "transparency" in picture.info):
        return None
    return np.asarray(ImageOps.exif_transpose(picture).convert("RGBA").getchannel("A")) < 128


def upright(picture: Image.Image | np.ndarray, channels: int, resolution: int = 0) -> Image.Image | np.ndarray:
    """The picture as seen, with so many channels, transparent parts on white; a PIL image stays one.

    Args:
        picture: as `open_picture` gives it.
        channels: to bring it to.
        resolution: edge in pixels that will be asked of it; a large JPEG may come smaller, but not below that.

    Raises:
        BROKEN: the picture is cut off, or its channels cannot be brought to `channels`.
    """
    if isinstance(picture, np.ndarray):
        picture = to_uint8(picture)
        if picture.shape[2] == 1 and channels == 3:
            picture = picture.repeat(3, axis=2)
        if picture.shape[2] == 3 and channels == 1:
            picture = np.asarray(Image.fromarray(picture).convert("L"))[:, :, None]
        if picture.shape[2] != channels:
            raise ValueError(f"{picture.shape[2]} channels where the others have {channels}")
        return picture
    if channels not in (1, 3):
        raise ValueError(f"a picture of mode {picture.mode} where the others have {channels} channels")
    if picture.format == "JPEG" and resolution:  # decoded at a half, a quarter or an eighth, which is faster
        picture.draft(None, (GAP * resolution, GAP * resolution))  # type: ignore[arg-type]
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):  # PIL's own conversion clips 16 bits to 8
        array = np.asarray(picture)
        array = array.clip(0, 65535).astype(np.uint16) if array.dtype.kind == "i" else array
        picture = Image.fromarray(to_uint8(array)[:, :, 0])
    if picture.mode in ALPHA_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if channels == 1 else "RGB")


def to_square(picture: Image.Image | np.ndarray, resolution: int, channels: int) -> np.ndarray:
    """(R, R, C) uint8: the picture upright, squashed to a square, transparent parts on white, antialiased.

    Raises:
        BROKEN: the picture is cut off, or its channels cannot be brought to `channels`.
    """
    square = (resolution, resolution)
    picture = upright(picture, channels, resolution)
    if isinstance(picture, np.ndarray):
        if picture.shape[:2] == square:
            return picture
        planes = [Image.fromarray(np.ascontiguousarray(picture[:, :, c])) for c in range(channels)]
        return np.stack([np.asarray(plane.resize(square, Image.Resampling.BILINEAR)) for plane in planes], 2)
    if picture.size != square:
        picture = picture.resize(square, Image.Resampling.BILINEAR, reducing_gap=GAP)
    return np.atleast_3d(np.asarray(picture))
