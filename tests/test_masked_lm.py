"""The masked language model against transformers at full logits; what is hidden; texts of unequal length; sharing."""

from __future__ import annotations

import pytest
import torch
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel

from selfsup.data.draw import Draw
from selfsup.data.facts import TextFacts
from selfsup.data.tokenizer import Template, train_tokenizer
from selfsup.data.words import Words
from selfsup.errors import UserError
from selfsup.nn import head as head_module
from selfsup.nn import ragged as ragged_module
from selfsup.nn.masked_words import MaskedWords
from selfsup.nn.ragged import length_groups, marked
from selfsup.nn.sharing import share_blocks
from selfsup.objectives import causal_lm, masked_lm
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape, weights_unshared

TOKENIZER = train_tokenizer("byte", 261, [])
FACTS = TextFacts(rows=1, tokens=1000, vocabulary=261, tokenizer="byte", mask=260)
SHAPE = Shape(layers=2, heads=2, width=32)


def made(**settings: object) -> masked_lm.MaskedLM:
    torch.manual_seed(0)
    encoder = TextEncoder.create("encoder", train_tokenizer("byte", 261, []), 32, SHAPE)
    return masked_lm.build(masked_lm.Config(context=32, **settings), FACTS, {"text": encoder})


def texts(length: list[int]) -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, 256, (len(length), 30), generator=torch.Generator().manual_seed(1))
    return {"tokens": tokens, "tokens_length": torch.tensor(length)}


