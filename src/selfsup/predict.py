"""What a finished run is used for: continue a text, fill in words, rank passages, find near words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from selfsup.encoder import ABOUT, load_encoder
from selfsup.errors import UserError
from selfsup.predictors.filler import Filler, Guess
from selfsup.predictors.generator import Generator
from selfsup.predictors.predictor import Kind, Loaded
from selfsup.predictors.ranker import Ranker
from selfsup.runtime import fastest_device
from selfsup.text_encoder import TextEncoder
from selfsup.word_vectors import Near, WordVectors

# What each predictor does, and the objectives that have it.
USES: dict[Kind, tuple[str, str]] = {
    "generate": ("generates text", "causal_lm"),
    "fill": ("fills in words", "masked_lm or sentence_order"),
    "order": ("ranks passages", "sentence_order"),
    "reconstruct": ("fills pictures", "inpainting"),
    "pair": ("tells pictures by texts", "clip"),
}


def holds(place: str | os.PathLike, kind: Kind) -> bool:
    """Whether a run or an exported folder has such a predictor."""
    return _folder_of(place, kind) is not None


def _folder_of(place: str | os.PathLike, kind: Kind) -> Path | None:
    """Where a predictor lies: in a run, or the folder itself that it was exported to; None if it is not there."""
    folder = Path(place)
    inside = folder / "model" / kind if (folder / "run.json").exists() else folder
    about = inside / ABOUT
    found = about.exists() and json.loads(about.read_text()).get("predictor") == kind
    return inside if found else None


def load_predictor(place: str | os.PathLike, predictor: type[Loaded]) -> Loaded:
    """A head with a use of its own, on the fastest device.

    Args:
        place: a run, or the folder that the head was exported to.
        predictor: which one.

    Raises:
        UserError: there is none.
    """
    folder = _folder_of(place, predictor.kind)
    if folder is None:
        use, objective = USES[predictor.kind]
        raise UserError(
            f"{os.fspath(place)} holds nothing that {use}; a run of {objective} does, after its first checkpoint"
        )
    found = predictor.load(folder)
    found.module.to(fastest_device())
    return found


def load_generator(place: str | os.PathLike) -> Generator:
    """A language model on the fastest device: of a run, an exported folder, or pretrained.

    Args:
        place: a run, a folder of selfsup or transformers, or `hf:` and a hub id, which uses the network.

    Raises:
        UserError: there is none.
    """
    name, folder = os.fspath(place), Path(place)
    foreign = folder.is_dir() and not any((folder / own).exists() for own in ("run.json", ABOUT))
    if not name.startswith("hf:") and not (foreign and TextEncoder.knows(name)):
        return load_predictor(place, Generator)
    found = TextEncoder.from_hub(name, "decoder")
    found.model.to(fastest_device())  # type: ignore[arg-type]
    return Generator(found.model, found.tokenizer, found.context)


def _before_stop(pieces: Iterable[str], stop: tuple[str, ...]) -> Iterator[str]:
    """Pieces of text up to the stop string that is complete first; what may be the beginning of one waits."""
    waiting = ""
    for piece in pieces:
        waiting += piece
        found = [(waiting.find(word) + len(word), waiting.find(word)) for word in stop if word in waiting]
        if found:
            yield waiting[: min(found)[1]]
            return
        begun = [size for word in stop for size in range(1, len(word)) if waiting.endswith(word[:size])]
        sure = len(waiting) - max(begun, default=0)
        yield waiting[:sure]
        waiting = waiting[sure:]
    yield waiting


def _decoded(generator: Generator, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens, as far as each leaves it in whole characters."""
    # Behind a letter: some tokenizers drop the space that a text begins with.
    ids = list(generator.tokenizer("a", add_special_tokens=False)["input_ids"])
    shown = str(generator.tokenizer.decode(ids))
    for token in tokens:
        ids.append(token)
        text = str(generator.tokenizer.decode(ids))
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half a character: wait for its other bytes
            yield text[len(shown) :]
            shown = text


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is continued.

    Attributes:
        tokens: most tokens to make.
        temperature: 0 for the likeliest continuation, 1 for the model's own probabilities.
        top_k: candidates at each step; 0 for all.
        seed: of the choice among them.
        top_p: of these candidates only the likeliest that have this probability together; 1 for all.
        stop: the text ends before the first of these that it comes to.
    """

    tokens: int = 200
    temperature: float = 0.8
    top_k: int = 50
    seed: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no text can be made with.

        Raises:
            UserError: a number out of its range, or an empty stop string.
        """
        if self.temperature < 0 or self.tokens < 1 or self.top_k < 0:
            raise UserError(
                f"--temperature {self.temperature} --tokens {self.tokens} --top-k {self.top_k}: "
                "none may be negative, tokens not 0"
            )
        if "" in self.stop:
            raise UserError("--stop '': allowed is text that is not empty, such as --stop .")


