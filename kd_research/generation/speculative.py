"""Speculative decoding: a draft writes ahead, its target reads what was written all at once.

Leviathan, Kalman, Matias 2023, arXiv:2211.17192, algorithm 1: a token x that the draft drew from q
is taken with probability min(1, p(x) / q(x)); the first one that is not is replaced by a draw from
max(0, p - q), normalised. What comes out is distributed as the target's own text, whatever the
draft. Greedy text is the target's greedy text.

The student of a distillation is the draft of its teacher; the share of its tokens that are taken
is, over the target's own text, the mean of sum min(p, q): what the record calls acceptance_rate.

Shapes: T positions of the prompt, N of what is written, V tokens; one row at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd_research.generation.decode import (
    context_of,
    evaluating,
    keeps_a_cache,
    pick,
    probabilities,
    uniforms,
)
from kd_research.generation.settings import GenerationConfig


class Speculated(NamedTuple):
    """What was written after one prompt.

    Attributes:
        tokens: (N,) int64, up to and with the stop token.
        rounds: how often the target read.
        drafted: tokens that the draft wrote.
        tested: those of them that the target came to: all up to the first that it did not take.
        accepted: those of them that it took.
    """

    tokens: Tensor
    rounds: int
    drafted: int
    tested: int
    accepted: int


def replacement(target: Tensor, draft: Tensor) -> Tensor:
    """What a token that is not taken is drawn from, (V,): max(0, p - q), not normalised.

    Where rounding leaves nothing of it, the two are equal, and it is p.

    Args:
        target: p, (V,) float64.
        draft: q, likewise.
    """
    rest = (target - draft).clamp(min=0)
    return rest if bool(rest.sum() > 0) else target


def expected_tokens(acceptance: float, lookahead: int) -> float:
    """The mean number of tokens of a round, (1 - a^(k + 1)) / (1 - a) (equation 1).

    Args:
        acceptance: a, in [0, 1]; as if each token were taken independently of the others.
        lookahead: k.
    """
    if acceptance >= 1:
        return float(lookahead + 1)
    return (1 - acceptance ** (lookahead + 1)) / (1 - acceptance)


def expected_speedup(acceptance: float, lookahead: int, cost: float) -> float:
    """Tokens a second over the target's alone, (1 - a^(k + 1)) / ((1 - a)(k c + 1)) (theorem 3.8).

    It takes the target's reading of k + 1 tokens to last as long as that of one.

    Args:
        acceptance: a.
        lookahead: k.
        cost: c, the time of a step of the draft over one of the target's.
    """
    return expected_tokens(acceptance, lookahead) / (lookahead * cost + 1)


@torch.no_grad()
def speculate(
    target: nn.Module,
    draft: nn.Module,
    prompt: Tensor,
    config: GenerationConfig,
    *,
    lookahead: int,
    seed: int,
    row: int = 0,
) -> Speculated:
    """Text of `target` after one prompt, which `draft` writes ahead.

    Args:
        target: a causal language model, as `generate` takes it.
        draft: another one of the same vocabulary.
        prompt: (T,) token ids, T >= 1.
        config: how tokens are drawn: both models' distributions are cut in this way.
        lookahead: k >= 1, the tokens that the draft writes in a round, fewer at the end.
        seed: of the drawing.
        row: names the text, so that another one is drawn anew.

    Raises:
        ValueError: a value is out of its range, the text would be longer than a model's context, or
            the vocabularies differ in size. Nothing is written then, but in the last case.
    """
    _check(target, draft, prompt, config, lookahead)
    new = config.max_new_tokens
    chances = {
        name: uniforms(seed, 0, [row], new, stream=f"speculative {name}")[0]
        for name in ("draft", "accept", "target")
    }
    text = prompt.tolist()
    end = len(text) + new
    found = {"rounds": 0, "drafted": 0, "tested": 0, "accepted": 0}
    with evaluating(target), evaluating(draft):
        reader, writer = _Reader(target), _Reader(draft)
        while len(text) < end and (len(text) == len(prompt) or text[-1] != config.stop):
            start = len(text)
            ahead = min(lookahead, end - start - 1)
            guesses: list[Tensor] = []
            for place in range(start, start + ahead):
                guesses.append(probabilities(writer.read(text)[-1:], config)[0])
                chance = chances["draft"][place - len(prompt)].view(1)
                text.append(int(pick(guesses[-1].unsqueeze(0), chance)))
            wanted = probabilities(reader.read(text)[-ahead - 1 :], config)
            if guesses and len(guesses[0]) != wanted.shape[1]:
                raise ValueError(
                    f"the target has {wanted.shape[1]} tokens, the draft {len(guesses[0])}; "
                    "speculative decoding needs one vocabulary"
                )
            found["rounds"] += 1
            found["drafted"] += ahead
            text, taken = _judged(text, start, wanted, guesses, chances, len(prompt))
            found["tested"] += min(taken + 1, ahead)
            found["accepted"] += taken
            if config.stop in text[start:]:
                text = text[: text.index(config.stop, start) + 1]
            reader.forget(len(text) - 1)
            writer.forget(len(text) - 1)
    return Speculated(torch.tensor(text[len(prompt) :]), **found)


def _judged(
    text: list[int],
    start: int,
    wanted: Tensor,
    guesses: list[Tensor],
    chances: dict[str, Tensor],
    first: int,
) -> tuple[list[int], int]:
    """The text up to the target's own token of this round, and how many guesses it took.

    Args:
        text: with the draft's tokens from `start` on.
        start: of the round.
        wanted: (k + 1, V), the target's distributions there.
        guesses: k of (V,), the draft's.
        chances: uniform numbers of each position, of the draft, the test, and the target.
        first: position of the first number.
    """
    for number, guess in enumerate(guesses):
        place = start + number
        token, own = text[place], wanted[number].to(guess.device)
        if chances["accept"][place - first] * guess[token] >= own[token]:
            rest = replacement(own, guess).unsqueeze(0)
            chance = chances["target"][place - first].view(1)
            return [*text[:place], int(pick(rest, chance))], number
    last = chances["target"][len(text) - first].view(1)
    return [*text, int(pick(wanted[-1:], last))], len(guesses)


class _Reader:
    """A model that reads a text as it grows, and forgets what is taken back."""

    def __init__(self, model: nn.Module):
        self.model, self.cached = model, keeps_a_cache(model)
        self.past: Any = None
        self.seen = 0  # tokens in the cache
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def read(self, text: list[int]) -> Tensor:
        """(L, V) logits after each token that it had not seen; without a cache after each."""
        given = torch.tensor([text[self.seen :]], device=self.device)
        inputs: dict[str, Any] = {"input_ids": given}
        if self.cached:
            inputs |= {"past_key_values": self.past, "use_cache": True}
        found = self.model(**inputs)
        if self.cached:
            self.past, self.seen = found["past_key_values"], len(text)
        logits: Tensor = found if isinstance(found, Tensor) else found["logits"]
        return logits[0]

    def forget(self, length: int) -> None:
        """Keep the first `length` tokens alone."""
        if self.seen <= length:
            return
        if hasattr(self.past, "crop"):  # a Cache of transformers
            self.past.crop(length - self.seen)  # a negative number is taken off the end
        else:
            self.past = [tuple(part[:, :, :length] for part in layer) for layer in self.past]
        self.seen = length


def _check(
    target: nn.Module, draft: nn.Module, prompt: Tensor, config: GenerationConfig, lookahead: int
) -> None:
    if prompt.ndim != 1 or not len(prompt):
        raise ValueError(
            f"the prompt must be (T,) token ids, T >= 1, got {tuple(prompt.shape)}; "
            "speculate writes one row at a time"
        )
    if lookahead < 1:
        raise ValueError(f"lookahead must be >= 1, got {lookahead}; try lookahead=4")
    for name, model in (("target", target), ("draft", draft)):
        context, length = context_of(model), len(prompt) + config.max_new_tokens - 1
        if context is not None and length > context:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and max_new_tokens={config.max_new_tokens} are "
                f"more than the {name}'s context of {context} tokens; "
                "try a shorter prompt or fewer new tokens"
            )
