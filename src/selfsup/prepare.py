"""From what a user has to what can be trained on: the source opened, prepared, split, and known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from selfsup.data.captions import CaptionStore, captioned, in_tokens, numbered, readable, texts_part
from selfsup.data.facts import CaptionFacts, Facts, ImageFacts, TextFacts
from selfsup.data.pair_store import open_pairs
from selfsup.data.pairs import Prompts, has_pairs
from selfsup.data.part import Part, label_column
from selfsup.data.pixels import PixelStore, open_pixels, probe_sizes
from selfsup.data.source import Data, Source, open_source
from selfsup.data.store import cache_root, fingerprint
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import OWN
from selfsup.data.tokens import open_tokens
from selfsup.data.word_tokenizer import WordRules
from selfsup.errors import UserError
from selfsup.progress import Progress
from selfsup.recipes import CaptionData, ImageData, PairData, TextData, WordData

Store = PixelStore | TokenStore | CaptionStore
HELD_OUT = 20  # one picture in so many, by its content


@dataclass(frozen=True)
class Prepared:
    """A source made ready: what to train on, what is held out, and what is known of it."""

    train: Store
    held_out: Store | None
    facts: Facts


def columns_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """`meaning=name` pairs as a dictionary."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--columns {pair}: allowed are pairs MEANING=NAME, such as image=photo")
    return dict(pair.split("=", 1) for pair in pairs)