def continued(generator: Generator, prompt: str | Sequence[int], how: Sampling) -> Iterator[str]:
    """Pieces of text that continue a prompt or its token ids, as they come.

    Raises:
        UserError: `top_p` is out of its range.
    """
    made = generator.stream(prompt, how.tokens, how.temperature, how.top_k, how.seed, how.top_p)
    yield from (piece for piece in _before_stop(_decoded(generator, made), how.stop) if piece)


def generate(
    place: str | os.PathLike,
    prompt: str = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
    top_p: float = 1.0,
    stop: tuple[str, ...] = (),
) -> Iterator[str]:
    """Pieces of text that continue the prompt, as they come.

    Args:
        place: see `load_generator`.
        prompt: what to continue.
        tokens: most tokens to make.
        temperature: 0 for the likeliest continuation, 1 for the model's own probabilities.
        top_k: candidates at each step; 0 for all.
        seed: of the choice among them.
        top_p: of these candidates only the likeliest that have this probability together; 1 for all.
        stop: the text ends before the first of these that it comes to.

    Raises:
        UserError: a number out of its range, an empty stop string, or nothing there that generates text.
    """
    how = Sampling(tokens=tokens, temperature=temperature, top_k=top_k, seed=seed, top_p=top_p, stop=stop)
    yield from continued(load_generator(place), prompt, how)


def fill(place: str | os.PathLike, text: str, top_k: int = 5) -> list[list[Guess]]:
    """What may stand behind each mask of a text, likeliest first.

    Args:
        place: a run of a masked language model, or an exported folder.
        text: with the mask of its tokenizer, such as [MASK], where a word is missing.
        top_k: guesses for each mask.

    Raises:
        UserError: no mask, a text too long, no guess asked for, or nothing there that fills in words.
    """
    if top_k < 1:
        raise UserError(f"--top-k {top_k}: allowed is a number of guesses, 1 or more")
    return load_predictor(place, Filler).fill(text, top_k)


def continuations(place: str | os.PathLike, text: str, candidates: Sequence[str]) -> list[tuple[str, float]]:
    """Which passage follows a text: all candidates, likeliest first, each with its probability among them.

    A run that learned the order of passages scores each; a language model takes the mean log-likelihood of its tokens,
    so that a longer passage is not thought less of. A space stands between text and passage where there is no white
    space.

    Args:
        place: a run of `sentence_order` or of a language model, or an exported folder.
        text: what came before.
        candidates: one passage or more.

    Raises:
        UserError: no candidates, an empty one, or nothing there that ranks passages.
    """
    if not candidates or not all(candidates):
        raise UserError(f"{len(candidates)} candidates, {list(candidates).count('')} of them empty: give passages")
    open_end = bool(text) and not text[-1].isspace()
    passages = [" " + passage if open_end and not passage[0].isspace() else passage for passage in candidates]
    if _folder_of(place, Ranker.kind):
        scores = load_predictor(place, Ranker).scores([text] * len(candidates), passages)
    elif _folder_of(place, Generator.kind):
        nats, count = load_predictor(place, Generator).log_likelihood([text] * len(candidates), passages)
        scores = nats / count
    else:
        raise UserError(
            f"{os.fspath(place)} holds nothing that ranks passages; a run of sentence_order or causal_lm does, "
            "after its first checkpoint"
        )
    ranked = zip(candidates, scores.softmax(0).tolist(), strict=True)
    return sorted(ranked, key=lambda pair: -pair[1])


def near(place: str | os.PathLike, words: Sequence[str], top_k: int = 10) -> list[Near]:
    """The words nearest to a sum of words, such as `king - man + woman`; those that were named are left out.

    Every vector has length 1 before they are added, as in Mikolov et al. 2013.

    Args:
        place: a run of `word2vec`, or an exported folder.
        words: a word, or several with + and - between them.
        top_k: how many.

    Raises:
        UserError: an unknown word, a sign that is missing or too much, or nothing there with vectors of words.
    """
    if top_k < 1:
        raise UserError(f"--top-k {top_k}: allowed is a number of words, 1 or more")
    encoder = load_encoder(place)
    if not isinstance(encoder, WordVectors):
        raise UserError(f"{os.fspath(place)} has no vectors of words; a run of word2vec does")
    names, signs = list(words[::2]), ["+", *words[1::2]]
    if not names or len(names) != len(signs) or any(sign not in ("+", "-") for sign in signs):
        raise UserError(f"{' '.join(words)!r}: allowed are words with + or - between them: king - man + woman")
    vectors = [torch.nn.functional.normalize(encoder.word(name), dim=0) for name in names]
    total = torch.stack([v if sign == "+" else -v for v, sign in zip(vectors, signs, strict=True)]).sum(0)
    return encoder.nearest(total, top_k, [form for name in names for form in encoder.forms(name)])


def passages_of(file: Path) -> list[str]:
    """The passages in a text file, one a line.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    allowed = "give a text file with one passage a line"
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"--candidates {file}: {error.strerror}; {allowed}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--candidates {file}: not UTF-8 ({error.reason} at byte {error.start}); {allowed}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"--candidates {file}: there is no passage in it; {allowed}")
    return found
