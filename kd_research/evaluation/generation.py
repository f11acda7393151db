"""Text that a language model makes: how fast, with what memory, and samples of it to look at.

For models that are called as Hugging Face's decoders are: `model(input_ids=..., use_cache=True,
past_key_values=...)` gives "logits" and the "past_key_values" of all positions so far.

Shapes: B rows of text, T positions, V tokens of the vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kd_research.data.module import DataModule
from kd_research.generation.decode import generate, keeps_a_cache
from kd_research.generation.settings import GenerationConfig
from kd_research.interfaces import Inputs

Known = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]  # what, how to find it

NUM_STEPS = 32  # tokens of one timed decoding
NUM_PREFILLS = 100  # timed passes over a whole row
MAX_SECONDS = 2.0  # of each speed
NUM_SAMPLES = 3
SAMPLE_TOKENS = 128
SPEEDS = (
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "batch_decode_tokens_per_second",
    "kv_bytes_per_token",
)


@torch.no_grad()
def speeds(model: nn.Module, one: Inputs, batch_size: int) -> dict[str, float | None]:
    """What decoding costs, of a model in eval mode; all None where it keeps no cache.

    Args:
        model: on the device where it is to be measured.
        one: an example of one row of T >= 4 tokens, on that device.
        batch_size: rows of batch_decode_tokens_per_second.

    Returns:
        prefill_tokens_per_second: of a row of T tokens at once; decode_tokens_per_second: one
        token at a time after T / 2, at batch 1; batch_decode_tokens_per_second: the same for all
        rows of a batch together; each from the median of its passes. kv_bytes_per_token: of the
        cache, 2 * layers * kv heads * head size * bytes, as it is measured.
    """
    if not isinstance(one, dict) or "input_ids" not in one or not keeps_a_cache(model):
        return dict.fromkeys(SPEEDS)
    tokens = one["input_ids"][:1]
    length = tokens.shape[1]
    if length < 4:
        return dict.fromkeys(SPEEDS)
    prefills: list[float] = []
    begin = time.perf_counter()
    while len(prefills) < 5 or (
        len(prefills) < NUM_PREFILLS and time.perf_counter() - begin < MAX_SECONDS / 4
    ):
        prefills.append(_timed(lambda: _step(model, tokens, None))[0])
    cache = _step(model, tokens, None)["past_key_values"]
    return {
        "prefill_tokens_per_second": length / statistics.median(prefills[1:]),
        "decode_tokens_per_second": 1 / _decode_seconds(model, tokens),
        "batch_decode_tokens_per_second": batch_size
        / _decode_seconds(model, tokens.expand(batch_size, -1).contiguous()),
        "kv_bytes_per_token": cache_bytes(cache) / length,
    }


def _decode_seconds(model: nn.Module, tokens: Tensor) -> float:
    """The median of one step, each row a token, after half of the tokens."""
    start = tokens.shape[1] // 2
    num_steps = min(NUM_STEPS, tokens.shape[1] - start)
    found: list[float] = []
    begin = time.perf_counter()
    while not found or (len(found) < 3 * num_steps and time.perf_counter() - begin < MAX_SECONDS):
        cache = _step(model, tokens[:, :start], None)["past_key_values"]
        for place in range(start, start + num_steps):
            token = tokens[:, place : place + 1]
            seconds, out = _timed(lambda token=token, cache=cache: _step(model, token, cache))
            cache = out["past_key_values"]
            found.append(seconds)
    return statistics.median(found[num_steps // 4 :])


def _step(model: nn.Module, tokens: Tensor, cache: Any) -> Any:
    return model(input_ids=tokens, past_key_values=cache, use_cache=True)


def _timed(run: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    logits = result["logits"]
    if logits.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start, result


def cache_bytes(cache: Any) -> int:
    """The bytes of all keys and values: a nest of tensors, or a Cache of transformers."""
    if hasattr(cache, "layers"):
        cache = [(layer.keys, layer.values) for layer in cache.layers]
    return sum(leaf.nbytes for leaf in tree_leaves(cache) if isinstance(leaf, Tensor))


@torch.no_grad()
def sample_texts(
    student: nn.Module,
    teacher: nn.Module | None,
    data: DataModule,
    seed: int,
    known: Known = lambda _, find: find(),
) -> list[dict[str, str | None]]:
    """What student and teacher write after the same beginnings of the validation split.

    A beginning is the first half of a window; they go on for its other half, at most 128 tokens,
    at temperature 1. What is drawn depends on the seed, the step and the row alone.

    Args:
        student: inputs -> logits (B, T, V).
        teacher: the same, or None.
        data: with a `tokenizer`; without one, or without tokens, there are no samples.
        seed: of the drawing.
        known: gives the teacher's, which runs share.

    Returns:
        Of each: "prompt", "text" (as the data go on), "student" and "teacher".
    """
    tokenizer = data.tokenizer
    inputs = data.val.take(torch.arange(min(NUM_SAMPLES, len(data.val)))).inputs
    if tokenizer is None or not isinstance(inputs, dict) or not data.has_positions:
        return []
    tokens = inputs["input_ids"]
    start = max(1, tokens.shape[1] // 2)
    num = min(SAMPLE_TOKENS, tokens.shape[1] - start)

    def written(model: nn.Module) -> list[str]:
        made = continued(model, tokens[:, :start], num, seed)
        return [tokenizer.decode(row.tolist()) for row in made]

    theirs = None
    if (writer := teacher) is not None:
        what = f"samples {[len(tokens), start, num, seed]}"
        theirs = known(what, lambda: {"texts": written(writer)})["texts"]
    texts: dict[str, list[str] | None] = {
        "prompt": [tokenizer.decode(row[:start].tolist()) for row in tokens],
        "text": [tokenizer.decode(row[start : start + num].tolist()) for row in tokens],
        "student": written(student),
        "teacher": theirs,
    }
    return [
        {name: None if column is None else column[place] for name, column in texts.items()}
        for place in range(len(tokens))
    ]


def continued(model: nn.Module, prompt: Tensor, num: int, seed: int) -> Tensor:
    """(B, num) token ids that `model` writes after a prompt (B, T), drawn at T = 1."""
    return generate(model, prompt, GenerationConfig(max_new_tokens=num), seed=seed).tokens.cpu()
