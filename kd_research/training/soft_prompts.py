"""Prompt and prefix tuning: PEFT's parameters, before the text of any model of text.

Shapes: n positions before the text, W width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.generation.decode import keeps_a_cache
from kd_research.models.prompted import Keys, Prefixed, embedding_of, prompted_class


def soft_prompt(model: nn.Module, config: Any) -> nn.Module:
    """The model with PEFT's prompt or prefix before its text, which alone takes gradients.

    Args:
        model: frozen here.
        config: a `PromptTuningConfig` or `PrefixTuningConfig`.

    Raises:
        ValueError: it is neither, or the model has no cache for a prefix.
    """
    from peft import PromptEmbedding, PromptTuningConfig

    model.requires_grad_(False)
    if isinstance(config, PromptTuningConfig):
        embedding = embedding_of(model)
        config.token_dim, config.num_transformer_submodules = embedding.weight.shape[1], 1
        made = PromptEmbedding(config, embedding)  # type: ignore[no-untyped-call]
        return prompted_class(model)(model, vectors=_Vectors(made, config.num_virtual_tokens))
    if type(config).__name__ != "PrefixTuningConfig":
        raise ValueError(
            f"student.adapter is a {type(config).__name__}, which is not supported; "
            "try adapter@student.adapter=NAME of lora, prompt_tuning, prefix_tuning, few_shot"
        )
    if not keeps_a_cache(model):
        raise ValueError(
            f"prefix tuning needs a model with past_key_values, which {type(model).__name__} has "
            "not; try adapter@student.adapter=prompt_tuning"
        )
    return Prefixed(model, _KeyValues(model, config), _cache_maker(model))


class _Vectors(nn.Module):
    """PEFT's soft prompt, (n, W)."""

    places: Tensor

    def __init__(self, prompt: nn.Module, num: int):
        super().__init__()
        self.prompt = prompt
        self.register_buffer("places", torch.arange(num), persistent=False)

    def forward(self) -> Tensor:
        """(n, W)."""
        found: Tensor = self.prompt(self.places)
        return found


class _KeyValues(nn.Module):
    """PEFT's prefix, as keys and values of each layer."""

    places: Tensor

    def __init__(self, model: nn.Module, config: Any):
        super().__init__()
        from peft import PrefixEncoder

        device = next(model.parameters()).device
        with torch.no_grad():
            one = model(
                input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device), use_cache=True
            )
        shapes = {tuple(each.shape) for pair in _pairs(one["past_key_values"]) for each in pair}
        if len(shapes) != 1:
            raise ValueError(
                f"prefix tuning needs layers that are all alike, {type(model).__name__} keeps "
                f"{sorted(shapes)}; try adapter@student.adapter=prompt_tuning"
            )
        self.shape: tuple[int, ...] = shapes.pop()
        self.num_layers = len(_pairs(one["past_key_values"]))
        config.token_dim = self.shape[1] * self.shape[3]
        config.num_layers, config.num_transformer_submodules = self.num_layers, 1
        config.encoder_hidden_size = config.encoder_hidden_size or config.token_dim
        self.prefix = PrefixEncoder(config)  # type: ignore[no-untyped-call]
        self.register_buffer("places", torch.arange(config.num_virtual_tokens), persistent=False)

    def forward(self) -> Keys:
        """Of each layer keys and values, (1, H, n, W / H)."""
        flat = self.prefix(self.places)
        heads, size = self.shape[1], self.shape[3]
        split = flat.view(len(self.places), 2 * self.num_layers, heads, size).permute(1, 2, 0, 3)
        return [
            (split[2 * layer : 2 * layer + 1], split[2 * layer + 1 : 2 * layer + 2])
            for layer in range(self.num_layers)
        ]


def _pairs(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Of each layer keys and values: of pairs, or of a Cache of transformers."""
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(cache)


def _cache_maker(model: nn.Module) -> Callable[[Keys], Any]:
    if not type(model).__module__.startswith("transformers."):
        return lambda keys: keys
    from transformers import DynamicCache

    return lambda keys: DynamicCache(keys)
