"""A finished run in use: nucleus sampling and stop strings, likelihoods, filled masks, ranked passages."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

import selfsup
from selfsup import predict
from selfsup.data.tokenizer import train_tokenizer
from selfsup.errors import UserError
from selfsup.predict import continuations, fill, generate, load_predictor, passages_of
from selfsup.predictors import generator as module
from selfsup.predictors.filler import Filler
from selfsup.predictors.generator import Generator, nucleus
from selfsup.predictors.ranker import Ranker
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape

CONTEXT = 16
SMALL = {"tokenizer": "byte", "context": 32, "layers": 1, "heads": 2, "width": 16, "batch": 4, "steps": 3}
STORY = "The quick brown fox jumps over the lazy dog. It barks. Then all of them go home to sleep. "


@pytest.fixture(scope="module")
def language_model() -> Generator:
    torch.manual_seed(0)
    encoder = TextEncoder.create("decoder", train_tokenizer("byte", 261, []), CONTEXT, Shape(2, 2, 32))
    for weight in encoder.model.parameters():
        nn.init.normal_(weight, std=0.3)  # far from uniform
    return Generator(encoder.model, encoder.tokenizer, CONTEXT)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three objectives by their names, and what was `exported` from that of the masked language model."""
    root = tmp_path_factory.mktemp("predict")
    (root / "story.txt").write_text(STORY * 100)
    for name in ("causal_lm", "masked_lm", "sentence_order"):
        size = {**SMALL, "context": 128} if name == "sentence_order" else SMALL
        selfsup.train(selfsup.recipe(name, data=root / "story.txt", **size), root / name, quiet=True)
    selfsup.export(root / "masked_lm", root / "exported")
    return root


class Always(nn.Module):
    """A network that gives the same probabilities of the next token whatever it reads."""

    def __init__(self, chances: dict[int, float], network: nn.Module) -> None:
        super().__init__()
        self.config = network.config
        logits = torch.full((261,), -torch.inf)
        for token, chance in chances.items():
            logits[token] = math.log(chance)
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids: Tensor, use_cache: bool, past_key_values: object) -> object:
        class Output:
            logits = self.logits.expand(*input_ids.shape, -1).clone()

        return Output()


class TestNucleus:
    @pytest.mark.parametrize(
        ("top_p", "kept"), [(0.01, "a"), (0.49, "a"), (0.51, "ac"), (0.74, "ac"), (0.76, "acb"), (1.0, "abcd")]
    )
    def test_smallest_set_that_reaches_it(self, top_p: float, kept: str) -> None:
        chances = torch.tensor([0.5, 0.2, 0.25, 0.05])
        wanted = [chance if letter in kept else 0.0 for letter, chance in zip("abcd", chances.tolist(), strict=True)]
        assert nucleus(chances, top_p).tolist() == wanted

    @pytest.mark.parametrize(
        ("temperature", "top_k", "top_p", "wanted"),
        [
            (1.0, 0, 1.0, {65: 0.64, 70: 0.17, 80: 0.15, 90: 0.04}),
            (1.0, 0, 0.6, {65: 1.0}),
            (1.0, 0, 0.7, {65: 0.64 / 0.81, 70: 0.17 / 0.81}),
            # square roots 0.8, 0.412, 0.387, 0.2 of 1.8: only two of them reach 0.6
            (2.0, 0, 0.6, {65: 0.66, 70: 0.34}),
            # of the best two the first has 0.66
            (2.0, 2, 0.6, {65: 1.0}),
        ],
    )
    def test_comes_after_temperature_and_top_k(
        self, language_model: Generator, temperature: float, top_k: int, top_p: float, wanted: dict[int, float]
    ) -> None:
        network = Always({65: 0.64, 70: 0.17, 80: 0.15, 90: 0.04}, language_model.network)
        fixed = Generator(network, language_model.tokenizer, CONTEXT)  # type: ignore[arg-type]
        made = list(fixed.stream("", 1000, temperature, top_k, 1, top_p))
        assert {token: made.count(token) / 1000 for token in set(made)} == pytest.approx(wanted, abs=0.05)
        assert made[:100] == list(fixed.stream("", 100, temperature, top_k, 1, top_p))

    def test_of_a_real_network(self, language_model: Generator) -> None:
        ids = language_model.tokenizer("To be", add_special_tokens=False)["input_ids"]
        chances = language_model.network(torch.tensor([ids])).logits[0, -1].softmax(0)
        ordered, token = chances.sort(descending=True)
        kept = set(token[: int((ordered.cumsum(0) < 0.3).sum()) + 1].tolist())
        first = {
            next(language_model.stream("To be", 1, 1.0, 0, seed, top_p=0.3), language_model.tokenizer.eos_token_id)
            for seed in range(60)
        }
        assert first <= kept and 1 < len(kept) < 100

    @pytest.mark.parametrize("top_p", [0.0, -0.1, 1.01, math.nan])
    def test_out_of_range(self, language_model: Generator, top_p: float) -> None:
        with pytest.raises(UserError, match=r"--top-p .*above 0"):
            next(language_model.stream("a", 1, 1.0, 0, 0, top_p=top_p))


