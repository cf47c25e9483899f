"""Two views of each picture (crop, flip, jitter, gray, blur, normalize), beside lightly's transform, on one core.

    python benchmarks/views.py [--quick] [--what 32px 96px 224px]

Both start from decoded pictures of the same pixels in memory: selfsup from the squares of its store, lightly from PIL
images or tensors, whichever is faster for it.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from side_by_side import Side, arguments, in_turn, publish, say

from selfsup.data.augment import Augment
from selfsup.data.crops import crop_boxes, crop_resize
from selfsup.data.draw import Draw
from selfsup.data.samples import load_sample

CASES = {"32px": (32, 32), "96px": (110, 96), "224px": (256, 224)}  # edge of the picture, edge of the view
DIFFERS = {
    "hue": "selfsup rotates about the gray axis, lightly shifts the hue in HSV",
    "clipping": "selfsup clips once, after all colors; torchvision after each",
    "order": "selfsup has a fixed order of the color operations, torchvision a random one",
}


def pictures(count: int, edge: int) -> np.ndarray:
    """(N, R, R, 3) uint8: letters in color on noise; the time does not depend on what they show."""
    letters = load_sample("glyphs")["train"]["image"][:count]
    noise = np.random.default_rng(0).integers(0, 256, (count, edge, edge, 3), np.uint8)
    large = [np.asarray(Image.fromarray(np.asarray(letter)).convert("RGB").resize((edge, edge))) for letter in letters]
    return (noise // 4 + np.stack(large) // 2).astype(np.uint8)


def crop_psnr(images: np.ndarray, size: int) -> float:
    """How near our crops come to Pillow's, in dB."""
    squares, full = torch.from_numpy(images), torch.full((len(images),), images.shape[1])
    draw = Draw(0, 0, torch.arange(len(images)))
    boxes = crop_boxes(draw.uniform("crop", 4), full, full, (0.2, 1.0), (3 / 4, 4 / 3))
    ours = crop_resize(squares, boxes, torch.zeros(len(images), dtype=torch.bool), size)
    errors = []
    for image, (top, left, height, width), view in zip(images, (boxes * images.shape[1]).tolist(), ours, strict=True):
        box = (left, top, left + width, top + height)
        theirs = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box))
        errors.append(float(np.mean((view.permute(1, 2, 0).numpy() - theirs / 255.0) ** 2)))
    return float(-10 * np.log10(np.mean(errors)))


def case(what: str, count: int, rounds: int) -> None:
    """One size."""
    edge, size = CASES[what]
    images = pictures(count, edge)
    squares, rows = torch.from_numpy(images), torch.arange(count)
    height = torch.full((count,), edge)
    augment = Augment(size=size, crop_scale=(0.2, 1.0), strength=0.5, blur=0.5)
    mean, sd = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    epochs = iter(range(1_000_000))

    def ours() -> float:
        began = time.perf_counter()
        draw = Draw(0, next(epochs), rows)
        for name in ("first", "second"):
            augment(squares, height, height, draw, name, mean, sd)
        return time.perf_counter() - began

    transform = SimCLRTransform(input_size=size, min_scale=0.2, cj_strength=0.5, gaussian_blur=0.5)
    inputs = {
        "PIL images": [Image.fromarray(image) for image in images],
        "tensors": [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images],
    }

    def seconds(kind: str) -> float:
        began = time.perf_counter()
        for image in inputs[kind]:
            transform(image)
        return time.perf_counter() - began

    tried = {}
    for kind in inputs:
        try:
            seconds(kind)
            tried[kind] = seconds(kind)
        except (TypeError, ValueError, RuntimeError) as error:  # what a version of it does not take
            say(f"  lightly takes no {kind}: {error}")
    best = min(tried, key=lambda kind: tried[kind])
    say(f"{what}: lightly is faster from {best} ({count / tried[best]:.0f} pictures/s)")
    sides = Side(ours), Side(lambda: seconds(best))
    found = in_turn(rounds, *sides)
    settings = {"cores": 1, "picture": edge, "view": size, "views": 2, "blur": 0.5, "pictures": count}
    for side, times in zip(sides, found, strict=True):
        side.about = {"pictures_per_s": round(count / float(np.median(times)), 1), **settings}
    sides[0].about["crop_psnr_to_pillow_db"] = round(crop_psnr(images[:64], size), 1)
    sides[1].about["input"] = best
    publish("views", what, "lightly", found, sides, DIFFERS, packages=("lightly", "torchvision"))


def main() -> None:
    """All sizes in turn."""
    given = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    for what in given.what or CASES:
        edge = CASES[what][0]
        count = {32: 1024, 110: 512, 256: 192}[edge] // (4 if given.quick else 1)
        case(what, count, rounds=3 if given.quick else 7)


if __name__ == "__main__":
    main()