def test_loss_and_gradient_equal_transformers_at_full_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged_module, "LEAST", 1)  # every length a group of its own
    length = [30, 9, 17, 30, 4]
    objective, batch, draw = made(), texts(length), Draw(0, 0, torch.arange(5))
    views = objective.views(batch, draw)
    objective(batch, draw)["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in objective.network.named_parameters()}
    objective.zero_grad()
    labels = torch.where(views["counted"], views["target"], -100)
    inside = torch.arange(32) < views["length"][:, None]
    reference = objective.network(input_ids=views["input"], attention_mask=inside.long(), labels=labels).loss
    reference.backward()
    assert objective(batch, draw)["loss"].item() == pytest.approx(reference.item(), rel=1e-6)
    for name, weight in objective.network.named_parameters():
        assert torch.allclose(found[name], weight.grad, atol=1e-6), name


def test_logits_in_blocks_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.create("decoder", TOKENIZER, 16, SHAPE)
    objective = causal_lm.build(causal_lm.Config(context=16), FACTS, {"text": encoder})
    batch, draw, found = {"tokens": texts([17] * 3)["tokens"][:, :17], "tokens_length": torch.full((3,), 17)}, None, []
    for most in (1 << 26, 261 * 7):
        monkeypatch.setattr(head_module, "LOGITS", (most, most))
        objective.zero_grad()
        loss = objective(batch, draw)["loss"]
        loss.backward()
        found.append([loss, *(weight.grad.clone() for weight in objective.parameters())])
    for once, blocks in zip(*found, strict=True):
        assert torch.allclose(once, blocks, atol=1e-6)


class TestHiding:
    def hidden(self, unit: str, rate: float = 0.15, epoch: int = 0) -> tuple[torch.Tensor, ...]:
        words = MaskedWords(TOKENIZER, rate, unit)
        ids = TOKENIZER("some words, of several letters each, stand here in a row " * 4, add_special_tokens=False)
        tokens = torch.tensor(ids["input_ids"]).repeat(400, 1)
        row, length, _ = marked(Template((257,), (258,), (258,)), (tokens, torch.full((400,), tokens.shape[1])))
        shown, hidden = words.hide(row, length, Draw(0, epoch, torch.arange(400)))
        return row, shown, hidden

    def test_shares(self) -> None:
        row, shown, hidden = self.hidden("token")
        assert not hidden[:, 0].any() and not hidden[:, -1].any()
        assert set(hidden.sum(1).tolist()) == {round(0.15 * (row.shape[1] - 2))}
        masked, kept = (shown == 260)[hidden], (shown == row)[hidden]
        assert masked.float().mean() == pytest.approx(0.8, abs=0.02)
        assert kept.float().mean() == pytest.approx(0.1 + 0.1 / 256, abs=0.015)
        assert torch.equal(shown[~hidden], row[~hidden]) and not torch.isin(shown[hidden], torch.arange(256, 260)).any()

    def test_other_places_in_another_epoch(self) -> None:
        assert not torch.equal(self.hidden("token", epoch=0)[2], self.hidden("token", epoch=1)[2])
        assert torch.equal(self.hidden("token", epoch=-1)[2], self.hidden("token", epoch=-1)[2])

    def test_words_are_whole(self) -> None:
        row, _, hidden = self.hidden("word")
        begins = torch.from_numpy(Words.of(TOKENIZER).begins)[row]
        inside = ~begins[:, 2:-1]  # goes on with the word of the token before
        assert torch.equal(hidden[:, 2:-1][inside], hidden[:, 1:-2][inside])
        assert hidden.float().mean() == pytest.approx(0.15, abs=0.006)

    def test_words_of_bytes_outside_ascii(self) -> None:
        begins = Words.of(TOKENIZER).begins
        for text, words in (("你好。", 3), ("été fini", 2), ("एक दो", 2)):
            ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
            assert begins[ids[1:]].sum() + 1 == words

    def test_signs_of_word_pieces_in_a_text_make_no_word_pieces(self) -> None:
        tokenizer = train_tokenizer("bpe", 400, ["## A head\n\n##### another one\n" * 20])
        words = Words.of(tokenizer)
        ids = tokenizer("## another A3", add_special_tokens=False)["input_ids"]
        assert "##" in tokenizer.get_vocab() and words.begins[ids].sum() < len(ids) and not words.opens.all()

    def test_spans_are_long(self) -> None:
        for unit, low, high in (("token", 1.0, 1.4), ("span", 3.0, 5.0)):
            hidden = self.hidden(unit)[2].int()
            runs = int((hidden.diff(dim=1) == 1).sum())
            assert low < int(hidden.sum()) / runs < high
            assert hidden.float().mean() == pytest.approx(0.15, abs=0.006)

    def test_a_span_shares_its_fate(self) -> None:
        _, shown, hidden = self.hidden("span")
        masked, both = (shown == 260), hidden[:, 1:] & hidden[:, :-1]
        assert (masked[:, 1:] == masked[:, :-1])[both].float().mean() > 0.85  # 0.68 if each token had its own

    def test_a_tokenizer_without_a_mask(self) -> None:
        facts = TextFacts(rows=1, tokens=9, vocabulary=9, tokenizer="given")
        with pytest.raises(UserError, match="no mask token"):
            masked_lm.backbones(masked_lm.Config(), facts)


def test_groups_hold_every_row_once_and_pad_little() -> None:
    length = torch.randint(1, 128, (300,), generator=torch.Generator().manual_seed(0))
    groups = length_groups(length)
    assert sorted(torch.cat(groups).tolist()) == list(range(300)) and len(groups) > 3
    computed = sum(len(rows) * int(length[rows].max()) for rows in groups)
    assert computed < 1.25 * int(length.sum()) < 300 * 128


@pytest.mark.parametrize("layers", [2, 12])
def test_shared_blocks_equal_albert(layers: int) -> None:
    """BERT with shared blocks is ALBERT, weight for weight."""
    torch.manual_seed(0)
    common = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
              "num_hidden_layers": layers, "max_position_embeddings": 16, "hidden_act": "gelu",
              "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
    ours = BertModel(BertConfig(**common), add_pooling_layer=False)
    share_blocks(ours)
    theirs = AlbertModel(AlbertConfig(**common, embedding_size=32), add_pooling_layer=False)
    theirs.encoder.embedding_hidden_mapping_in.load_state_dict({"weight": torch.eye(32), "bias": torch.zeros(32)})
    theirs.embeddings.load_state_dict(ours.embeddings.state_dict())
    block, layer = ours.encoder.layer[0], theirs.encoder.albert_layer_groups[0].albert_layers[0]
    pairs = [
        (block.attention.self.query, layer.attention.query), (block.attention.self.key, layer.attention.key),
        (block.attention.self.value, layer.attention.value), (block.attention.output.dense, layer.attention.dense),
        (block.attention.output.LayerNorm, layer.attention.LayerNorm), (block.intermediate.dense, layer.ffn),
        (block.output.dense, layer.ffn_output), (block.output.LayerNorm, layer.full_layer_layer_norm),
    ]  # fmt: skip
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())
    ids = torch.randint(0, 50, (3, 16))
    first, second = ours.eval()(ids).last_hidden_state, theirs.eval()(ids).last_hidden_state
    assert torch.allclose(first, second, atol=1e-5)
    first.square().sum().backward()
    second.square().sum().backward()
    for mine, other in pairs:
        assert torch.allclose(mine.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_a_shared_network_has_an_eighth_of_the_weights(family: str) -> None:
    tokenizer, shape = train_tokenizer("byte", 261, []), Shape(layers=12, heads=4, width=128, share=True, embedding=32)
    encoder = TextEncoder.create(family, tokenizer, 32, shape)
    count = sum(weight.numel() for weight in encoder.module.parameters())
    assert count <= weights_unshared(family, tokenizer, 32, shape) / 8
    two = Shape(layers=2, heads=4, width=128, share=True, embedding=32)  # all later blocks add nothing
    assert count == sum(w.numel() for w in TextEncoder.create(family, tokenizer, 32, two).module.parameters())


def test_windows_grow_and_every_token_is_told() -> None:
    encoder = TextEncoder.create("decoder", TOKENIZER, 16, SHAPE)
    objective = causal_lm.build(causal_lm.Config(context=16, context_start=4), FACTS, {"text": encoder})
    batch, draw, seen = {**texts([17, 11]), "tokens_length": torch.tensor([17, 11])}, Draw(0, 0, torch.arange(2)), []
    batch["tokens"] = batch["tokens"][:, :17]
    for progress in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0):
        objective.after_step(progress)
        views = objective.views(batch, draw)
        seen.append(views["input"].shape[-1])
        assert views["target"].flatten(1)[:, :16].equal(batch["tokens"][:, 1:])
        assert int(objective(batch, draw)["count"]) == 26
    assert seen == [4, 4, 8, 8, 16, 16]
    objective.after_step(0.3)  # the plan has become longer
    assert objective.window == 16
    objective.window.fill_(4)
    assert objective.eval().views(batch, draw)["input"].shape == (2, 16)
    with pytest.raises(ValueError, match="--context-start 5: allowed are halves of --context 16: 8, 4, 2, 1"):
        causal_lm.Config(context=16, context_start=5)
