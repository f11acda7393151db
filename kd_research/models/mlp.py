"""Multilayer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "glorot": nn.init.xavier_uniform_,
    "gaussian": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}


class MLP(nn.Module):
    """`depth` hidden ReLU layers of `width` units, then a linear head.

    The nets of Hinton, Vinyals, Dean 2015 (arXiv:1503.02531, section 3) are width 1200 or 800,
    depth 2; dropout and max-norm as in Srivastava et al. 2014 (JMLR 15, section 5.1 and A.1).

    Layers: `layers.0` ... `layers.{depth-1}` (B, width), `pool` (B, width), which is what the head
    sees and has that name in all families, `head` (B, C).

    Args:
        input_shape: of one example; flattened.
        num_classes: C.
        width: units per hidden layer.
        depth: number of hidden layers; 0 is a linear classifier.
        dropout: probability of dropping a hidden unit.
        input_dropout: probability of dropping an input.
        max_norm: largest L2 norm of a hidden unit's incoming weights, restored after every
            optimizer step; None for no limit.
        init: of the weights, biases being 0 then: "glorot", uniform in +-sqrt(6 / (fan_in +
            fan_out)) (Glorot, Bengio 2010, as Keras has it), or "gaussian", of the deviation
            sqrt(2 / fan_in) (He et al. 2015, arXiv:1502.01852). None is torch's own.

    Raises:
        ValueError: an unknown init, a size is below its least, a probability outside [0, 1), or
            max_norm <= 0.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 100,
        depth: int = 2,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        max_norm: float | None = None,
        init: str | None = None,
    ):
        super().__init__()
        if width < 1 or depth < 0 or num_classes < 2:
            raise ValueError(
                f"an MLP needs width >= 1, depth >= 0, num_classes >= 2, got width={width}, "
                f"depth={depth}, num_classes={num_classes}"
            )
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"max_norm must be > 0 or null, got {max_norm}")
        sizes = [math.prod(input_shape), *[width] * depth]
        self.max_norm = max_norm
        self.flatten = nn.Flatten()
        self.input_dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(dropout))
            for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.pool = nn.Identity()
        self.head = nn.Linear(sizes[-1], num_classes)
        self._initialise(init)

    def _initialise(self, init: str | None) -> None:
        if init is None:
            return
        if init not in INITS:
            raise ValueError(
                f"model.init must be null, {' or '.join(INITS)}, got {init!r}; try null"
            )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                INITS[init](layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *input_shape) -> logits (B, C)."""
        hidden = self.input_dropout(self.flatten(inputs))
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(self.pool(hidden))
        return logits

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring every hidden unit's incoming weights back to `max_norm`."""
        if self.max_norm is None:
            return
        for layer in self.layers:
            weight = layer.get_submodule("0").get_parameter("weight")
            weight.copy_(torch.renorm(weight, p=2, dim=0, maxnorm=self.max_norm))
