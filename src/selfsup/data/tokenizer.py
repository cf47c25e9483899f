"""Tokenizers: bytes, characters or byte pairs learned from the data, or a ready one; all in transformers' format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Tokens
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from selfsup.data.store import fingerprint
from selfsup.errors import UserError

END = "<|endoftext|>"  # between documents; also what stands for a character that the vocabulary lacks
LOSSLESS = ("byte", "char", "bpe")
OWN = (*LOSSLESS, "caption", "word")
PAIRS = ("bpe", "caption")  # made of byte pairs
LEARNED = (*PAIRS, "word")  # of as many ids as are asked for
MARKS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
SPECIAL = (END, *MARKS.values())  # one vocabulary serves every objective
# A hidden word of byte pairs took its space along, so a written mask does too.
MASK = AddedToken(MARKS["mask_token"], lstrip=True, special=True)
# GPT-2's way to cut text into words, but vowel signs and other marks stay with their letters: Hindi has them inside of
# words, and numbers come in threes.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
_open: WeakValueDictionary[str, PreTrainedTokenizerBase] = WeakValueDictionary()  # by the identity of their files
Lines = Literal["keep", "join"]  # what becomes of the line breaks inside a paragraph
# A word is the same at the start of a caption and within, in a title and in a sentence.
CAPTION = normalizers.Sequence(
    [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Prepend(" ")]
)
JOIN = normalizers.Replace(Regex(r"(?<=\S)[ \t]*\r?\n(?=\S)"), " ")  # a line of blanks is an empty one


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte, by the byte's value (GPT-2's table)."""
    table = {ord(symbol): symbol for symbol in pre_tokenizers.ByteLevel.alphabet() if ord(symbol) < 256}
    spare = (symbol for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()) if ord(symbol) >= 256)
    return [table[byte] if byte in table else next(spare) for byte in range(256)]


def train_tokenizer(kind: str, vocabulary: int, texts: Iterable[str], lines: Lines = "keep") -> PreTrainedTokenizerFast:
    """Make a tokenizer in one pass over the texts.

    Args:
        kind: `byte` (256 ids), `char` (one id a character seen), `bpe` (byte-level pairs, no unknown) or `caption` (the
            same of text in lower case, see `CAPTION`), each with the ids of `SPECIAL`.
        vocabulary: number of ids for pairs, at least 261.
        texts: blocks of text.
        lines: `join` makes a line break inside a paragraph a space.
    """
    normalizer = CAPTION if kind == "caption" else JOIN if lines == "join" else None
    if kind == "byte":
        # Sizes of one character are whole tokens: a vocabulary of bytes and no merges.
        tokens = Tokens(models.BPE({symbol: byte for byte, symbol in enumerate(byte_symbols())}, []))
        tokens.add_special_tokens(list(SPECIAL))
        tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokens.decoder = decoders.ByteLevel()
    elif kind == "char":
        seen = set().union(*(set(text) for text in texts))
        vocab = {symbol: number for number, symbol in enumerate((*SPECIAL, *sorted(seen)))}
        tokens = Tokens(models.WordLevel(vocab, unk_token=END))
        tokens.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokens.decoder = decoders.Fuse()
    else:
        tokens = Tokens(models.BPE())
        tokens.normalizer = normalizer  # before pairs are learned
        words = pre_tokenizers.Split(Regex(WORDS), "isolated")
        symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokens.pre_tokenizer = pre_tokenizers.Sequence([words, symbols])
        tokens.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = [MASK if mark == MASK.content else mark for mark in SPECIAL]
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokens.train_from_iterator(texts, trainer)
    tokens.normalizer = normalizer
    marks = {**MARKS, "mask_token": MASK} if kind in PAIRS else MARKS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token=END, bos_token=END, clean_up_tokenization_spaces=False, **marks
    )


def place_of(name: str) -> Path:
    """The folder of a ready tokenizer: the name itself, or inside a run."""
    return Path(name) / "model" / "text" if (Path(name) / "run.json").exists() else Path(name)


def identity(name: str) -> str:
    """What a tokenizer is known by: its name, or the content of its files, which may be another tomorrow."""
    files = [] if name in OWN else sorted(place_of(name).glob("*token*.json"))
    return fingerprint([file.read_bytes().hex() for file in files] or [name])


