"""Whether the vector of a word tells its senses apart.

Pilehvar and Camacho-Collados 2019 ("WiC"): a word in two sentences; it means the same in both, or does not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from selfsup.data.source import Data
from selfsup.data.tokenizer import Template, end_id
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.eval.probes import encoders_of
from selfsup.eval.result import Result, result
from selfsup.eval.tfidf import cosines, weighted_words
from selfsup.eval.verdict import Gain, always, gains
from selfsup.eval.word_pairs import WordPair, WordPairs, open_word_pairs
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.text_encoder import TextEncoder

BATCH = 64  # sentences at once


def word_vectors(encoder: TextEncoder, sentences: Sequence[str], spans: Sequence[tuple[int, int]]) -> Tensor:
    """(N, D) float32 on the CPU: the mean of the last hidden states of a word's tokens in its sentence.

    Of a sentence that is longer than the network reads it is given the part around the word.

    Args:
        encoder: the network.
        sentences: N sentences.
        spans: first character of the word in each, and the one after its last.
    """
    marks, end, found = Template.of(encoder.tokenizer), end_id(encoder.tokenizer), []
    room = encoder.context - len(marks.start) - len(marks.stop)
    for at in range(0, len(sentences), BATCH):
        batch = list(sentences[at : at + BATCH])
        encoded = encoder.tokenizer(batch, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        rows, places = [], []
        for ids, offsets, (start, stop) in zip(
            encoded["input_ids"], encoded["offset_mapping"], spans[at : at + BATCH], strict=True
        ):
            # The tokens that overlap the word, at least one.
            first = min(sum(after <= start for _, after in offsets), len(ids) - 1)
            last = max(sum(before < stop for before, _ in offsets), first + 1)
            left = max(min((first + last - room) // 2, len(ids) - room), 0)
            rows.append([*marks.start, *ids[left : left + room], *marks.stop])
            shift = len(marks.start) - left
            places.append((max(first, left) + shift, min(last, left + room) + shift))
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[end] * (width - len(row))] for row in rows], device=encoder.device)
        inside = torch.tensor([[place < len(row) for place in range(width)] for row in rows], device=encoder.device)
        with evaluating(encoder.module):
            states = encoder.module(ids, attention_mask=inside.long(), use_cache=False).last_hidden_state  # (B, W, D)
        found += [state[first:last].float().mean(0).cpu() for state, (first, last) in zip(states, places, strict=True)]
    return torch.stack(found)


def threshold(similarity: np.ndarray, same: np.ndarray) -> float:
    """What to call the same above, so that most answers are right; of equally good ones the highest.

    Args:
        similarity: (N,).
        same: (N,) bool.
    """
    order = np.argsort(-similarity, kind="stable")
    ranked = similarity[order]
    right = np.concatenate([[0], np.cumsum(np.where(same[order], 1, -1))])  # with the first 0, 1, ... called the same
    apart = np.concatenate([[True], ranked[1:] < ranked[:-1], [True]])  # equal ones cannot be told apart
    best = int(np.argmax(np.where(apart, right, right.min() - 1)))
    if best in (0, len(ranked)):
        return -np.inf if best else np.inf
    return float(ranked[best - 1] + ranked[best]) / 2


def similarities(encoder: TextEncoder, pairs: Sequence[WordPair]) -> np.ndarray:
    """(N,) cosine of the two vectors of each pair's word; 0 where they are no numbers."""
    first, second = (
        word_vectors(encoder, [pair.sentences[side] for pair in pairs], [pair.spans[side] for pair in pairs])
        for side in (0, 1)
    )
    return F.cosine_similarity(first, second).nan_to_num().double().numpy()


def overlaps(pairs: WordPairs) -> tuple[np.ndarray, np.ndarray]:
    """(N,) of the pairs to fit on and (M,) of those to score: cosine of the words of both sentences.

    Words are weighted by their rarity in all of these sentences: by that in one part, words that only the other has
    would weigh more, and a threshold would mean something else there.
    """
    fit, test = ([[pair.sentences[side] for pair in part] for side in (0, 1)] for part in (pairs.fit, pairs.test))
    words = weighted_words(1).fit([*fit[0], *fit[1], *test[0], *test[1]])
    return cosines(words, *fit), cosines(words, *test)


def evaluate_words_in_context(run: Run, data: Data | None, progress: Progress) -> tuple[list[Result], list[Gain]]:
    """Pairs of sentences by the run, its untrained network, and the words of both.

    A word means the same where the cosine of its two vectors is above a threshold, chosen on other pairs: `accuracy`.
    `AUC` needs none: how often a pair of one sense has a higher cosine than a pair of two.

    Args:
        run: of a text objective.
        data: pairs; see `open_word_pairs`.
        progress: shows the work.

    Raises:
        UserError: no pairs, or a run that does not read text.
    """
    if not isinstance(data, str | os.PathLike):
        raise UserError("--task words-in-context needs --data: pairs of sentences as .jsonl, or a folder of such")
    encoders = encoders_of(run)
    pairs, name = open_word_pairs(Path(data)), os.fspath(data)
    fit, test = (torch.tensor([pair.same for pair in part]) for part in (pairs.fit, pairs.test))
    found, right = [], {"chance": always(fit.long(), test.long(), 1)}
    chance = float(torch.bincount(test.long()).max() / len(test))
    for done, who in enumerate((*encoders, "raw")):
        progress.part(f"words in context: {who}", done, len(encoders) + 1)
        if who == "raw":
            near, scored = overlaps(pairs)
        else:
            encoder = encoders[who]
            if not isinstance(encoder, TextEncoder):
                raise UserError(f"--task words-in-context is for runs on text; {run.folder} learned from pictures")
            near, scored = similarities(encoder, pairs.fit), similarities(encoder, pairs.test)
        right[who] = torch.from_numpy((scored > threshold(near, fit.numpy())) == test.numpy())[None]
        accuracy, area = float(right[who].double().mean()), float(roc_auc_score(test.numpy(), scored))
        for metric, value, by_chance, labels in (("accuracy", accuracy, chance, 1.0), ("AUC", area, 0.5, 0)):
            line = result(run, "words in context", who, metric, value, by_chance, name, pairs.split)
            found.append({**line, "labels": labels})
    progress.part("words in context", len(encoders) + 1, len(encoders) + 1)
    return found, gains({"in telling senses of a word apart": right})
