"""Data that is always there: the `sample:<name>` sources need no network and no download.

They are made from what the installed packages and Python itself ship with. `digits` is the same everywhere;
`glyphs` follows the installed FreeType (through Pillow) in its last gray levels; `prose` and `code` follow the
version of Python.
"""

from __future__ import annotations

import ast
import sysconfig
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from selfsup.errors import UserError, nearest

Columns = dict[str, list]

SAMPLES: dict[str, str] = {
    "digits": "1,797 handwritten digits, 8 x 8 gray (scikit-learn): image, label; the last fifth of each digit is test",
    "glyphs": "letters and signs of 16 fonts, 32 x 32 gray (matplotlib): image, text, label; 4 whole fonts are test",
    "prose": "Python's help topics and the docstrings of its standard library: text, one document a topic or module",
    "code": "the sources of Python's standard library without tests: text, one document a file",
}


def load_sample(name: str) -> dict[str, Columns]:
    """The parts of a sample ("train", and "test" where something is held out), each as columns of equal length.

    Two calls give equal content.

    Columns:
        image: list of uint8 arrays (H, W).
        label: list of str.
        text: list of str.

    Raises:
        UserError: no sample has this name, or what it is made from is not installed here.
    """
    loaders: dict[str, Callable[[], dict[str, Columns]]] = {
        "digits": _digits,
        "glyphs": _glyphs,
        "prose": _prose,
        "code": _code,
    }
    if name not in loaders:
        raise UserError(f"there is no sample {name!r}: {nearest(name, SAMPLES)}")
    return loaders[name]()