class TestLogLikelihood:
    def one_by_one(self, language_model: Generator, prompt: str, continuation: str) -> float:
        """By the network's logits, a text at a time and a token at a time."""
        before, after = list(prompt.encode()) or [256], list(continuation.encode())
        before, total = before[-(CONTEXT - len(after)) :], 0.0
        for number, token in enumerate(after):
            with torch.no_grad():
                logits = language_model.network(torch.tensor([before + after[:number]])).logits[0, -1].double()
            total += float(logits.log_softmax(0)[token])
        return total

    def test_equals_the_logits(self, language_model: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BATCH", 4)
        prompts = ["", "a", "", "the longest prompt of all of them", "abcdefgh", "abcdefgh", "short", "é", "x" * 16]
        continued = ["a", "é🦊", "x" * 15, "a bit more", "ijkl", "i", "fifteen bytes..", "b", "y"]
        found, count = language_model.log_likelihood(prompts, continued)
        pairs = zip(prompts, continued, strict=True)
        assert found.tolist() == pytest.approx([self.one_by_one(language_model, *pair) for pair in pairs], rel=1e-4)
        assert count.tolist() == [len(text.encode()) for text in continued] and found.dtype == torch.float32

    def test_mode_and_order_are_left_alone(self, language_model: Generator) -> None:
        language_model.network.train()
        first, _ = language_model.log_likelihood(["a", "bcd"], ["xyz", "q"])
        second, _ = language_model.log_likelihood(["bcd", "a"], ["q", "xyz"])
        assert language_model.network.training and first.tolist() == pytest.approx(second.flip(0).tolist(), rel=1e-6)
        assert not first.requires_grad

    def test_refuses(self, language_model: Generator) -> None:
        with pytest.raises(UserError, match=r"'x+' has 16 tokens, allowed are 15: this network reads 16"):
            language_model.log_likelihood(["a"], ["x" * 16])
        with pytest.raises(UserError, match="empty continuation"):
            language_model.log_likelihood(["a", "b"], ["x", ""])


def cut_by_hand(text: str, stop: tuple[str, ...]) -> str:
    """The text before the stop string that ends first, and of those that end there the longest."""
    for end in range(1, len(text) + 1):
        starts = [end - len(word) for word in stop if text[:end].endswith(word)]
        if starts:
            return text[: min(starts)]
    return text


class TestStop:
    def saying(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def stream(self: Generator, *_: object) -> Iterator[int]:
            yield from text.encode()

        monkeypatch.setattr(Generator, "stream", stream)

    @pytest.mark.parametrize(
        ("text", "stop", "left"),
        [
            ("one\n\ntwo", ("\n\n",), "one"),
            ("one\ntwo\n", ("\n\n",), "one\ntwo\n"),  # a beginning at the end is released
            ("aaab!", ("aab",), "a"),
            ("stop", ("stop",), ""),
            ("né 狐!", ("狐",), "né "),
            ("abcd", ("d", "bc"), "a"),
            ("no such thing", ("###", "thingy"), "no such thing"),
        ],
    )
    def test_text_ends_before_it(
        self, places: Path, text: str, stop: tuple[str, ...], left: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.saying(text, monkeypatch)
        assert "".join(generate(places / "causal_lm", stop=stop)) == left

    def test_what_may_begin_one_waits(self, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.saying("axyb xyx", monkeypatch)
        assert list(generate(places / "causal_lm", stop=("xyz",))) == ["a", "xyb", " ", "xy", "x"]

    def test_however_the_text_is_cut(self) -> None:
        """Against all ends looked at one by one, for all texts of a few letters in random pieces."""
        choice = random.Random(0)
        words = ["".join(letters) for size in (1, 2, 3) for letters in itertools.product("ab", repeat=size)]
        for letters in itertools.product("ab", repeat=7):
            text, stop = "".join(letters), tuple(choice.sample(words, 2))
            cuts = sorted(choice.sample(range(8), 3))
            pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, 7])]
            assert "".join(predict._before_stop(pieces, stop)) == cut_by_hand(text, stop), (pieces, stop)

    def test_top_p_is_passed_on(self, places: Path) -> None:
        def text(**settings: float) -> str:
            return "".join(generate(places / "causal_lm", "The", tokens=20, top_k=0, **settings))

        assert text(temperature=1, top_p=1e-6) == text(temperature=0) != text(temperature=1)
        with pytest.raises(UserError, match="--top-p 2"):
            text(top_p=2)
        with pytest.raises(UserError, match="--stop ''"):
            next(generate(places / "causal_lm", stop=("a", "")))


def test_a_space_that_begins_the_new_text_is_written(language_model: Generator) -> None:
    """Llama's way of decoding drops the first space of a text."""
    pieces = Tokenizer(models.BPE({"\u2581": 0, "a": 1, "\u2581a": 2, "b": 3}, [("\u2581", "a")]))
    pieces.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    pieces.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces)
    assert tokenizer.decode([2, 3]) == "ab"
    llama = Generator(language_model.network, tokenizer, CONTEXT)
    assert "".join(predict._decoded(llama, [2, 3, 0, 3])) == " ab b"


