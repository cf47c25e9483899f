"""The files that make a folder of transformers one of sentence-transformers too, with the same vectors."""

from __future__ import annotations

import json
from pathlib import Path

from selfsup.text_encoder import TextEncoder
from selfsup.word_files import write_modules

POOLING, NORMALIZE = "1_Pooling", "2_Normalize"
MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
SNIPPET = """
from sentence_transformers import SentenceTransformer

sentences = SentenceTransformer("{folder}").encode([text]{prompt})  # (N, {width})
"""


def loads_as_sentences(encoder: TextEncoder) -> bool:
    """Whether sentence-transformers can make batches of its texts: it has to pad them, to the right, and pool them."""
    return (
        encoder.reading.pool in MODES
        and encoder.tokenizer.pad_token_id is not None
        and encoder.tokenizer.padding_side == "right"
    )


def sentences_snippet(encoder: TextEncoder, folder: Path) -> str:
    """Python that encodes texts with sentence-transformers."""
    prompt = ', prompt_name="query"' if encoder.reading.query else ""
    return SNIPPET.format(folder=folder, prompt=prompt, width=encoder.model.config.hidden_size)


def write_sentences(encoder: TextEncoder, folder: Path) -> None:
    """Write what `SentenceTransformer` reads beside the network and its tokenizer.

    The names are those of its version 3, which later ones read too.
    """
    reading = encoder.reading
    modules = [("", "Transformer"), (POOLING, "Pooling"), *([(NORMALIZE, "Normalize")] if reading.normalize else [])]
    pooling = {"word_embedding_dimension": int(encoder.model.config.hidden_size), "include_prompt": True}
    pooling |= {mode: pool == reading.pool for pool, mode in MODES.items()}
    files: dict[str, dict[str, object]] = {
        "sentence_bert_config.json": {"max_seq_length": encoder.context, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": reading.query, "document": reading.document},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        f"{POOLING}/config.json": pooling,
    }
    if reading.normalize:
        files[f"{NORMALIZE}/config.json"] = {}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2))
    write_modules(modules, folder)
