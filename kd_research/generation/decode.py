"""Text from any causal language model, token by token.

For models that are called as Hugging Face's decoders are: `model(input_ids=...)` gives logits, or
"logits"; with `use_cache=True` and `past_key_values=...` also the "past_key_values" of all
positions so far. A model that takes no cache is run on the whole text at each token.

What is drawn depends on (seed, step, row, position) and the row's own logits: not on the batch
size, nor on the neighbours. (Their floating-point rounding differs by batch size: a draw that lies
within 1e-6 of the border between two tokens may go the other way.)

Shapes: B rows of text, T positions of the prompt, N of what is written, V tokens.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd_research.generation.settings import GenerationConfig

Propose = Callable[[Tensor, Tensor, Tensor], Tensor]


class Generated(NamedTuple):
    """What was written after a batch of prompts.

    Attributes:
        tokens: (B, N) int64, N <= max_new_tokens; `pad` after a row's stop token.
        mask: (B, N) bool, True up to and with the stop token.
        forward_tokens: tokens that went through the model: what it cost.
    """

    tokens: Tensor
    mask: Tensor
    forward_tokens: int


def keeps_a_cache(model: nn.Module) -> bool:
    """Whether `model` decodes token by token with a cache of keys and values."""
    return {"input_ids", "use_cache", "past_key_values"} <= _arguments(model)


def takes_padding(model: nn.Module) -> bool:
    """Whether `model` can be told of padding, and so reads rows of different lengths at once."""
    return "attention_mask" in _arguments(model)


def context_of(model: nn.Module) -> int | None:
    """The most positions that `model` sees; None where it names no limit."""
    found = getattr(model, "context", None)
    if found is None:
        found = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Tensor,
    config: GenerationConfig,
    *,
    seed: int,
    step: int = 0,
    rows: Tensor | None = None,
    attention_mask: Tensor | None = None,
    pad: int = 0,
    propose: Propose | None = None,
) -> Generated:
    """What `model` writes after each prompt, in eval mode; it is put back as it was.

    Args:
        model: a causal language model.
        prompts: (B, T) token ids, T >= 1; padded on the left where lengths differ.
        config: how a token is drawn.
        seed: of the drawing.
        step: names the batch, so that a later one draws anew.
        rows: (B,) int64, names the rows; None is 0 to B - 1.
        attention_mask: (B, T), 0 at the padding; None: there is none.
        pad: the token id after a row's end.
        propose: `propose(logits, tokens, mask)` gives the (B, V) logits to draw from, of this
            model's logits (B, V), the text so far (B, T + n), and its mask, 0 at the padding.

    Raises:
        ValueError: the text would be longer than the model's context, a prompt is empty, or the
            model cannot be told of padding. Nothing is written then.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    prompts, mask = _trimmed(prompts, attention_mask)
    _check(model, prompts, mask, config.max_new_tokens)
    number, length = prompts.shape
    names = range(number) if rows is None else rows.tolist()
    chances = uniforms(seed, step, names, config.max_new_tokens)
    tokens, mask = prompts.to(device), mask.to(device)
    padded = not bool(mask.all())
    ended = torch.zeros(number, dtype=torch.bool, device=device)
    written: list[Tensor] = []
    forward_tokens, past = 0, None
    cached = keeps_a_cache(model)
    with evaluating(model):
        for place in range(config.max_new_tokens):
            given = tokens if past is None else tokens[:, -1:]
            logits, past = next_logits(model, given, mask if padded else None, past, cached)
            forward_tokens += given.numel()
            if propose is not None:
                logits = propose(logits, tokens, mask)
            drawn = draw(logits, chances[:, place], config).to(device)
            drawn = torch.where(ended, pad, drawn)
            written.append(~ended)
            tokens = torch.cat([tokens, drawn.unsqueeze(1)], dim=1)
            mask = torch.cat([mask, mask.new_ones(number, 1)], dim=1)
            if config.stop is not None:
                ended = ended | (drawn == config.stop)
                if bool(ended.all()):
                    break
    return Generated(tokens[:, length:], torch.stack(written, dim=1), forward_tokens)


def next_logits(
    model: nn.Module, given: Tensor, mask: Tensor | None, past: Any, cached: bool
) -> tuple[Tensor, Any]:
    """The logits after the last of the given tokens, (B, V), and the cache of all of them."""
    inputs = padded_inputs(model, given, mask)
    if cached:
        inputs |= {"past_key_values": past, "use_cache": True}
    found = model(**inputs)
    logits = found if isinstance(found, Tensor) else found["logits"]
    return logits[:, -1], found["past_key_values"] if cached else None


