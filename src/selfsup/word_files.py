"""Vectors of words as other tools read them: word2vec's text and binary files, a static embedding for sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from selfsup.word_vectors import WordVectors

TEXT, BINARY, STATIC = "vectors.txt", "vectors.bin", "0_StaticEmbedding"
SNIPPET = """from gensim.models import KeyedVectors

words = KeyedVectors.load_word2vec_format("{folder}/vectors.bin", binary=True)  # {count} words, {width} numbers each
words.most_similar("{word}")

from sentence_transformers import SentenceTransformer

sentences = SentenceTransformer("{folder}").encode(["{word}"])  # (N, {width}): means of weighted words
"""


def words_snippet(encoder: WordVectors, folder: Path) -> str:
    """Python that loads the words with gensim, and sentences with sentence-transformers."""
    first = max(encoder.ids, key=lambda word: int(encoder.counts[encoder.ids[word]]))
    return SNIPPET.format(folder=folder, count=len(encoder.ids), width=encoder.width, word=first)


def write_words(encoder: WordVectors, folder: Path) -> None:
    """Write all known words, in the order of the vocabulary, and the static embedding.

    The rows of the static embedding are those whose mean `WordVectors.encode` takes: weighted, and without the
    direction that all texts share. A word that is not known has the row 0 there: the mean gets shorter, and keeps its
    direction.
    """
    table = encoder.table().float().numpy()
    with open(folder / TEXT, "w", encoding="utf-8") as text, open(folder / BINARY, "wb") as binary:
        head = f"{len(encoder.ids)} {encoder.width}\n"
        text.write(head)
        binary.write(head.encode())
        for word, number in encoder.ids.items():
            row = table[number].astype("<f4")
            text.write(f"{word} {' '.join(map(str, row))}\n")
            binary.write(word.encode() + b" " + row.tobytes() + b"\n")
    static = folder / STATIC
    static.mkdir()
    save_file({"embedding.weight": encoder.rows().detach().float().contiguous()}, static / "model.safetensors")
    encoder.tokenizer.backend_tokenizer.save(str(static / "tokenizer.json"))  # type: ignore[attr-defined]
    write_modules([(STATIC, "StaticEmbedding")], folder)


def write_modules(modules: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write which modules sentence-transformers makes of a folder: the folder and the class of each, in order."""
    rows = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{name}"}
        for number, (place, name) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(rows, indent=2))
