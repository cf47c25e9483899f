"""A causal language model in use: it continues a text, and tells how likely a continuation is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from selfsup.data.tokenizer import end_id
from selfsup.encoder import evaluating
from selfsup.predictors.predictor import TextPredictor


class Generator(TextPredictor):
    """Continues a text, token by token."""

    kind = "generate"
    auto = AutoModelForCausalLM

    def stream(self, prompt: str, tokens: int, temperature: float, top_k: int, seed: int) -> Iterator[int]:
        """New token ids, one by one, until the end of a document or `tokens` of them.

        Keys and values of past tokens are kept; when the window is full, its second half starts a new one.

        Args:
            prompt: text to continue; empty for the start of a document.
            tokens: most tokens to make.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: candidates at each step; 0 for all.
            seed: of the choice among them.
        """
        end, device = end_id(self.tokenizer), next(self.network.parameters()).device
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] or [end]
        choice = torch.Generator(device).manual_seed(seed)
        # transformers renamed the argument in 5.24 and warns of the older name.
        name = "cache" if "cache" in inspect.signature(self.network.forward).parameters else "past_key_values"
        config = self.network.config
        fresh, past = ids[-self.context :], DynamicCache(config=config)  # type: ignore[arg-type]
        window = list(fresh)
        for _ in range(tokens):
            if len(window) > self.context:
                window = window[-(self.context // 2 or 1) :]
                fresh, past = window, DynamicCache(config=config)  # type: ignore[arg-type]
            with evaluating(self.network):  # not around the yield: a generator may be left halfway
                output = self.network(torch.tensor([fresh], device=device), use_cache=True, **{name: past})
                logits = output.logits[0, -1].float()  # (V,)
                if temperature == 0:
                    token = int(logits.argmax())
                else:
                    if 0 < top_k < len(logits):
                        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
                    token = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=choice))
            if token == end:
                return
            yield token
            window.append(token)
            fresh = [token]