def _digits() -> dict[str, Columns]:
    """scikit-learn's digits, the last fifth of each digit held out.

    The rows of a writer seem to stand together: nearest neighbors of raw pixels get 95 % of the last fifth right, and
    98 to 99 % of a random one, where most hands are known.
    """
    from sklearn.datasets import load_digits

    pixels, digits = map(np.asarray, load_digits(return_X_y=True))  # (N, 64) in 0..16, (N,)
    pictures = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    held_out = np.zeros(len(digits), bool)
    for digit in range(10):
        rows = np.flatnonzero(digits == digit)
        held_out[rows[len(rows) * 4 // 5 :]] = True
    return {
        part: {"image": list(pictures[chosen]), "label": [str(digit) for digit in digits[chosen]]}
        for part, chosen in (("train", ~held_out), ("test", held_out))
    }


# Whole fonts are held out, as a Latin square: each of the four families once, each of the four styles once.
FONTS: dict[str, dict[str, str]] = {
    "train": {
        "DejaVuSans": "sans",
        "DejaVuSans-Bold": "bold sans",
        "DejaVuSans-Oblique": "italic sans",
        "DejaVuSansMono": "mono",
        "DejaVuSansMono-Oblique": "italic mono",
        "DejaVuSansMono-BoldOblique": "bold italic mono",
        "DejaVuSerif": "serif",
        "DejaVuSerif-Bold": "bold serif",
        "DejaVuSerif-BoldItalic": "bold italic serif",
        "STIXGeneralBol": "bold serif",
        "STIXGeneralItalic": "italic serif",
        "STIXGeneralBolIta": "bold italic serif",
    },
    "test": {
        "DejaVuSans-BoldOblique": "bold italic sans",
        "DejaVuSansMono-Bold": "bold mono",
        "DejaVuSerif-Italic": "italic serif",
        "STIXGeneral": "serif",
    },
}
BLOCKS = (
    (0x0021, 0x007E),  # ASCII
    (0x00A1, 0x00BF),  # signs of Latin-1
    (0x0391, 0x03C9),  # Greek
    (0x0410, 0x044F),  # Cyrillic
    (0x2013, 0x2014),  # dashes
    (0x2018, 0x2026),  # quotation marks, daggers, dots
    (0x2190, 0x21FF),  # arrows
    (0x2200, 0x22FF),  # mathematical operators
)
SIDE, BASELINE = 40, 29  # pixels of the page; the baseline lies this far below the upper edge
SCANNED = 32  # pixels of the picture of it
POINT_SIZES = (24, 28)
OFFSET, ANGLE = 2.0, 3.0  # a scanned page: cut out up to two pixels off, lying up to three degrees askew
TWIN = 0.05  # relative squared difference below which two glyphs look the same; Greek and Cyrillic G have 0.03
TWIN_SIZE = 26


def _glyphs() -> dict[str, Columns]:
    """The characters of 16 fonts as cut from a scanned page: white ink on black, (32, 32).

    A character stands where its font puts it (one baseline, one point size, centered on its own advance: a comma
    sits low). Every font is there at two point sizes, and every glyph, drawn on 40 x 40 pixels, is shifted by up to 2
    of them each way and turned by up to 3 degrees, evenly drawn and the same in every call. A glyph that the font
    lacks is skipped.

    Columns: `label` is the character; `text` its Unicode name and the style of its font, as in "greek small letter
    alpha, bold italic serif". Labels are the characters that three quarters of the fonts have, but for those that
    look like an earlier one in half of the fonts (Greek and Cyrillic A like Latin A). Some stay hard by nature:
    O and o differ in size only, and what a Cyrillic italic looks like depends on the font.
    """
    # Imported here because it brings torch, which whoever only wants the names of the samples need not wait for.
    import torch

    from selfsup.data.draw import Draw

    cmaps = {font: _characters(font) for fonts in FONTS.values() for font in fonts}
    labels = _distinct(cmaps)
    jobs = [
        (part, font, style, size, character)
        for part, fonts in FONTS.items()
        for font, style in fonts.items()
        for size in POINT_SIZES
        for character in labels
        if character in cmaps[font]
    ]
    scan = Draw(seed=0, epoch=0, rows=torch.arange(len(jobs))).uniform("scan", 3).mul(2).sub(1).tolist()  # (N, 3)
    faces = {(font, size): _face(font, size) for font in cmaps for size in POINT_SIZES}
    parts: dict[str, Columns] = {part: {"image": [], "text": [], "label": []} for part in FONTS}
    for (part, font, style, size, character), (right, down, turn) in zip(jobs, scan, strict=True):
        picture = _render(faces[font, size], character).rotate(
            turn * ANGLE, Image.Resampling.BICUBIC, translate=(right * OFFSET, down * OFFSET)
        )
        picture = picture.resize((SCANNED, SCANNED), Image.Resampling.BILINEAR)
        parts[part]["image"].append(np.array(picture))
        parts[part]["text"].append(f"{unicodedata.name(character).lower()}, {style}")
        parts[part]["label"].append(character)
    return parts


def _distinct(cmaps: dict[str, set[str]]) -> list[str]:
    """The characters of `BLOCKS` that three quarters of the fonts have, without those that look like an earlier one.

    Two characters look the same if the median over the fonts that have both of |a - b|^2 / max(|a|^2, |b|^2) is
    below `TWIN`, with a and b the pixels of the unmoved glyphs.
    """
    common = [
        chr(code)
        for first, last in BLOCKS
        for code in range(first, last + 1)
        if unicodedata.category(chr(code))[0] in "LNPS"
        and sum(chr(code) in cmap for cmap in cmaps.values()) >= 0.75 * len(cmaps)
    ]
    difference = np.full((len(cmaps), len(common), len(common)), np.nan, np.float32)  # (fonts, K, K)
    for table, (font, cmap) in zip(difference, cmaps.items(), strict=True):
        face = _face(font, TWIN_SIZE)
        own = [index for index, character in enumerate(common) if character in cmap]
        ink = np.stack([np.asarray(_render(face, common[index]), np.float32).ravel() for index in own])  # (n, pixels)
        gram = ink @ ink.T  # whole numbers below 2^27 or so: float32 rounds them by far less than TWIN
        square = gram.diagonal()
        table[np.ix_(own, own)] = (square + square[:, None] - 2 * gram) / np.maximum(square, square[:, None])
    twins = np.nanmedian(difference, axis=0) < TWIN  # (K, K)
    kept: list[int] = []
    for index in range(len(common)):
        if not twins[index, kept].any():
            kept.append(index)
    return [common[index] for index in kept]


def _font_file(font: str) -> Path:
    """Where matplotlib keeps a font."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not file.exists():
        raise UserError(f"sample 'glyphs' needs {file.name}, which this matplotlib lacks: pip install -U matplotlib")
    return file


def _face(font: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size, laid out by Pillow itself: the other engine is not in every build of it."""
    return ImageFont.truetype(str(_font_file(font)), size, layout_engine=ImageFont.Layout.BASIC)


def _characters(font: str) -> set[str]:
    """What a font has, from its character map: Pillow cannot tell, it draws a box for what is missing."""
    from matplotlib.ft2font import FT2Font

    return {chr(code) for code in FT2Font(str(_font_file(font))).get_charmap()}


def _render(face: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """One character, white on black, on the baseline and centered on its advance."""
    picture = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(picture).text((SIDE // 2, BASELINE), character, fill=255, font=face, anchor="ms")
    return picture


SHORTEST = 300  # characters of a document
MOST_CODE = 10_000_000  # characters in all
# Tests, other people's packages, generated tables, settings of the machine that built Python; prose has the topics.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}
LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-")


def _sources() -> Iterator[str]:
    """The readable sources of the standard library, in the order of their paths.

    Raises:
        UserError: Python was installed without them.
    """
    library = Path(sysconfig.get_path("stdlib"))
    paths = {file.relative_to(library): file for file in library.rglob("*.py")}
    if not paths:
        raise UserError(f"this Python comes without its sources (none in {library}): take sample:digits, sample:glyphs")
    for path in sorted(paths, key=Path.as_posix):
        if LEFT_OUT.intersection(path.parts) or any(part.startswith(LEFT_OUT_PREFIXES) for part in path.parts):
            continue
        try:
            yield paths[path].read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _prose() -> dict[str, Columns]:
    """Help topics by name, then for each module all of its docstrings in the order in which they stand."""
    from pydoc_data.topics import topics

    documents = [topics[name] for name in sorted(topics)]
    for source in _sources():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in old modules
            try:
                module = ast.parse(source)  # parsed, never run
            except (SyntaxError, ValueError):
                continue
        documents.append("\n\n".join(_docstrings(module)))
    # Some topics have two names.
    return {"train": {"text": [text for text in dict.fromkeys(documents) if len(text) >= SHORTEST]}}


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The docstring of a module, class or function, then those of the classes and functions right in it."""
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(child)


def _code() -> dict[str, Columns]:
    """Sources one a document, up to ten million characters in all."""
    documents: list[str] = []
    total = 0
    for source in _sources():
        if len(source) < SHORTEST:
            continue
        total += len(source)
        if total > MOST_CODE:
            break
        documents.append(source)
    return {"train": {"text": documents}}
