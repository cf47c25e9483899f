"""Networks of transformers: those of many families learn, score and are saved; those that cannot say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

import selfsup
from selfsup.data.draw import Draw
from selfsup.data.facts import TextFacts
from selfsup.data.tokenizer import Template, load_tokenizer, train_tokenizer, with_template, without_template
from selfsup.errors import UserError
from selfsup.objective import Batch
from selfsup.objectives import causal_lm, contrastive_text, sentence_order
from selfsup.predictors.generator import Generator
from selfsup.text_encoder import FAR, TextEncoder
from selfsup.text_network import Shape

FACTS = TextFacts(rows=1, tokens=999, vocabulary=261, tokenizer="byte", mask=260)
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 64}  # fmt: skip
ENCODERS = {
    "Albert": {"embedding_size": 8, "classifier_dropout_prob": 0.5},
    "Bert": {},
    "DebertaV2": {"pooler_dropout": 0.5},
    "DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "Electra": {"embedding_size": 8},
    "MPNet": {},
    "ModernBert": {"classifier_pooling": "mean"},
    "Roberta": {"pad_token_id": 1},
}
DECODERS = {
    "Bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    "GPTNeo": {"attention_types": [[["global"], 1]], "num_layers": 1, "num_heads": 2},
    "Llama": {"num_key_value_heads": 1},
}


def config_of(family: str, own: dict, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """A small network of a family."""
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")}
    sizes = {} if family in ("Bloom", "DistilBert") else SIZES
    return getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **{**sizes, **marks, **own})


def texts(*names: str) -> Batch:
    """Two rows of each name, the second one shorter."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name in names:
        found[name] = torch.randint(97, 123, (2, 12), generator=generator)
        found[f"{name}_length"] = torch.tensor([12, 9])
    return found


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_learns_words_and_order_and_is_saved(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = with_template(train_tokenizer("byte", 261, []))
    AutoModelForMaskedLM.from_config(config_of(family, ENCODERS[family], tokenizer)).save_pretrained(tmp_path / "hub")
    tokenizer.save_pretrained(tmp_path / "hub")
    encoder = TextEncoder.from_hub(str(tmp_path / "hub"), "encoder", 32)
    objective = sentence_order.build(sentence_order.Config(context=32), FACTS, {"text": encoder})
    batch, draw = texts("first", "second", "foreign"), Draw(0, 0, torch.arange(2))
    loss = objective.train()(batch, draw)["loss"]
    assert torch.equal(loss, objective(batch, draw)["loss"])  # no rate of dropout is left
    loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in objective.ranker.parameters())
    assert encoder.fresh(1).encode(["some words"]).shape == (1, 16)
    ids = torch.tensor([tokenizer("one", "two")["input_ids"]])
    for predictor in objective.eval().predictors():
        predictor.save(tmp_path / predictor.kind)
        again = predictor.auto.from_pretrained(tmp_path / predictor.kind)
        with torch.no_grad():
            assert torch.allclose(again(input_ids=ids).logits, predictor.network(input_ids=ids).logits, atol=1e-5)
    first, second = ["a day"] * 2, ["a night", "two"]
    assert objective.predictors()[0].scores(first, second).unique().numel() == 2


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_learns_and_writes(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer("byte", 261, [])
    AutoModelForCausalLM.from_config(config_of(family, DECODERS[family], tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.from_hub(str(tmp_path), "decoder", 8)
    objective = causal_lm.build(causal_lm.Config(context=8), FACTS, {"text": encoder})
    batch = {name: value[:, :9] if value.dim() > 1 else value.clamp(max=9) for name, value in texts("tokens").items()}
    objective(batch, Draw(0, 0, torch.arange(2)))["loss"].backward()
    made = [list(Generator(encoder.model, tokenizer, 8).stream("abc", 20, 0, 0, seed)) for seed in (0, 1)]
    assert made[0] == made[1] and 0 < len(made[0]) <= 20
    longest = TextEncoder.from_hub(str(tmp_path), None).context
    assert longest == (FAR if family == "Bloom" else 64)


def test_what_sees_the_next_word_learns_nothing_from_telling_it(tmp_path: Path) -> None:
    tokenizer = with_template(train_tokenizer("byte", 261, []))
    AutoModelForMaskedLM.from_config(config_of("Bert", {}, tokenizer)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    (tmp_path / "a.txt").write_text("some words " * 100)
    recipe = selfsup.recipe("causal_lm", data=tmp_path / "a.txt", init=str(tmp_path / "bert"), context=16, steps=1)
    with pytest.raises(UserError, match="looks back only"):
        selfsup.train(recipe, tmp_path / "run", quiet=True)


def test_a_tokenizer_in_python_is_refused(tmp_path: Path) -> None:
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_causal_network_of_ours_puts_no_marks_around_texts(tmp_path: Path) -> None:
    tokenizer = with_template(train_tokenizer("bpe", 300, ["some words "]))
    plain = tokenizer("some words", add_special_tokens=False)["input_ids"]
    assert tokenizer("some words")["input_ids"] != plain
    without_template(tokenizer).save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again("some words")["input_ids"] == plain and Template.of(again) == Template()
    encoder = TextEncoder.create("decoder", with_template(tokenizer), 16, Shape(1, 2, 16))
    assert encoder.tokenizer("some words")["input_ids"] == plain


def test_bert_s_own_tokenizer_loses_its_marks_for_good(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "some", "words"]
    tokenizer = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    assert tokenizer("some words")["input_ids"] == [2, 5, 6, 3]
    without_template(tokenizer).save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again("some words")["input_ids"] == [5, 6] and (again.cls_token, again.mask_token) == ("[CLS]", "[MASK]")


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_any_network_learns_embeddings(family: str, tmp_path: Path) -> None:
    """Every weight that is trained is in the graph; a pooler, which no vector passes through, is not trained."""
    torch.manual_seed(0)
    plain = train_tokenizer("byte", 261, [])
    tokenizer = with_template(plain) if family in ENCODERS else without_template(plain)
    own = {**ENCODERS, **DECODERS}[family]
    AutoModel.from_config(config_of(family, own, tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.from_hub(str(tmp_path), None, 32)
    objective = contrastive_text.build(contrastive_text.Config(context=32), FACTS, {"text": encoder})
    ids = torch.tensor([[0, 1, 2], [3, 4, -1]])
    batch = {
        "texts": torch.randint(97, 123, (2, 3, 12), generator=torch.Generator().manual_seed(0)),
        "texts_length": torch.tensor([[12, 9, 3], [5, 12, 0]]), "texts_id": ids, "known": ids[:, :1],
    }  # fmt: skip
    draw = Draw(0, 0, torch.arange(2))
    loss = objective.train()(batch, draw)["loss"]
    assert torch.equal(loss, objective(batch, draw)["loss"])  # no rate of dropout is left
    loss.backward()
    for name, weight in objective.named_parameters():
        assert (weight.grad is None) == (not weight.requires_grad) and (weight.requires_grad or "pooler" in name), name
    found = objective.encoders()["text"]
    found.save(tmp_path / "saved")
    texts = ["some words", "a few more words than those"]
    assert torch.allclose(TextEncoder.load(tmp_path / "saved").encode(texts), found.encode(texts), atol=1e-5)
    assert torch.allclose(found.encode(texts).norm(dim=1), torch.ones(2))
