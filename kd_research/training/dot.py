"""Distillation-oriented training as an optimizer (DOT; Zhao et al. 2023, ICCV).

SGD with two momentum buffers. The labels' gradient is remembered for less time than that of the
distillation terms, so that these lead where the two disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn


class DOT(torch.optim.Optimizer):
    """v_labels = (m - d) v_labels + g_labels + weight_decay * w; v_rest = (m + d) v_rest + g_rest.

    The weights move by -lr (v_labels + v_rest). With d = 0 it is SGD with momentum. What the labels
    alone move, or the distillation terms alone (a connector), has one buffer with the momentum m
    and all of the weight decay, as in the authors' code (mdistiller, `engine/dot.py`).

    `Distiller` asks for the labels' gradient by `differentiate_labels` before each step; the rest
    is what `grad` holds beyond it. That costs a second backward pass through the student.

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
        difference: Annotated[float, "in [0, 0.5]"] = 0.075,
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
        self._distilled: list[bool] | None = None  # of `parameters`: the terms move it
        self._given: tuple[Sequence[Tensor | None], Sequence[bool]] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that it moves, in order."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def differentiate_labels(
        self, labels: Tensor, rest: Tensor | None, mean: Callable[[Tensor], Tensor]
    ) -> None:
        """Differentiate the labels' term alone, for the next step; both graphs stay.

        Args:
            labels: (), the labels' term.
            rest: (), the distillation terms; None where there are none.
            mean: over the processes, of a flat tensor.
        """
        parameters = self.parameters
        if self._distilled is None:  # which of the two moves what does not change in a fit
            moved: Sequence[Tensor | None] = [None] * len(parameters)
            if rest is not None:
                moved = torch.autograd.grad(rest, parameters, retain_graph=True, allow_unused=True)
            self._distilled = [gradient is not None for gradient in moved]
        gradients = torch.autograd.grad(labels, parameters, retain_graph=True, allow_unused=True)
        found = [gradient for gradient in gradients if gradient is not None]
        flat = mean(torch.cat([gradient.flatten() for gradient in found]))
        pieces = iter(torch.split(flat, [gradient.numel() for gradient in found]))
        self.take_label_gradients(
            [None if each is None else next(pieces).view_as(each) for each in gradients],
            self._distilled,
        )

    def take_label_gradients(
        self, gradients: Sequence[Tensor | None], distilled: Sequence[bool]
    ) -> None:
        """What moves each of `parameters`, for the next step.

        Args:
            gradients: of the labels' term alone; None where it does not reach the parameter.
            distilled: whether the distillation terms reach it.
        """
        self._given = gradients, distilled

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
        if self._given is None:
            raise RuntimeError("DOT needs take_label_gradients before every step")
        given = iter(zip(*self._given, strict=True))
        self._given = None
        for group in self.param_groups:
            for parameter in group["params"]:
                labels, distilled = next(given)
                if parameter.grad is not None:
                    self._move(parameter, labels, distilled, group)
        return loss

    def _move(
        self, parameter: Tensor, labels: Tensor | None, distilled: bool, group: dict[str, Any]
    ) -> None:
        assert parameter.grad is not None
        state, momentum, difference = self.state[parameter], group["momentum"], group["difference"]
        if labels is None or not distilled:  # moved by one of the two alone
            if not state:
                state["only"] = torch.zeros_like(parameter)
            decayed = parameter.grad.add(parameter, alpha=group["weight_decay"])
            state["only"].mul_(momentum).add_(decayed)
            parameter.add_(state["only"], alpha=-group["lr"])
            return
        rest = parameter.grad - labels
        if not state:
            state["labels"], state["rest"] = torch.zeros_like(rest), torch.zeros_like(rest)
        decayed = labels.add(parameter, alpha=group["weight_decay"])
        state["labels"].mul_(momentum - difference).add_(decayed)
        state["rest"].mul_(momentum + difference).add_(rest)
        parameter.add_(state["labels"] + state["rest"], alpha=-group["lr"])
