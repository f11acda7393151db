"""Distillation-oriented training as an optimizer (DOT; Zhao et al. 2023, ICCV).

SGD with two momentum buffers. The labels' gradient is remembered for less time than that of the
distillation terms, so that these lead where the two disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class DOT(torch.optim.Optimizer):
    """v_labels = (m - d) v_labels + g_labels + weight_decay * w; v_rest = (m + d) v_rest + g_rest.

    The weights move by -lr (v_labels + v_rest). With d = 0 it is SGD with momentum.

    `Distiller` gives the labels' gradient by `take_label_gradients` before each step; the rest is
    what `grad` holds beyond it. That costs a second backward pass through the student.

    Args:
        params: as for every optimizer.
        lr: > 0.
        momentum: m, the momentum that the two are around; 0.9.
        difference: d, in [0, min(m, 1 - m)]; the paper's Delta: 0.075 on CIFAR-100, 0.09 on
            ImageNet.
        weight_decay: >= 0; in the labels' buffer, as in the authors' code.

    Raises:
        ValueError: a value is outside its range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        difference: float = 0.075,
        weight_decay: float = 0.0,
    ):
        if not lr > 0 or not weight_decay >= 0:
            raise ValueError(f"DOT needs lr > 0 and weight_decay >= 0, got {lr}, {weight_decay}")
        if not 0 <= difference <= min(momentum, 1 - momentum):
            raise ValueError(
                f"DOT needs both momenta, momentum -+ difference, in [0, 1], got {momentum} -+ "
                f"{difference}; try optimizer.momentum=0.9 optimizer.difference=0.075"
            )
        settings = {
            "lr": lr,
            "momentum": momentum,
            "difference": difference,
            "weight_decay": weight_decay,
        }
        super().__init__(params, settings)
        self._label_gradients: Sequence[Tensor | None] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that it moves, in order."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def take_label_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """The gradient of the labels' term alone, by `parameters`; None is 0."""
        self._label_gradients = gradients

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights.

        Raises:
            RuntimeError: nobody gave the labels' gradient for this step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._label_gradients is None:
            raise RuntimeError("DOT needs take_label_gradients before every step")
        of_labels = iter(self._label_gradients)
        self._label_gradients = None
        for group in self.param_groups:
            for parameter in group["params"]:
                labels = next(of_labels)
                if parameter.grad is not None:
                    self._move(parameter, labels, group)
        return loss

    def _move(self, parameter: Tensor, labels: Tensor | None, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        labels = torch.zeros_like(parameter) if labels is None else labels
        rest = parameter.grad - labels
        state = self.state[parameter]
        if not state:
            state["labels"], state["rest"] = torch.zeros_like(rest), torch.zeros_like(rest)
        momentum, difference = group["momentum"], group["difference"]
        decayed = labels.add(parameter, alpha=group["weight_decay"])
        state["labels"].mul_(momentum - difference).add_(decayed)
        state["rest"].mul_(momentum + difference).add_(rest)
        parameter.add_(state["labels"] + state["rest"], alpha=-group["lr"])
