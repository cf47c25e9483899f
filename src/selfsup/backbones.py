"""How large the networks of a run are, and what they start from."""

from __future__ import annotations

from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass as validated

from selfsup.fields import STRICT, Count, Share, Size, one_of


@validated(frozen=True, kw_only=True, config=STRICT)
class ImageBackbone:
    """The picture encoder."""

    size: Size | None = None
    """How large a network: chosen from budget and device when not given."""
    network: str | None = None
    """A timm network by name, in place of the dial."""
    patch: Count | None = None
    """Edge of a transformer's patches in pixels; an eighth of the picture, or what the network has, when not given."""
    init: str | None = None
    """Start from these weights: a run, a folder with a network of timm, timm:NAME or hf:ID."""

    def __post_init__(self) -> None:
        """Refuse two ways of saying which network it is."""
        one_of(self, ("size", "network", "init"))
        one_of(self, ("patch", "init"))


@validated(frozen=True, kw_only=True, config=STRICT)
class TextBackbone:
    """The text network."""

    size: Size | None = None
    """How large a network: chosen from budget and device when not given."""
    layers: Count | None = None
    """Number of blocks, in place of the dial's."""
    heads: Count | None = None
    """Attention heads, in place of the dial's."""
    width: Count | None = None
    """Width of the residual stream, in place of the dial's."""
    share: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """All blocks use the same weights: as deep, with a fraction of the weights (ALBERT)."""
    embedding: Count | None = None
    """Width of the table of tokens, which a matrix takes to the width of the network; the same when not given."""
    dropout: Share = 0.0
    """Dropout in the network; none is the better default when pretraining passes over its data a few times."""
    init: str | None = None
    """Start from these weights, and their tokenizer: a run, a folder, or hf:ID."""

    def __post_init__(self) -> None:
        """Refuse a size for a network that has one."""
        for field in ("size", "layers", "heads", "width", "embedding"):
            one_of(self, (field, "init"))
        if self.share and self.init:
            raise ValueError(f"--share: --init {self.init} brings its own network; drop one of them")


@validated(frozen=True, kw_only=True, config=STRICT)
class WordBackbone:
    """A table of word vectors."""

    width: Count | None = None
    """Numbers in a vector; 100 when not given."""
    ngrams: tuple[Count, Count] | None = None
    """Least and most characters of the n-grams that a word's vector is also made of, such as 3 6; none if not given."""
    buckets: Count = 200_000
    """Rows that all n-grams share, by a hash."""
    init: str | None = None
    """Start from these vectors, with their words: a run of word2vec, or its exported folder."""

    def __post_init__(self) -> None:
        """Refuse n-grams of no length, and a shape for vectors that have one."""
        for field in ("width", "ngrams"):
            one_of(self, (field, "init"))
        if self.ngrams and self.ngrams[0] > self.ngrams[1]:
            raise ValueError(f"--ngrams {self.ngrams[0]} {self.ngrams[1]}: the least comes first, such as 3 6")


@validated(frozen=True, kw_only=True, config=STRICT)
class TowerBackbone:
    """The two networks."""

    size: Size | None = None
    """How large networks: chosen from budget and device when not given."""
    network: str | None = None
    """A timm network by name for the pictures, in place of the dial."""
    patch: Count | None = None
    """Edge of a transformer's patches in pixels; an eighth of the picture, or what the network has, when not given."""
    image_init: str | None = None
    """Start the picture tower from these weights: a run, a folder with a network of timm, timm:NAME or hf:ID."""
    layers: Count | None = None
    """Number of blocks of the text tower, in place of the dial's."""
    heads: Count | None = None
    """Its attention heads, in place of the dial's."""
    width: Count | None = None
    """The width of its residual stream, in place of the dial's."""
    text_init: str | None = None
    """Start the text tower from these weights, and their tokenizer: a run, a folder, or hf:ID."""

    def __post_init__(self) -> None:
        """Refuse two ways of saying which network it is."""
        one_of(self, ("network", "image_init"))
        one_of(self, ("patch", "image_init"))
        for field in ("layers", "heads", "width"):
            one_of(self, (field, "text_init"))
        if self.size and self.image_init and self.text_init:
            raise ValueError(f"--size {self.size}: both towers bring their own networks; drop --size")

    @property
    def image(self) -> ImageBackbone:
        """That of the pictures by itself."""
        size = None if self.network or self.image_init else self.size
        return ImageBackbone(size=size, network=self.network, patch=self.patch, init=self.image_init)

    @property
    def text(self) -> TextBackbone:
        """That of the texts by itself."""
        size = None if self.text_init else self.size
        return TextBackbone(size=size, layers=self.layers, heads=self.heads, width=self.width, init=self.text_init)

    @property
    def init(self) -> str | None:
        """Where one of them started, if one did."""
        return self.image_init or self.text_init


Backbone = ImageBackbone | TextBackbone | WordBackbone | TowerBackbone
