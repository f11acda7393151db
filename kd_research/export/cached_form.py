"""A causal student as ONNX that decodes token by token: with its cache as inputs and outputs.

The names are those of Hugging Face's Optimum: `input_ids` (B, T) and, of each layer i,
`past_key_values.i.key` and `past_key_values.i.value` (B, H, P, D), P >= 0 positions before these;
out come `logits` (B, T, V), and `present.i.key` and `present.i.value` (B, H, P + T, D).

Shapes: B rows, T new positions, P earlier ones, H heads of keys, D their size, V tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.export.onnx_form import session, write_onnx
from kd_research.export.raw_inputs import OUTPUT
from kd_research.models.gpt import GPT


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


class CachedStudent(nn.Module):
    """The file as a decoder that is called as those of Hugging Face are, by ONNX Runtime.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._session = session(path)
        self._shapes = {each.name: each.shape for each in self._session.get_inputs()[1:]}

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Sequence[Tensor] | None = None,
        use_cache: bool = True,
    ) -> dict[str, Any]:
        """(B, T) -> "logits" (B, T, V), and "past_key_values" of all positions so far."""
        if past_key_values is None:
            rows = input_ids.shape[0]
            past_key_values = [
                torch.zeros(rows, shape[1], 0, shape[3]) for shape in self._shapes.values()
            ]
        past = zip(self._shapes, past_key_values, strict=True)
        given = {"input_ids": input_ids.numpy(), **{name: each.numpy() for name, each in past}}
        logits, *presents = map(torch.from_numpy, self._session.run(None, given))
        return {"logits": logits, "past_key_values": presents if use_cache else None}


def difference(decoder: CachedStudent, student: nn.Module, tokens: Tensor) -> float:
    """The largest |logit - the student's|, of a beginning read at once and then token by token.

    Args:
        decoder: of the file.
        student: in eval mode, on the processor.
        tokens: (B, T).
    """
    half = max(1, tokens.shape[1] // 2)
    parts, past = [], None
    for part in (tokens[:, :half], *torch.split(tokens[:, half:], 1, dim=1)):
        out = decoder(part, past)
        past = out["past_key_values"]
        parts.append(out["logits"])
    with torch.no_grad():
        found = student(input_ids=tokens)
    expected = found if isinstance(found, Tensor) else found["logits"]
    found = torch.cat(parts, dim=1)[..., : expected.shape[-1]]
    return float((found - expected).abs().max())
