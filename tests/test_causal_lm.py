"""The causal language model against `GPT2LMHeadModel` and the definition of its loss; causality; generation."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from selfsup.data.draw import Draw
from selfsup.data.facts import TextFacts
from selfsup.data.tokenizer import train_tokenizer
from selfsup.errors import UserError
from selfsup.objectives import causal_lm
from selfsup.ops.language import bits_per_byte, token_loss
from selfsup.predictors.generator import Generator
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape

FACTS = TextFacts(rows=1, tokens=1000, vocabulary=261, tokenizer="byte")
DRAW = Draw(0, 0, torch.arange(4))


@pytest.fixture
def objective() -> causal_lm.CausalLM:
    torch.manual_seed(0)
    tokenizer = train_tokenizer("byte", 261, [])
    encoder = TextEncoder.create("decoder", tokenizer, 16, Shape(layers=2, heads=2, width=32))
    return causal_lm.build(causal_lm.Config(context=16), FACTS, {"text": encoder})


def windows(length: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 256, (4, 17), generator=generator)
    return {"tokens": tokens, "tokens_length": torch.tensor(length)}


def test_first_step_equals_gpt2(objective: causal_lm.CausalLM) -> None:
    config = GPT2Config(
        vocab_size=261, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    reference = GPT2LMHeadModel(config)
    reference.load_state_dict(objective.network.state_dict())
    batch = windows([17] * 4)
    tokens = batch["tokens"]
    losses = objective(batch, DRAW)
    losses["loss"].backward()
    wanted = reference(input_ids=tokens[:, :-1])
    # labels= of transformers shifts inside a window of T; here the window brings its own T + 1st token
    loss = torch.nn.CrossEntropyLoss()(wanted.logits.reshape(-1, 261), tokens[:, 1:].reshape(-1))
    loss.backward()
    assert losses["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    for (name, ours), theirs in zip(objective.network.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6), name


def test_loss_equals_its_definition_on_ragged_windows(objective: causal_lm.CausalLM) -> None:
    length = [17, 5, 2, 9]
    batch = windows(length)
    losses = objective(batch, DRAW)
    total, count = 0.0, 0
    with torch.no_grad():
        for row, stop in zip(batch["tokens"], length, strict=True):
            for t in range(1, stop):
                logits = objective.network(input_ids=row[None, :t]).logits[0, -1].double()
                total, count = total - float(torch.log(logits.exp()[row[t]] / logits.exp().sum())), count + 1
    assert int(losses["count"]) == count == sum(length) - 4
    assert losses["loss"].item() == pytest.approx(total / count, rel=1e-5)
    assert losses["trivial"].item() == pytest.approx(math.log(261))


def test_a_later_token_never_changes_an_earlier_logit(objective: causal_lm.CausalLM) -> None:
    tokens = windows([17] * 4)["tokens"][:, :16]
    objective.eval()
    before = objective.network(input_ids=tokens).logits
    for t in range(1, 16):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 256
        assert torch.equal(objective.network(input_ids=changed).logits[:, :t], before[:, :t])


def test_tokens_beyond_a_rows_length_count_nothing(objective: causal_lm.CausalLM) -> None:
    batch = windows([17, 5, 2, 9])
    other = {**batch, "tokens": batch["tokens"].clone()}
    other["tokens"][1, 5:] = 7
    assert torch.equal(objective(batch, DRAW)["loss"], objective(other, DRAW)["loss"])


def test_token_loss_and_bits_per_byte() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 0.0]])
    nats, correct = token_loss(logits, torch.tensor([1, 1]))
    assert nats.tolist() == pytest.approx([math.log(4 / 3), math.log(math.exp(5) + 1)])
    assert correct.tolist() == [True, False]
    assert bits_per_byte(8 * math.log(2), 2) == pytest.approx(4)


class TestGenerator:
    def test_greedy_equals_transformers(self, objective: causal_lm.CausalLM) -> None:
        predictor = objective.predictors()[0]
        ids = predictor.tokenizer("To be", add_special_tokens=False)["input_ids"]
        ours = list(predictor.stream("To be", 10, temperature=0, top_k=0, seed=0))
        theirs = objective.network.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False)[
            0, len(ids) :
        ].tolist()
        assert ours == theirs[: len(ours)] and len(ours) > 0

    def test_goes_on_past_the_window_and_repeats_by_seed(self, objective: causal_lm.CausalLM) -> None:
        predictor = objective.predictors()[0]

        def sample(seed: int) -> list[int]:
            return list(predictor.stream("abc", 60, temperature=1.0, top_k=5, seed=seed))

        assert sample(1) == sample(1) != sample(2)
        assert len(sample(1)) > 16

    def test_window_slides_without_changing_its_logits(self, objective: causal_lm.CausalLM) -> None:
        """Past the window the next token is the likeliest after the second half of it."""
        predictor = objective.predictors()[0]
        text = "0123456789abcdef"  # fills the window of 16
        made = list(predictor.stream(text, 2, temperature=0, top_k=0, seed=0))
        window = (list(text.encode()) + made[:1])[-8:]
        logits = objective.network(input_ids=torch.tensor([window])).logits[0, -1]
        assert made[1] == int(logits.argmax())

    def test_saved_and_loaded(self, objective: causal_lm.CausalLM, tmp_path) -> None:
        predictor = objective.predictors()[0]
        predictor.save(tmp_path)
        loaded = Generator.load(tmp_path)
        text = "Once upon"
        assert list(loaded.stream(text, 8, 0, 0, 0)) == list(predictor.stream(text, 8, 0, 0, 0))


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(UserError, match="--width 30 is no multiple of --heads 4; try --width 32"):
        TextEncoder.create("decoder", train_tokenizer("byte", 261, []), 16, Shape(1, 4, 30))


def test_encoder_ignores_padding_and_batch(objective: causal_lm.CausalLM) -> None:
    encoder = objective.encoders()["text"]
    texts = ["a", "a much longer text", "", "b"]
    together = encoder.encode(texts)
    alone = torch.cat([encoder.encode([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5) and together.shape == (4, 32)
    assert [layer.shape for layer in encoder.layers(texts)] == [(4, 32)] * 2
