"""A causal language model in use: it continues a text, and tells how likely a continuation is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from selfsup.data.tokenizer import end_id
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.nn.head import token_losses
from selfsup.nn.ragged import passes
from selfsup.predictors.predictor import TextPredictor

BATCH = 64  # texts scored at once


def nucleus(chances: Tensor, top_p: float) -> Tensor:
    """(V,) probabilities, 0 but for the smallest set of likeliest tokens that has `top_p` together.

    Holtzman et al. 2020 (arXiv 1904.09751), section 3.1; what is left is not scaled up to 1.
    """
    if top_p == 1:
        return chances
    ordered, token = chances.sort(descending=True, stable=True)
    likelier = ordered.cumsum(0).roll(1)  # probability of all tokens before each
    likelier[0] = 0
    return torch.where(likelier < top_p, ordered, 0.0)[token.argsort()]


class Generator(TextPredictor):
    """Continues a text, token by token."""

    kind = "generate"
    auto = AutoModelForCausalLM

    def stream(
        self,
        prompt: str | Sequence[int],
        tokens: int,
        temperature: float,
        top_k: int,
        seed: int,
        top_p: float = 1.0,
    ) -> Iterator[int]:
        """New token ids, one by one, until the end of a document or `tokens` of them.

        Keys and values of past tokens are kept; when the window is full, its second half starts a new one.

        Args:
            prompt: text to continue, or its ids; empty for the start of a document.
            tokens: most tokens to make.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: candidates at each step; 0 for all.
            seed: of the choice among them.
            top_p: of these candidates only the likeliest that have this probability together; 1 for all.

        Raises:
            UserError: `top_p` is not in (0, 1].
        """
        if not 0 < top_p <= 1:
            raise UserError(f"--top-p {top_p}: allowed is a share of the probability, above 0 and at most 1")
        end, device = end_id(self.tokenizer), next(self.network.parameters()).device
        if isinstance(prompt, str):
            prompt = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = list(prompt) or [end]
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
                    chances = nucleus((logits / temperature).softmax(0), top_p)
                    token = int(torch.multinomial(chances, 1, generator=choice))
            if token == end:
                return
            yield token
            window.append(token)
            fresh = [token]

    def _joined(self, prompt: str, continuation: str) -> tuple[list[int], int]:
        """Ids of a prompt with its continuation, and how many of them are the continuation's."""
        before, after = (
            self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in (prompt, continuation)
        )
        if not after:
            raise UserError("an empty continuation has no likelihood: give some text")
        room = self.context - len(after)
        if room < 1:
            raise UserError(
                f"the continuation {continuation[:30]!r} has {len(after)} tokens, allowed are {self.context - 1}: "
                f"this network reads {self.context} at once; give a shorter one"
            )
        return (before or [end_id(self.tokenizer)])[-room:] + after, len(after)

    def log_likelihood(self, prompts: Sequence[str], continuations: Sequence[str]) -> tuple[Tensor, Tensor]:
        """How likely each continuation is after the prompt that stands at its place.

        Of a prompt that does not fit into the window with its continuation, the end is seen.

        Args:
            prompts: N texts; an empty one is the start of a document.
            continuations: N texts, tokenized apart from their prompts.

        Returns:
            (N,) float32, log-probability of the whole continuation in nats, the sum over its tokens; and (N,) int64,
            how many tokens these are. Both on the CPU.

        Raises:
            UserError: a continuation that is empty, or longer than the window less one token.
        """
        pairs = [self._joined(*pair) for pair in zip(prompts, continuations, strict=True)]
        return self.likelihood_in(pairs), torch.tensor([count for _, count in pairs], dtype=torch.int64)

    def likelihood_in(self, pairs: Sequence[tuple[list[int], int]]) -> Tensor:
        """How likely the last tokens of windows are, given those before them: (N,) float32 nats on the CPU.

        Args:
            pairs: ids of each of N windows, at most `context`, and how many of the last are told, fewer than all.
        """
        device, found = next(self.network.parameters()).device, torch.empty(len(pairs))
        with evaluating(self.network):
            for start in range(0, len(pairs), BATCH):
                batch = pairs[start : start + BATCH]
                length = torch.tensor([len(ids) for ids, _ in batch])
                width = int(length.max())
                tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch])  # (B, W)
                first = length - torch.tensor([count for _, count in batch])  # place of the first token that is scored
                place = torch.arange(1, width)
                scored = (place >= first[:, None]) & (place < length[:, None])  # (B, W - 1)
                inputs = tokens[:, :-1].to(device)
                for rows, states, _, _ in passes(self.network, inputs, (length - 1).to(device)):
                    rows = rows.cpu()
                    wanted = scored[rows, : states.shape[1]]
                    target = tokens[rows, 1 : states.shape[1] + 1][wanted]
                    nats, _ = token_losses(self.network, states[wanted.to(device)], target.to(device))  # (M,)
                    owner = wanted.nonzero()[:, 0]
                    found[start + rows] = -torch.zeros(len(rows)).index_add(0, owner, nats.float().cpu())
        return found