class TestLoading:
    def test_from_a_run_and_from_an_export(self, places: Path) -> None:
        assert isinstance(load_predictor(places / "causal_lm", Generator), Generator)
        assert isinstance(load_predictor(places / "sentence_order", Ranker), Ranker)
        assert isinstance(load_predictor(places / "sentence_order", Filler), Filler)
        assert isinstance(load_predictor(places / "exported" / "fill", Filler), Filler)

    @pytest.mark.parametrize(
        ("place", "predictor", "said"),
        [
            ("causal_lm", Filler, "causal_lm holds nothing that fills in words; a run of masked_lm or sentence_order"),
            ("masked_lm", Generator, "masked_lm holds nothing that generates text; a run of causal_lm"),
            ("masked_lm", Ranker, "masked_lm holds nothing that ranks passages; a run of sentence_order"),
            ("exported/text", Filler, "text holds nothing that fills in words"),
            ("exported/fill", Generator, "fill holds nothing that generates text"),
            ("none", Filler, "none holds nothing"),
        ],
    )
    def test_another_kind(self, places: Path, place: str, predictor: type, said: str) -> None:
        with pytest.raises(UserError, match=said):
            load_predictor(places / place, predictor)


class TestFill:
    def test_equals_transformers(self, places: Path) -> None:
        folder, text = places / "exported" / "fill", "The [MASK]uick br[MASK]"
        network, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = network(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
        logits[:, tokenizer.all_special_ids] = -torch.inf
        best = logits.softmax(1).topk(4)
        found = fill(places / "masked_lm", text, 4)
        assert found == fill(folder, text, 4) and [len(mask) for mask in found] == [4, 4]
        for guesses, chances, tokens in zip(found, best.values, best.indices, strict=True):
            assert [guess.probability for guess in guesses] == pytest.approx(chances.tolist(), rel=1e-4)
            assert [guess.token for guess in guesses] == [tokenizer.decode([token]) for token in tokens.tolist()]

    def test_refuses(self, places: Path) -> None:
        with pytest.raises(UserError, match=r"no \[MASK\] in the text"):
            fill(places / "masked_lm", "no mask")
        with pytest.raises(UserError, match="--top-k 0"):
            fill(places / "masked_lm", "[MASK]", 0)
        with pytest.raises(UserError, match="tokens with its marks, this network reads 32"):
            fill(places / "masked_lm", "x" * 40 + "[MASK]")


class TestContinuations:
    def test_language_model(self, places: Path) -> None:
        """The softmax over means of the tokens' log-probabilities, by transformers; a space stands between."""
        network = AutoModelForCausalLM.from_pretrained(places / "causal_lm" / "model" / "generate")
        candidates, scores = ["dog.", "a cat", " fox"], []
        for passage in (" dog.", " a cat", " fox"):
            ids = torch.tensor([list(f"The{passage}".encode())])
            with torch.no_grad():
                chances = network(ids).logits[0].log_softmax(-1)
            scores.append(float(chances[2:-1].gather(1, ids[0, 3:, None]).mean()))
        wanted = dict(zip(candidates, torch.tensor(scores).softmax(0).tolist(), strict=True))
        found = continuations(places / "causal_lm", "The", candidates)
        assert dict(found) == pytest.approx(wanted, rel=1e-4)
        assert [text for text, _ in found] == sorted(candidates, key=lambda text: -wanted[text])
        assert sum(chance for _, chance in found) == pytest.approx(1)

    def test_white_space_is_put_in_only_where_there_is_none(
        self, places: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def log_likelihood(self: Generator, prompts: list[str], passages: list[str]) -> tuple[Tensor, Tensor]:
            asked.append((prompts, passages))
            return torch.arange(len(passages)).float(), torch.ones(len(passages))

        monkeypatch.setattr(Generator, "log_likelihood", log_likelihood)
        assert [text for text, _ in continuations(places / "causal_lm", "A", ["b", "\nc"])] == ["\nc", "b"]
        continuations(places / "causal_lm", "A\n", ["b"])
        continuations(places / "causal_lm", "", ["b"])
        assert asked == [(["A", "A"], [" b", "\nc"]), (["A\n"], ["b"]), ([""], ["b"])]

    def test_means_not_sums(self, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        nats, count = torch.tensor([-3.0, -8.0]), torch.tensor([1, 8])
        monkeypatch.setattr(Generator, "log_likelihood", lambda *_: (nats, count))
        (best, chance), _ = continuations(places / "causal_lm", "A", ["short", "long"])
        assert best == "long" and chance == pytest.approx(1 / (1 + math.exp(-2)))

    def test_run_that_learned_the_order(self, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its own scores, also where it is given as an exported folder."""
        seen = []

        def scores(self: Ranker, first: list[str], second: list[str]) -> Tensor:
            seen.append((first, second))
            return torch.tensor([0.0, math.log(3)])

        monkeypatch.setattr(Ranker, "scores", scores)
        for place in ("sentence_order", "sentence_order/model/order"):
            found = continuations(places / place, "It barks.", ["one", "two"])
            assert [text for text, _ in found] == ["two", "one"]
            assert [chance for _, chance in found] == pytest.approx([0.75, 0.25])
        assert seen[0] == (["It barks."] * 2, [" one", " two"])

    def test_real_scores_of_the_order(self, places: Path) -> None:
        candidates = ["Then all of them go home.", "It barks."]
        scores = load_predictor(places / "sentence_order", Ranker).scores([STORY] * 2, candidates)
        wanted = dict(zip(candidates, scores.softmax(0).tolist(), strict=True))
        assert dict(continuations(places / "sentence_order", STORY, candidates)) == pytest.approx(wanted)

    def test_one_is_enough_and_none_is_not(self, places: Path) -> None:
        assert continuations(places / "causal_lm", "", ["a"]) == [("a", 1.0)]
        for candidates in ([], ["a", ""]):
            with pytest.raises(UserError, match="give passages"):
                continuations(places / "causal_lm", "The", candidates)
        with pytest.raises(UserError, match="ranks passages; a run of sentence_order or causal_lm"):
            continuations(places / "masked_lm", "The", ["a"])

    def test_passages_of_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "c.txt"
        file.write_bytes("\ufeffone line\r\n\n  \n two [b]x \n".encode())
        assert passages_of(file) == ["one line", "two [b]x"]
        file.write_text("\n \n")
        with pytest.raises(UserError, match="no passage in it"):
            passages_of(file)
        file.write_bytes(b"\xe9t\xe9")
        with pytest.raises(UserError, match="not UTF-8"):
            passages_of(file)
