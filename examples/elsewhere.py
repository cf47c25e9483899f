"""Take a trained network to timm: the code that `export` prints, run on a batch."""

import tempfile

import numpy as np
import torch

import selfsup

with tempfile.TemporaryDirectory() as folder:
    recipe = selfsup.recipe("simclr", data="sample:digits", pixels=16, steps=5, batch=64)
    selfsup.train(recipe, f"{folder}/run", quiet=True)
    code = selfsup.export(f"{folder}/run", f"{folder}/export")["image"]
    print(code)

    picture = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    ours = selfsup.load(f"{folder}/run").encode([picture])
    names = {"pictures": torch.from_numpy(picture)[None, None] / 255}
    exec(code, names)
    print("largest difference:", float((names["features"].detach() - ours).abs().max()))
