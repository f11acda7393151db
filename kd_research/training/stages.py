"""What comes before the training itself: `loss.stages` in YAML, each a fit of its own.

    stages:
      hint:
        epochs: 30            # of 240 in the paper: they keep their share of other trainings
        of: 240
        weights: {fitnet: 1}  # of the loss's terms; a term that is not named has no part in it

What learns in a stage, and in the training after it, is what its terms reach: the layers up to a
compared one, the parts of a loss. Everything else stands still, its running statistics too.
`learns` names fewer by patterns of paths, as in `optimizer.groups`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.configuration.stage_checks import stage_epochs
from kd_research.interfaces import Batch
from kd_research.training.schedules import Schedule


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        epochs: how long, counted in `of` epochs.
        of: the number of epochs of the training beside which that is so long; None: any.
        within: whether its epochs are taken from the training's, and not beside them.
        learns: patterns of what may learn, as paths in the student, or of `objective.`.
        lr: the rate; None is the optimizer's own.
        scheduler: a schedule over the stage, or optimizer -> scheduler; None keeps the rate.
    """

    epochs: float
    of: float | None = None
    within: bool = False
    learns: Sequence[str] = ("*",)
    lr: float | None = None
    scheduler: Schedule | Callable[[torch.optim.Optimizer], Any] | None = None

    def length(self, max_epochs: int) -> int:
        """How many epochs it has, of `max_epochs` or beside them."""
        return stage_epochs(vars(self), max_epochs)


class Learners:
    """Who learns in which stage of a module's training, the training itself among them.

    Args:
        module: a Distiller with its parts made, before an optimizer is.
        stages: name -> stage, of those that its objective has.
        batch: any examples, prepared.

    Raises:
        ValueError: a stage reaches nothing that may learn; all of them at once.
    """

    def __init__(
        self,
        module: Any,
        stages: Mapping[str, Stage],
        batch: Batch,
    ):
        own = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._module, self._all = module, set(own)
        self._modes = {name: part.training for name, part in module.named_modules()}
        self._of: dict[str | None, set[str]] = {}
        problems = []
        state = copy.deepcopy(module.state_dict())
        for name in (*stages, None):
            module.objective.set_stage(name)
            patterns = stages[name].learns if name is not None else ("*",)
            reached = _reached(own, lambda: module.losses(batch)[0])
            self._of[name] = {path for path in reached if _fits(path, patterns)}
            if not self._of[name]:
                there = ", ".join(sorted(reached)[:4]) or "nothing that trains"
                where = "the training" if name is None else f"loss.stages.{name}"
                problems.append(
                    f"{where} has nothing to learn by {', '.join(patterns)}: its terms reach "
                    f"{there}"
                )
        module.load_state_dict(state)
        module.objective.set_stage(None)
        if problems:
            raise ValueError("\n".join(problems))

    def __contains__(self, name: str) -> bool:
        """Whether the parameter learns in any stage."""
        return any(name in names for names in self._of.values())

    def count(self, stage: str | None) -> int:
        """How many numbers learn in the stage."""
        own = dict(self._module.named_parameters())
        return sum(own[name].numel() for name in self._of[stage])

    def enter(self, stage: str | None) -> None:
        """Turn the module to a stage: who learns, and whose statistics move."""
        self._module.objective.set_stage(stage)
        learning = self._of[stage]
        for name, parameter in self._module.named_parameters():
            if name in self._all:
                parameter.requires_grad_(name in learning)
        for name, part in self._module.named_modules():
            mode = self._modes.get(name, part.training)
            part.training = mode and not self._stands_still(name, part, learning)

    def _stands_still(self, name: str, part: nn.Module, learning: set[str]) -> bool:
        own = {f"{name}.{each}" for each, _ in part.named_parameters(recurse=False)}
        return bool(own & self._all) and not own & learning


def _reached(own: Mapping[str, nn.Parameter], loss: Callable[[], Tensor]) -> list[str]:
    """The parameters on which the loss depends."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        value = loss()
        if not value.requires_grad:
            return []
        gradients = torch.autograd.grad(value, list(own.values()), allow_unused=True)
    return [name for name, found in zip(own, gradients, strict=True) if found is not None]


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path.removeprefix("student."), pattern) for pattern in patterns)
