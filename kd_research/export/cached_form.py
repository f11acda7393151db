"""A causal student as ONNX that decodes token by token: with its cache as inputs and outputs.

The names are those of Hugging Face's Optimum: `input_ids` (B, T) and, of each layer i,
`past_key_values.i.key` and `past_key_values.i.value` (B, H, P, D), P >= 0 positions before these;
out come `logits` (B, T, V), and `present.i.key` and `present.i.value` (B, H, P + T, D).

Shapes: B rows, T new positions, P earlier ones, H heads of keys, D their size, V tokens.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_research.export.onnx_form import session, write_onnx
from kd_research.export.raw_inputs import OUTPUT
from kd_research.models.gpt import GPT

NUM_STEPS = 32  # tokens of the timed decoding
MAX_SECONDS = 2.0


class CachedGPT(nn.Module):
    """A `gpt` as a function of tokens and of the keys and values before them.

    Args:
        model: the decoder.
    """

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """(B, T) and of each layer its key and value -> logits, and the same of all positions."""
        model, done = self.model, past[0].shape[2]
        places = torch.arange(input_ids.shape[1], device=input_ids.device) + done
        keys = torch.arange(input_ids.shape[1] + done, device=input_ids.device)
        mask = keys.unsqueeze(0) <= places.unsqueeze(1)
        x = model.embedding(input_ids) + model.positions(places)
        presents: list[Tensor] = []
        for number, stage in enumerate(model.stages):
            x, present = stage(x, mask, (past[2 * number], past[2 * number + 1]))
            presents += present
        return (model.head(model.norm(x)), *presents)


class CachedTransformers(nn.Module):
    """The same of a decoder of transformers, whose cache is an object."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """(B, T) and of each layer its key and value -> logits, and the same of all positions."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        layers = found["past_key_values"].layers
        return (found["logits"], *(part for each in layers for part in (each.keys, each.values)))


def to_cached_onnx(student: nn.Module, path: Path) -> str | None:
    """Write the file.

    Args:
        student: in eval mode, on the processor: a `gpt`, or a decoder of transformers.
        path: of the file, weights inside.

    Returns:
        Why there is none; None where it was written.
    """
    if type(student) is GPT:
        wrapper: nn.Module = CachedGPT(student)
    elif type(student).__module__.startswith("transformers."):
        wrapper = CachedTransformers(student)
    else:
        return f"{type(student).__name__} keeps no cache that is known here"
    with torch.no_grad():
        _, *presents = _whole(student)
    names = [
        f"{{}}.{layer}.{part}" for layer in range(len(presents) // 2) for part in ("key", "value")
    ]
    # Sizes that differ from each other and from 1, so that none is taken for a constant.
    past = tuple(torch.zeros(2, x.shape[1], 5, x.shape[3]) for x in presents)
    given = (torch.zeros(2, 3, dtype=torch.int64), *past)
    batch, new, before = (torch.export.Dim(name) for name in ("batch", "length", "past"))
    shapes = ({0: batch, 1: new}, tuple({0: batch, 2: before} for _ in past))
    try:
        write_onnx(
            wrapper,
            given,
            {},
            ["input_ids", *(name.format("past_key_values") for name in names)],
            [OUTPUT, *(name.format("present") for name in names)],
            shapes,
            path,
        )
    except ValueError as error:
        return str(error)
    return None


def _whole(student: nn.Module) -> tuple[Tensor, ...]:
    """Logits and cache after three tokens, to see the cache's shape."""
    found = student(input_ids=torch.zeros(1, 3, dtype=torch.int64), use_cache=True)
    cache = found["past_key_values"]
    pairs = [(x.keys, x.values) for x in cache.layers] if hasattr(cache, "layers") else cache
    return (found["logits"], *(part for pair in pairs for part in pair))


class Decoder:
    """The file, by ONNX Runtime: reads tokens and keeps the cache.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self._session = session(path)
        self.past: dict[str, NDArray[Any]] = {}

    def start(self, rows: int) -> None:
        """Forget what was read, for another batch of so many rows."""
        self.past = {
            each.name: np.zeros((rows, each.shape[1], 0, each.shape[3]), dtype=np.float32)
            for each in self._session.get_inputs()[1:]
        }

    def read(self, tokens: Tensor) -> Tensor:
        """(B, T) -> logits (B, T, V) after them."""
        logits, *presents = self._session.run(None, {"input_ids": tokens.numpy(), **self.past})
        self.past = dict(zip(self.past, presents, strict=True))
        return torch.from_numpy(logits)


def difference(decoder: Decoder, student: nn.Module, tokens: Tensor) -> float:
    """The largest |logit - the student's|, of a beginning read at once and then token by token.

    Args:
        decoder: of the file.
        student: in eval mode, on the processor.
        tokens: (B, T).
    """
    half = max(1, tokens.shape[1] // 2)
    decoder.start(len(tokens))
    parts = [
        decoder.read(part) for part in (tokens[:, :half], *torch.split(tokens[:, half:], 1, dim=1))
    ]
    with torch.no_grad():
        found = student(input_ids=tokens)
    expected = found if isinstance(found, Tensor) else found["logits"]
    found = torch.cat(parts, dim=1)[..., : expected.shape[-1]]
    return float((found - expected).abs().max())


def tokens_per_second(decoder: Decoder, tokens: Tensor) -> float:
    """Of decoding at batch 1 after half of a row (1, T), from the median step."""
    half = max(1, tokens.shape[1] // 2)
    steps = torch.split(tokens[:, half : half + NUM_STEPS], 1, dim=1)
    seconds: list[float] = []
    begin = time.perf_counter()
    while not seconds or (len(seconds) < 100 and time.perf_counter() - begin < MAX_SECONDS):
        decoder.start(1)
        decoder.read(tokens[:, :half])
        for step in steps:
            start = time.perf_counter()
            decoder.read(step)
            seconds.append(time.perf_counter() - start)
    return 1 / statistics.median(seconds)
