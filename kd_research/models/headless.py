"""A model in two: all but its head, and the head.

Shapes: B batch, T positions, W width before the head, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.interfaces import Inputs
from kd_research.models.capture import Capture


class Headless:
    """Gives a model's states before its head, and applies the head to some of them.

    Args:
        model: inputs -> logits (B, T, V), the output of its last layer, `head`, or of what
            Hugging Face's `get_output_embeddings` gives.
    """

    def __init__(self, model: nn.Module):
        self.model, self._run = model, Capture(model)
        self.head = head_of(model)

    def hidden(self, inputs: Inputs) -> Tensor:
        """(B, T, W), before the head."""
        assert self.head is not None
        with _passing(self.head):
            return self._run(inputs).logits

    @torch.no_grad()
    def problem(self, inputs: Inputs) -> str | None:
        """Why the two parts are not the model; None where they are, on these inputs."""
        if self.head is None:
            return "it has no layer `head` and no output embeddings"
        whole = self._run(inputs).logits
        split = self.head(self.hidden(inputs))
        if split.shape != whole.shape or not torch.allclose(split, whole, rtol=1e-3, atol=1e-4):
            return "its logits are not what its head gives (it scales or caps them)"
        return None


def head_of(model: nn.Module) -> nn.Module | None:
    """The layer that makes the logits, if it says which it is."""
    getter = getattr(model, "get_output_embeddings", None)
    found = getter() if callable(getter) else getattr(model, "head", None)
    return found if isinstance(found, nn.Module) else None


def cut_vocabulary(model: nn.Module, num_tokens: int) -> int | None:
    """Leave a decoder no logits but those of the tokens that the data have.

    Pretrained models have more rows in their heads than their tokenizers have tokens, and not all
    models of one tokenizer the same number. What is cut takes no part in any softmax.

    Args:
        model: one whose head is known; another stays as it is.
        num_tokens: V of the data.

    Returns:
        How many logits it had, where some are cut; else None.

    Raises:
        ValueError: it has fewer.
    """
    head = head_of(model)
    found = getattr(head, "out_features", None)
    if head is None or not isinstance(found, int) or found == num_tokens:
        return None
    if found < num_tokens:
        raise ValueError(
            f"the model has {found} tokens, the data {num_tokens} (dataset.vocab_size); give both "
            "one tokenizer: dataset.tokens=pretrained dataset.pretrained=NAME "
            f"dataset.vocab_size={found} or less"
        )
    head.register_forward_hook(partial(_narrow, num_tokens))
    return found


def _narrow(num_tokens: int, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
    passes_states_on = "forward" in vars(module)  # as `_passing` has it do
    return logits if passes_states_on else logits[..., :num_tokens]


@contextmanager
def _passing(head: nn.Module) -> Iterator[None]:
    """Have the layer give its input."""

    def forward(states: Tensor, *_: Any) -> Tensor:
        return states

    head.forward = forward  # an attribute of this object, before its class's method
    try:
        yield
    finally:
        del head.forward