def edge_for(median: int, gpu: bool) -> int:
    """Edge of the pictures that the network sees, in pixels, for pictures of this median edge."""
    if median <= 64:
        return max(16, -(-median // 8) * 8)
    return min(median // 32 * 32, 224 if gpu else 96)


def resolution_for(size: int, median: int) -> int:
    """Edge of the stored squares: a margin over the view, so that crops are seldom magnified, if there is one."""
    return max(min(round(size * 1.15), median), 8)


def open_part(
    part: Part, resolution: int, data: ImageData, progress: Progress, channels: int | None = None
) -> PixelStore:
    """The prepared pictures of one part of a source, with its labels where it has some; see `open_pixels`."""
    root, budget = cache_root(data.cache), int(data.cache_gb * 1e9)
    labels = label_column(part.table)
    return open_pixels(part.table, part.identity, resolution, root, budget, progress.part, labels, channels)


def prepare_pictures(source: Source, data: ImageData, gpu: bool, progress: Progress) -> Prepared:
    """The pictures of a source, one in twenty held out where the user made no such part."""
    source.require("image")
    part = source.parts["train"]
    median = probe_sizes(part.table)
    size = data.pixels or edge_for(median, gpu)
    resolution = resolution_for(size, median)
    train = open_part(part, resolution, data, progress)
    own = next((source.parts[name] for name in ("valid", "test") if name in source.parts), None)
    if own:
        held_out: PixelStore | None = open_part(own, resolution, data, progress, train.channels)
    else:
        chosen = train.digests % HELD_OUT == 0
        held_out = train.subset(np.flatnonzero(chosen)) if chosen.any() and not chosen.all() else None
        train = train.subset(np.flatnonzero(~chosen)) if held_out else train
    return Prepared(train, held_out, picture_facts(train, size))


def picture_facts(store: PixelStore, size: int) -> ImageFacts:
    """What is known of prepared pictures that a network sees `size` pixels of."""
    mean, sd = store.moments()
    return ImageFacts(
        rows=len(store), channels=store.channels, resolution=store.resolution, size=size, mean=mean, sd=sd,
        content=fingerprint(store.digests[store.rows].tolist()),
    )  # fmt: skip


def prepare_captions(source: Source, data: CaptionData, gpu: bool, progress: Progress) -> Prepared:
    """The pictures of a source that can be read and have a caption, one in twenty held out where the user did not."""
    source.require("image")
    found = captioned(source.parts["train"], source.name)
    median = probe_sizes(found.part.table)
    size = data.pixels or edge_for(median, gpu)
    pictures = open_part(found.part, resolution_for(size, median), data, progress)
    rows = readable(pictures)
    own = next((source.parts[name] for name in ("valid", "test") if name in source.parts), None)
    if own:
        others = captioned(own, f"{source.name}, its held-out part")
        other_pictures = open_part(others.part, pictures.resolution, data, progress, pictures.channels)
        held_out = readable(other_pictures)
    else:
        others, other_pictures = found, pictures
        chosen = pictures.digests[rows] % HELD_OUT == 0
        rows, held_out = rows[~chosen], rows[chosen]
    if len(rows) < 2:
        raise UserError(f"{source.name}: {len(rows)} pictures with captions to train on; two or more are needed")
    sides = [(found, pictures, rows), (others, other_pictures, held_out)]
    texts = [
        texts_part(numbered([side.captions[row] for row in some.tolist()])[0], side.part.identity)
        for side, _, some in sides
    ]
    valid = texts[1] if len(held_out) else texts[0]
    tokens = open_tokens(texts[0], valid, data.tokenizer, data.vocabulary, cache_root(data.cache), progress.part)
    train, held = (
        in_tokens(*side, token, text) for side, token, text in zip(sides, tokens, (texts[0], valid), strict=True)
    )
    text = text_facts(train.tokens, len(train.numbers), data.tokenizer)
    content = fingerprint([text.content, train.first.tolist(), train.numbers.tolist()])  # which caption is whose
    facts = CaptionFacts(image=picture_facts(train.pictures, size), text=replace(text, content=content))
    return Prepared(train, held if len(held_out) else None, facts)


def prepare_text(source: Source, data: TextData, progress: Progress) -> Prepared:
    """The text of a source as tokens; see `open_tokens` for what is held out."""
    source.require("text")
    own = next((source.parts[name] for name in ("valid", "test") if name in source.parts), None)
    rules = WordRules(data.min_count, data.case) if isinstance(data, WordData) else WordRules()
    train, held_out = open_tokens(
        source.parts["train"], own, data.tokenizer, data.vocabulary, cache_root(data.cache), progress.part, data.lines,
        rules,
    )  # fmt: skip
    facts = text_facts(train, len(train.offsets) - 1, data.tokenizer)
    return Prepared(train, held_out if len(held_out) > 1 else None, facts)


def text_facts(store: TokenStore, rows: int, tokenizer: str) -> TextFacts:
    """What is known of prepared text."""
    mask = store.tokenizer.mask_token_id
    return TextFacts(
        rows=rows, tokens=len(store), vocabulary=len(store.tokenizer),
        tokenizer=tokenizer if tokenizer in OWN else "given", mask=mask if isinstance(mask, int) else None,
        content=store.digest(),
    )  # fmt: skip


def prepare_pairs(source: Source, data: PairData, progress: Progress) -> Prepared:
    """The pairs of a source as tokens, or its plain text."""
    part = source.parts["train"]
    kind = data.pairs or ("columns" if has_pairs(part.table) else "text")
    prompts = Prompts(data.query_prompt, data.document_prompt)
    if kind == "text" and prompts != Prompts():
        raise UserError("--query-prompt and --document-prompt are for pairs, --pairs columns or title; drop them")
    if kind == "text":
        return prepare_text(source, data, progress)
    for column in ("query", "positive") if kind == "columns" else ("text",):
        source.require(column)
    own = next((source.parts[name] for name in ("valid", "test") if name in source.parts), None)
    train, held_out = open_pairs(
        part, own, kind, prompts, data.tokenizer, data.vocabulary, data.lines, cache_root(data.cache), progress.part
    )
    facts = replace(
        text_facts(train, len(train.rows), data.tokenizer), query_prompt=prompts.query,
        document_prompt=prompts.document, plain=False,
        scored=len(train.scores) > 0,
    )  # fmt: skip
    return Prepared(train, held_out, facts)


def prepare(settings: ImageData | TextData, data: Data | None, gpu: bool, progress: Progress) -> Prepared:
    """Open and prepare what a recipe learns from.

    Args:
        settings: name the source and how it is prepared.
        data: objects given in Python, in place of the name.
        gpu: whether pictures may be large.
        progress: shows the work.
    """
    source = open_source(settings.source if data is None else data, columns_of(settings.columns), settings.cache)
    if isinstance(settings, CaptionData):
        return prepare_captions(source, settings, gpu, progress)
    if isinstance(settings, ImageData):
        return prepare_pictures(source, settings, gpu, progress)
    if isinstance(settings, PairData):
        return prepare_pairs(source, settings, progress)
    return prepare_text(source, settings, progress)
