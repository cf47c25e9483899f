"""Learn from pictures held in memory, then find the nearest neighbors of one of them."""

import tempfile

import torch
from sklearn.datasets import load_digits

import selfsup

digits = load_digits()
pictures = (digits.images * 15.9).astype("uint8")  # (1797, 8, 8)

# A digit is no longer itself when mirrored, and a small crop of it could be any: so no flips, and large crops.
recipe = selfsup.recipe("simclr", steps=40, batch=128, flip=0.0, crop_min=0.5)
with tempfile.TemporaryDirectory() as folder:
    selfsup.train(recipe, f"{folder}/run", data=pictures, quiet=True)
    vectors = selfsup.load(f"{folder}/run").encode(list(pictures))

vectors = torch.nn.functional.normalize(vectors, dim=1)
nearest = (vectors[0] @ vectors.T).topk(6).indices[1:].tolist()
print(f"picture 0 shows a {digits.target[0]}; its neighbors show {digits.target[nearest].tolist()}")