def padded_inputs(model: nn.Module, tokens: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """What a decoder is called with to read tokens, (B, T), that are padded on the left.

    Args:
        model: the decoder.
        tokens: (B, T) ids.
        mask: (B, positions before these + T), 0 at the padding; None: there is none.
    """
    inputs: dict[str, Any] = {"input_ids": tokens}
    if mask is not None:  # Hugging Face's decoders would count the padding as positions
        inputs["attention_mask"] = mask
        if "position_ids" in _arguments(model):
            positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -tokens.shape[1] :]
    return inputs


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths as one (B, T) int64, and its mask, 0 at the padding."""
    length = max(map(len, rows))
    tokens = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return tokens, mask


def _arguments(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _trimmed(prompts: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Without the columns that are padding in every row; the mask is int64."""
    mask = torch.ones_like(prompts) if attention_mask is None else attention_mask.long()
    if mask.shape != prompts.shape:
        raise ValueError(
            f"attention_mask is {tuple(mask.shape)}, the prompts are {tuple(prompts.shape)}; "
            "give it one value for each token"
        )
    if prompts.shape[1] == 0 or not bool(mask[:, -1].all()):
        raise ValueError(
            "each prompt needs a token in its last column: pad on the left, and begin an empty "
            "one with the end of text"
        )
    first = int(mask.any(dim=0).int().argmax())
    return prompts[:, first:], mask[:, first:]


def _check(model: nn.Module, prompts: Tensor, mask: Tensor, new: int) -> None:
    if not bool(mask.all()) and not takes_padding(model):
        raise ValueError(
            f"{type(model).__name__} takes no attention_mask, so it would read the padding; "
            "give it prompts of one length"
        )
    context, length = context_of(model), prompts.shape[1]
    if context is not None and length + new - 1 > context:  # the last token is not read
        room = context - length + 1
        most = f"try max_new_tokens={room}, or " if room > 0 else ""
        raise ValueError(
            f"a prompt of {length} tokens and max_new_tokens={new} are more than the model's "
            f"context of {context} tokens; {most}a shorter prompt"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and after it each module in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def uniforms(
    seed: int, step: int, rows: range | list[int], number: int, stream: str = "text"
) -> Tensor:
    """(B, number) float64 in [0, 1); each row's from a generator of its own.

    Args:
        seed: of the drawing.
        step: names the batch.
        rows: name the rows.
        number: of each row; a larger one begins with the same values.
        stream: what they are for; two streams are independent.
    """
    found = torch.empty(len(rows), number, dtype=torch.float64)
    for place, row in enumerate(rows):
        generator = random.Random(f"{stream} {seed} {step} {row}")
        found[place] = torch.tensor([generator.random() for _ in range(number)], dtype=found.dtype)
    return found


def probabilities(logits: Tensor, config: GenerationConfig) -> Tensor:
    """What a token is drawn by: (B, V) float64, zero at what top-k and top-p cut.

    Args:
        logits: (B, V), any float dtype.
        config: its temperature, top_k and top_p.
    """
    if logits.device.type == "mps":  # knows no float64
        logits = logits.cpu()
    logits = logits.double()
    if config.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    chances = (logits / config.temperature).softmax(dim=1)
    if config.top_k is None and config.top_p == 1:
        return chances
    ordered, order = chances.sort(dim=1, descending=True, stable=True)
    if config.top_k is not None:
        ordered[:, config.top_k :] = 0
        ordered /= ordered.sum(dim=1, keepdim=True)
    if config.top_p < 1:
        ordered[ordered.cumsum(dim=1) - ordered >= config.top_p] = 0
    ordered /= ordered.sum(dim=1, keepdim=True)
    return torch.zeros_like(chances).scatter_(1, order, ordered)


def draw(logits: Tensor, chances: Tensor, config: GenerationConfig) -> Tensor:
    """One token for each row, (B,) int64: the inverse of the cumulative distribution.

    Args:
        logits: (B, V).
        chances: (B,) float64 in [0, 1), a uniform number for each row.
        config: how the distribution is cut.
    """
    return pick(probabilities(logits, config), chances)


def pick(weights: Tensor, chances: Tensor) -> Tensor:
    """The token at which the cumulative weight passes a share of the whole, (B,) int64.

    Args:
        weights: (B, V) float64, >= 0, of any positive sum.
        chances: (B,) float64 in [0, 1).
    """
    cumulative = weights.cumsum(dim=1)
    wanted = chances.to(weights.device).unsqueeze(1) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, wanted, right=True).squeeze(1)
    last = weights.shape[1] - 1 - (weights > 0).int().flip(1).argmax(dim=1)
    return torch.minimum(found, last)  # where rounding makes the share the whole
