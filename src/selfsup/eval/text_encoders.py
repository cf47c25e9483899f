"""Who is compared where texts are scored by their vectors, and the vectors themselves."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.source import Data
from selfsup.encoder import load_encoder
from selfsup.errors import UserError
from selfsup.eval.probes import encoders_of
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.text_encoder import TextEncoder
from selfsup.text_reading import Role
from selfsup.word_vectors import WordVectors

Reads = TextEncoder | WordVectors
AT_ONCE = 2048  # texts, between two looks at the clock


@dataclass(frozen=True)
class Asked:
    """What a run is asked about.

    Attributes:
        data: the texts.
        columns: `meaning=name` pairs for them.
        words: a run of word2vec, or an exported folder of one, to stand beside the run.
    """

    data: Data | None
    columns: tuple[str, ...] = ()
    words: str | os.PathLike | None = None


def text_encoders_of(run: Run, words: str | os.PathLike | None, task: str) -> dict[str, Reads]:
    """The encoders to compare: of the run, untrained, of its start, and word vectors where some were named.

    Args:
        run: of a text objective.
        words: a run of word2vec, or an exported folder of one.
        task: for messages.

    Raises:
        UserError: a run on pictures, or no word vectors where they were to be.
    """
    found: dict[str, Reads] = {}
    for name, encoder in encoders_of(run).items():
        if not isinstance(encoder, Reads):
            raise UserError(f"--task {task} is for runs on text; {run.folder} learned from pictures")
        found[name] = encoder
    if words is not None:
        averaged = load_encoder(words)
        if not isinstance(averaged, WordVectors):
            raise UserError(f"--words {words} has no vectors of words; give a run of word2vec, or its exported folder")
        found["words"] = averaged
    return found


def encoded(encoder: Reads, texts: list[str], role: Role | None, who: str, progress: Progress) -> Tensor:
    """(N, D) float32 on the CPU: a vector for each text, 0 where it is no number; equal texts are encoded once.

    Args:
        encoder: to encode with.
        texts: N texts.
        role: what they are to an encoder that tells queries from documents; None where there is no such difference.
        who: name of the encoder, for the progress.
        progress: shows the work.
    """
    distinct = list(dict.fromkeys(texts))
    parts = []
    for start in range(0, len(distinct), AT_ONCE):
        progress.part(f"{who}: {role or 'text'}", start, len(distinct))
        parts.append(_vectors(encoder, distinct[start : start + AT_ONCE], role))
    place = {text: number for number, text in enumerate(distinct)}
    return torch.cat(parts)[torch.tensor([place[text] for text in texts])].nan_to_num(0.0, 0.0, 0.0)


def _vectors(encoder: Reads, texts: list[str], role: Role | None) -> Tensor:
    """What the encoder makes of texts."""
    return encoder.encode(texts, role=role) if isinstance(encoder, TextEncoder) else encoder.encode(texts)


def similarity(first: Tensor, second: Tensor) -> np.ndarray:
    """(N,) float64 cosines of (N, D) and (N, D)."""
    return F.cosine_similarity(first.double(), second.double()).numpy()
