"""What the store knows of the data: frozen, saved with the model, given to `build`."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts about prepared pictures.

    Attributes:
        rows: number of training pictures.
        channels: 1 gray, 3 color, or what the arrays hold.
        resolution: R, edge of the stored square in pixels.
        size: edge of the picture that the network sees, in pixels.
        mean, sd: one number a channel, of pixels in [0, 1].
        content: digest of the pictures, so that a resumed run notices other ones.
    """

    rows: int
    channels: int
    resolution: int
    size: int
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    content: str = ""
    kind: str = "image"


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """Facts about prepared text.

    Attributes:
        rows: number of training documents.
        tokens: number of training tokens.
        vocabulary: number of token ids.
        tokenizer: how it was made, `byte`, `char` or `bpe`; `given` for a ready one.
        mask: id of the token that hides another; None where the tokenizer has none.
        content: digest of the training tokens, so that a resumed run notices other ones.
        query_prompt: what stands in front of queries, in data of pairs.
        document_prompt: what stands in front of the other texts.
        plain: whether rows are plain texts, of which pairs are yet to be made.
        scored: whether rows are pairs with a graded score.
    """

    rows: int
    tokens: int
    vocabulary: int
    tokenizer: str
    mask: int | None = None
    content: str = ""
    query_prompt: str = ""
    document_prompt: str = ""
    plain: bool = True
    scored: bool = False
    kind: str = "text"


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """Facts about prepared pictures with captions.

    Attributes:
        image: of the pictures.
        text: of their captions, which are the documents.
    """

    image: ImageFacts
    text: TextFacts
    kind: str = "captions"

    @property
    def content(self) -> str:
        """Digest of both."""
        return f"{self.image.content}-{self.text.content}"


Facts = ImageFacts | TextFacts | CaptionFacts


def of_pictures(facts: Facts) -> ImageFacts | None:
    """What is known of the pictures, if there are any."""
    return facts.image if isinstance(facts, CaptionFacts) else facts if isinstance(facts, ImageFacts) else None


def of_texts(facts: Facts) -> TextFacts | None:
    """What is known of the text, if there is any."""
    return facts.text if isinstance(facts, CaptionFacts) else facts if isinstance(facts, TextFacts) else None


def facts_to_json(facts: Facts) -> dict:
    """Facts as a JSON object."""
    return asdict(facts)


def facts_from_json(record: dict) -> Facts:
    """The inverse of `facts_to_json`."""
    if record["kind"] == "captions":
        image, text = facts_from_json(record["image"]), facts_from_json(record["text"])
        assert isinstance(image, ImageFacts) and isinstance(text, TextFacts)
        return CaptionFacts(image=image, text=text)
    kind = {"image": ImageFacts, "text": TextFacts}[record["kind"]]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})
