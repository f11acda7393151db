"""A model with something before its text: tokens of examples, learnt vectors, or learnt keys.

What comes before is n positions that the model attends to and says nothing of: from a decoder's
logits (B, n + T, V) the first n are cut. The model itself stays as it is.

Shapes: B batch, T tokens, n positions before them, W width, H heads, V tokens of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Keys = list[tuple[Tensor, Tensor]]  # of each layer, (B, H, n, W / H)


class Prompted(nn.Module):
    """The model, with n positions before each row.

    Args:
        model: called by `input_ids`, as Hugging Face's models are.
        tokens: (n,) int64, the tokens before each row; None where `vectors` are.
        vectors: gives (n, W), what the embedding layer says of them; None where `tokens` are.
    """

    tokens: Tensor
    vectors: nn.Module | None

    def __init__(
        self, model: nn.Module, tokens: Tensor | None = None, vectors: nn.Module | None = None
    ):
        super().__init__()
        self.model, self.vectors = model, vectors
        before = torch.zeros(0, dtype=torch.int64) if tokens is None else tokens
        self.register_buffer("tokens", before, persistent=tokens is not None)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> Any:
        """(B, T) -> the logits of these alone: (B, T, V), or (B, C) of a classifier."""
        vectors = None if self.vectors is None else self.vectors()
        num = len(self.tokens) if vectors is None else len(vectors)
        before = self.tokens if vectors is None else self.tokens.new_zeros(num)
        rows, length = input_ids.shape
        inputs = self._told(rows, num, attention_mask, others)
        inputs["input_ids"] = torch.cat([before.expand(rows, -1), input_ids], dim=1)
        with _in_place_of(vectors, embedding_of(self.model)):
            return _without(num, self.model(**inputs), length)

    def _told(
        self, rows: int, num: int, attention_mask: Tensor | None, others: dict[str, Any]
    ) -> dict[str, Any]:
        """The other inputs, of n more positions."""
        told = dict(others)
        if attention_mask is not None:
            seen = attention_mask.new_ones(rows, num)
            told["attention_mask"] = torch.cat([seen, attention_mask], dim=1)
        positions = told.get("position_ids")
        if positions is not None and told.get("past_key_values") is None:
            first = torch.arange(num, device=positions.device).expand(rows, -1)
            told["position_ids"] = torch.cat([first, positions + num], dim=1)
        elif positions is not None:
            told["position_ids"] = positions + num
        return told


class PromptedDecoder(Prompted):
    """The same of a decoder with a cache, which then holds the n positions as well."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **others: Any,
    ) -> Any:
        """(B, T) -> logits (B, T, V), or {"logits", "past_key_values"} with `use_cache`."""
        others["use_cache"] = use_cache
        if past_key_values is None:
            return super().forward(input_ids, attention_mask, **others)
        num = len(self.tokens) if self.vectors is None else len(self.vectors())
        others["past_key_values"] = past_key_values
        return self.model(
            input_ids=input_ids, **self._told(input_ids.shape[0], num, attention_mask, others)
        )


class Prefixed(nn.Module):
    """A decoder with learnt keys and values before each row, in every layer.

    Args:
        model: keeps a cache, as Hugging Face's decoders do.
        keys: gives what its cache holds of n positions, of each layer (1, H, n, W / H).
        make_cache: what the model takes as `past_key_values`, of such keys and values.
    """

    def __init__(self, model: nn.Module, keys: nn.Module, make_cache: Callable[[Keys], Any]):
        super().__init__()
        self.model, self.keys, self._make_cache = model, keys, make_cache

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **others: Any,
    ) -> Any:
        """(B, T) -> logits (B, T, V), or {"logits", "past_key_values"} with `use_cache`."""
        rows = input_ids.shape[0]  # `len` would be a constant in an exported file
        keys: Keys = self.keys()
        num = keys[0][0].shape[2]
        if past_key_values is None:
            past_key_values = self._make_cache(
                [
                    (key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1))
                    for key, value in keys
                ]
            )
        if attention_mask is not None:
            seen = attention_mask.new_ones(rows, num)
            others["attention_mask"] = torch.cat([seen, attention_mask], dim=1)
        if others.get("position_ids") is not None:
            others["position_ids"] = others["position_ids"] + num
        return self.model(
            input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache, **others
        )


def embedding_of(model: nn.Module) -> nn.Embedding:
    """The layer that makes vectors of token ids: `get_input_embeddings`, or the first of its kind.

    Raises:
        ValueError: there is none.
    """
    getter = getattr(model, "get_input_embeddings", None)
    found = getter() if callable(getter) else None
    if not isinstance(found, nn.Module):
        found = next((each for each in model.modules() if isinstance(each, nn.Embedding)), None)
    if found is None:
        raise ValueError(f"{type(model).__name__} has no embedding of tokens: it reads no text")
    return found  # type: ignore[return-value]


@contextmanager
def _in_place_of(vectors: Tensor | None, embedding: nn.Module) -> Iterator[None]:
    """Have the embedding layer give (n, W) vectors for its first n positions."""
    if vectors is None:
        yield
        return

    def put(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        own = vectors.to(output.dtype).expand(output.shape[0], -1, -1)
        return torch.cat([own, output[:, len(vectors) :]], dim=1)

    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _without(num: int, found: Any, length: int) -> Any:
    """What a model says, less its first `num` positions, where it speaks of positions."""
    logits = found if isinstance(found, Tensor) else found["logits"]
    if logits.ndim != 3 or logits.shape[1] != num + length:
        return found
    logits = logits[:, num:]
    if isinstance(found, Tensor):
        return logits
    found["logits"] = logits
    return found


def prompted_class(model: nn.Module) -> type[Prompted]:
    """Of a decoder with a cache the one that has it too."""
    known = inspect.signature(model.forward).parameters
    return PromptedDecoder if {"use_cache", "past_key_values"} <= known.keys() else Prompted
