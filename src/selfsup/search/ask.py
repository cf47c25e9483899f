"""Questions that a language model answers with the best passages of an index before it.

The passages stand in its window, as in Lewis et al. 2020 ("RAG", arXiv 2005.11401), whatever model it is; nothing is
trained for it.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from selfsup.data.tokenizer import Template
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.predict import Sampling, continued, load_generator
from selfsup.predictors.generator import Generator
from selfsup.search.hits import Hit
from selfsup.search.index import Index
from selfsup.search.query import Method, asked_text, counting, passages

PROMPT = "{passages}\n\nQuestion: {question}\nAnswer:"  # no space behind it: many tokenizers have that in the next word
CHAT = "{passages}\n\nAnswer from these passages, and name the numbers of those that you use: {question}"
PLACES = ("{passages}", "{question}")
MESSAGE = "\ue000"  # stands for what the user says while a chat template is written out; no text has it


@dataclass(frozen=True)
class Source:
    """A passage that the model has before it.

    Attributes:
        number: its place by rank, 1 for the best; the model sees it too.
        hit: the passage; its text, `start` and `stop` are of what is shown, where that is cut.
    """

    number: int
    hit: Hit


@dataclass(frozen=True)
class Answer:
    """What a model says to a question.

    Attributes:
        sources: what it has before it, best first.
        pieces: its text, as it comes; can be read once.
    """

    sources: tuple[Source, ...]
    pieces: Iterator[str]

    @property
    def text(self) -> str:
        """All pieces that have not been read."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Window:
    """What a language model reads: passages, then the question, then the beginning of the answer.

    Attributes:
        generator: the model.
        prompt: text with the places of passages and question; of a model that chats, what the user says to it.
        question: that is asked.
    """

    generator: Generator
    prompt: str
    question: str

    def ids(self, texts: Sequence[str]) -> list[int]:
        """The tokens with some passages, best first.

        The best stands last, next to the question: what stands in the middle is used least, and the end is the place
        that a model of any length has learned to look at (Liu et al. 2023, "Lost in the Middle", arXiv 2307.03172).
        What looks like a mark of the tokenizer in a passage or a question is text.
        """
        tokenizer = self.generator.tokenizer
        numbered = [f"[{number}] {text}" for number, text in enumerate(texts, 1)]
        values = {"passages": "\n\n".join(reversed(numbered)), "question": self.question}
        said = re.sub(r"\{(passages|question)\}", lambda found: values[found[1]], self.prompt)
        inside = tokenizer(said, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if tokenizer.chat_template is None:
            return [*Template.of(tokenizer).start, *inside]
        turn = [{"role": "user", "content": MESSAGE}]
        frame = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        before, _, after = frame.partition(MESSAGE)
        marks = [tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in (before, after)]
        return [*marks[0], *inside, *marks[1]]

    def sources(self, hits: Sequence[Hit], room: int) -> list[Hit]:
        """Those of some hits, best first, that fit into so many tokens; the best is cut at its end where it does not.

        Raises:
            UserError: there is no room for any of it.
        """
        texts = [hit.text or "" for hit in hits]
        shown: list[int] = []
        for number in range(len(hits)):
            if len(self.ids([texts[one] for one in (*shown, number)])) <= room:
                shown.append(number)
        if shown:
            return [hits[number] for number in shown]
        text = self._beginning(texts[0], room)
        if not text:
            context, taken = self.generator.context, len(self.ids([]))
            raise UserError(
                f"--tokens {context - room}: the model reads {context} tokens at once, and the question takes {taken}, "
                "which leaves no room for a passage; ask shorter, or give fewer tokens"
            )
        return [replace(hits[0], text=text, stop=hits[0].start + len(text))]

    def _beginning(self, text: str, room: int) -> str:
        """As much of a passage as fits, of whole words where it has any."""
        size = bisect_right(range(1, len(text) + 1), room, key=lambda size: len(self.ids([text[:size]])))
        whole = re.match(r".*(?=\s)", text[: size + 1], re.DOTALL)
        kept = (whole[0] if whole else text[:size]).rstrip()
        while kept and len(self.ids([kept])) > room:  # a longer text can have fewer tokens
            kept = kept[:-1]
        return kept


def tokens_for(generator: Generator) -> int:
    """Most tokens of an answer where nobody says how many: 200, but at most half of the window."""
    return min(200, max(generator.context // 2, 1))


def checked(prompt: str) -> str:
    """The prompt, if it has both places.

    Raises:
        UserError: it has not.
    """
    if any(prompt.count(place) != 1 for place in PLACES):
        raise UserError(f"--prompt {prompt!r}: it has to hold {{passages}} and {{question}} once each, as {PROMPT!r}")
    return prompt


def ask(
    index: Index,
    question: str,
    generator: str | os.PathLike | Generator,
    k: int = 5,
    method: Method | None = None,
    where: Sequence[str] = (),
    prompt: str | None = None,
    how: Sampling | None = None,
) -> Answer:
    """Have a language model answer a question with the best passages before it.

    As many of the k as fit into its window are shown to it, with the question and room for the answer; the rest is
    left out. The same seed gives the same answer.

    Args:
        index: of texts.
        question: a text, or the name of a file of one.
        generator: the language model, or where it is: see `load_generator`.
        k: most passages.
        method: how passages are found, see `rank`.
        where: conditions on columns of their documents, all to be fulfilled.
        prompt: text with `{passages}` and `{question}` in their places; `PROMPT` if None, `CHAT` for a model with a
            chat template.
        how: the answer is made; with `tokens_for` the model if None.

    Raises:
        UserError: an index of pictures, an empty question or one without room for a passage, a prompt that lacks a
            place, a number out of its range, nothing found, or no language model there.
    """
    folder = index.shelf.folder
    if isinstance(index.encoder, ImageEncoder):
        raise UserError(f"{folder} holds pictures, which no language model reads here; ask an index of texts")
    if prompt is not None:
        checked(prompt)
    text = asked_text(index, question)
    found = passages(index, text, k, method, counting(index, k, where))
    if not found:
        raise UserError(f"{folder} has no passage for {text[:60]!r}; ask in other words, or drop --where")
    model = generator if isinstance(generator, Generator) else load_generator(generator)
    how = Sampling(tokens=tokens_for(model)) if how is None else how
    window = Window(model, prompt or (PROMPT if model.tokenizer.chat_template is None else CHAT), text.strip())
    shown = window.sources(found, model.context - how.tokens)
    ids = window.ids([hit.text or "" for hit in shown])
    return Answer(tuple(Source(number, hit) for number, hit in enumerate(shown, 1)), continued(model, ids, how))
