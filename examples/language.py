"""Learn to write from a lone text file, score it, and continue a sentence."""

import pydoc_data.topics
import tempfile
from pathlib import Path

import selfsup
from selfsup.predict import generate

with tempfile.TemporaryDirectory() as folder:
    book = Path(folder) / "book.txt"
    book.write_text("\n\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")

    settings = {"tokenizer": "char", "context": 64, "layers": 2, "heads": 2, "width": 64, "batch": 16}
    recipe = selfsup.recipe("causal_lm", data=str(book), steps=60, **settings)
    run = selfsup.train(recipe, f"{folder}/run", quiet=True)

    for line in selfsup.evaluate(run.folder, quiet=True):
        if line["metric"] == "bits per byte":
            print(f"{line['representation']:<10}{line['mean']:.2f} bits per byte")
    print("".join(generate(run.folder, "The value of", tokens=40)))