def load_tokenizer(name: str, lines: Lines = "keep") -> PreTrainedTokenizerBase:
    """A ready tokenizer: a folder, a run's `model/text`, or `hf:` and a hub id, which uses the network.

    Raises:
        UserError: it cannot be loaded.
    """
    place, allowed = place_of(name), f"{', '.join(LOSSLESS)}, a folder, a run, or hf:ID"
    if not place.exists() and not name.startswith("hf:"):  # a mistyped name must not go to the network
        raise UserError(f"--tokenizer {name}: no such folder; allowed: {allowed}")
    try:
        found = AutoTokenizer.from_pretrained(str(place) if place.exists() else name.removeprefix("hf:"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"--tokenizer {name}: no tokenizer there ({reason}); allowed: {allowed}") from error
    require_fast(found, name)
    return _joining(found) if lines == "join" else found


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, not to be changed: whoever has one of the same files at the same time has this one."""
    key = identity(str(folder))
    found = _open.get(key)
    if found is None:
        found = _open[key] = AutoTokenizer.from_pretrained(str(folder))
    return found


def require_fast(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that is written in Python: it does not know which words its tokens come from.

    Raises:
        UserError: it is such a one.
    """
    if not tokenizer.is_fast:
        raise UserError(f"{name}: its tokenizer has no tokenizer.json; give one of the tokenizers library")


@dataclass(frozen=True)
class Template:
    """The ids that a tokenizer puts around one text, or two.

    Attributes:
        start: before the first text.
        between: between the two.
        stop: after the last.
    """

    start: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Template:
        """What a tokenizer does by itself; nothing for one that adds nothing, as those of causal networks."""
        pair = tokenizer("a", "b")
        sides = pair.sequence_ids(0)
        first, second = sides.index(0), sides.index(1)
        end_first, end_second = len(sides) - sides[::-1].index(0), len(sides) - sides[::-1].index(1)
        ids = tuple(pair["input_ids"])
        return cls(ids[:first], ids[end_first:second], ids[end_second:])

    @classmethod
    def for_encoder(cls, tokenizer: PreTrainedTokenizerBase) -> Template:
        """The same; for one that adds nothing but could, as ours, what `with_template` makes it do."""
        found = cls.of(tokenizer)
        if found != cls() or not isinstance(tokenizer.cls_token_id, int) or not isinstance(tokenizer.sep_token_id, int):
            return found
        return cls((tokenizer.cls_token_id,), (tokenizer.sep_token_id,), (tokenizer.sep_token_id,))


def _joining(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, changed so that a line break inside a paragraph is a space to it; as BERT's, to whom it is one."""
    if tokenizer("a b\nb a")["input_ids"] == tokenizer("a b b a")["input_ids"]:
        return tokenizer
    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    own = backend.normalizer
    backend.normalizer = JOIN if own is None else normalizers.Sequence([JOIN, own])
    return _plain(tokenizer)


def _plain(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer as the class that is loaded as it was saved; others, BERT's for one, make parts of it anew."""
    if type(tokenizer) is PreTrainedTokenizerFast:
        return tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,  # type: ignore[attr-defined]
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces, **tokenizer.special_tokens_map,
    )  # fmt: skip


def with_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, changed so that it puts its marks around texts as BERT has them; one that has its way keeps it."""
    if Template.of(tokenizer) != Template.for_encoder(tokenizer):
        _mark(tokenizer, str(tokenizer.sep_token))
    return tokenizer


def with_ends(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, changed so that its texts end as documents do, if it is one of ours; another keeps its way.

    Its separator has the id 2, which transformers' text tower of CLIP takes for an old mistake: it would read a text at
    its rarest token.
    """
    if tokenizer.eos_token == END and isinstance(tokenizer.cls_token_id, int):
        _mark(tokenizer, END)
    return tokenizer


def _mark(tokenizer: PreTrainedTokenizerBase, end: str) -> None:
    """Make a tokenizer put its class token before a text, and a mark behind it."""
    start = str(tokenizer.cls_token)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[attr-defined]
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(start, tokenizer.cls_token_id), (end, tokenizer.convert_tokens_to_ids(end))],
    )  # fmt: skip
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names  # the second one is saved


def without_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, changed so that it puts no marks around texts: a causal network of ours never learns them."""
    if Template.of(tokenizer) != Template():
        plain = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
        tokenizer.backend_tokenizer.post_processor = plain  # type: ignore[attr-defined]
        return _plain(tokenizer)
    return tokenizer


def id_type(tokenizer: PreTrainedTokenizerBase) -> type[np.unsignedinteger]:
    """The smallest type that holds its ids."""
    return np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32


class Encoding:
    """Turns blocks of text into ids fast; equal to the tokenizer's own result.

    Bytes and characters go through one table look-up in numpy, an order of magnitude faster than splitting into
    one-character words; everything else through the tokenizer's threads, a text at a time. What looks like a mark in
    the text is text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
        self.tokenizer, self.kind, self.size = tokenizer, kind, len(tokenizer)
        self.dtype = id_type(tokenizer)
        self.end = end_id(tokenizer)
        backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        backend.no_truncation()  # as its folder may have it
        backend.no_padding()
        self.normalizer = backend.normalizer
        if kind == "char":
            vocab = tokenizer.get_vocab()
            points = {ord(symbol): number for symbol, number in vocab.items() if len(symbol) == 1}
            self.table = np.full(
                max(points, default=0) + 2, self.end, self.dtype
            )  # its last entry: any higher code point
            self.table[list(points)] = list(points.values())

    def __call__(self, texts: list[str]) -> Iterator[np.ndarray]:
        """Ids of each text, without special tokens."""
        if self.kind in ("byte", "char") and self.normalizer is not None:
            texts = [self.normalizer.normalize_str(text) for text in texts]
        if self.kind == "byte":
            for text in texts:
                yield np.frombuffer(text.encode("utf-8"), np.uint8).astype(self.dtype)
        elif self.kind == "char":
            for text in texts:
                points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
                yield self.table[np.minimum(points, len(self.table) - 1)]
        else:
            backend: Any = self.tokenizer.backend_tokenizer
            backend.encode_special_tokens = True
            for encoded in backend.encode_batch_fast(texts, add_special_tokens=False):
                yield np.array(encoded.ids, self.dtype)
            backend.encode_special_tokens = False


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a document: end of text, else separator, else padding.

    Raises:
        UserError: the tokenizer has none of them.
    """
    for number in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        if isinstance(number, int):
            return number
    raise UserError("the tokenizer has no token that could end a document (eos, sep or pad); add one and save it")
