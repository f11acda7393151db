"""What the student minimises: the labels' cross-entropy and any number of distillation terms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, layers_of
from kd_research.losses.logits import full
from kd_research.losses.positions import select

MANY = 4096  # positions that are compared with each other: above, a person is told
log = logging.getLogger(__name__)

Weight = float | Callable[[int, int], float]  # a number, or a schedule: see schedules.py


class Objective(nn.Module):
    """`ce_weight` * CE + the sum over terms of `weight` * `loss`.

    A term whose weight is 0 throughout does not exist: it is neither built nor computed, so that
    lambda = 0 is bit for bit the student alone. One whose schedule is 0 for some epochs is still
    computed then, so that its value is logged and its parts stay in DistributedDataParallel's
    graph.

    Stages before the training itself have weights of their own. A stage in which no term has any
    does not exist either. Nothing is computed of a term that has no weight throughout a stage.

    Args:
        terms: name -> {"loss": an instantiated loss, "weight": >= 0, or a schedule}.
        ce_weight: >= 0, or a schedule, of the cross-entropy with the labels.
        stages: name -> {"weights": term -> >= 0, or a schedule; "ce_weight": the same, of the
            labels, 0 where it is not there}, in their order.

    Attributes:
        stage: the present one; None is the training itself.
        stages: the names of those that exist.

    Raises:
        ValueError: a weight is negative or not finite, a stage weighs what is no term, or there is
            nothing to minimise.
    """

    def __init__(
        self,
        terms: Mapping[str, Mapping[str, Any]],
        ce_weight: Weight,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        _peak("ce_weight", ce_weight)
        self._ce_schedules: dict[str | None, Weight] = {None: ce_weight}
        self._schedules: dict[str | None, dict[str, Weight]] = {
            None: _weighing({name: term["weight"] for name, term in terms.items()})
        }
        for stage, stated in (stages or {}).items():
            if unknown := [name for name in stated["weights"] if name not in terms]:
                raise ValueError(
                    f"the stage {stage} weighs {', '.join(unknown)}; there are: {', '.join(terms)}"
                )
            weights = _weighing(stated["weights"])
            ce = stated.get("ce_weight", 0.0)
            _peak(f"ce_weight in {stage}", ce)
            if weights:
                self._schedules[stage], self._ce_schedules[stage] = weights, ce
        self.stages = tuple(stage for stage in self._schedules if stage is not None)
        used = {name for weights in self._schedules.values() for name in weights}
        self.terms = nn.ModuleDict(
            {name: term["loss"] for name, term in terms.items() if name in used}
        )
        self.set_stage(None)

    def set_stage(self, stage: str | None) -> None:
        """Turn to a stage, None being the training itself, and tell the terms that want to know.

        Raises:
            ValueError: there is nothing to minimise in its first epoch.
        """
        self.stage = stage
        for loss in self.modules():
            if loss is not self and hasattr(loss, "set_stage"):
                cast(Any, loss).set_stage(stage)
        self.set_epoch(0, 1)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term, of any stage, looks at a teacher."""
        return any(getattr(loss, "needs_teacher", True) for loss in self.terms.values())

    @property
    def asks_teacher(self) -> bool:
        """Whether any term of the present stage does."""
        return any(getattr(self.terms[name], "needs_teacher", True) for name in self.weights)

    @property
    def runs_teacher(self) -> bool:
        """Whether any term runs the teacher itself, on what is in no cache."""
        return any(getattr(loss, "runs_teacher", False) for loss in self.terms.values())

    @property
    def any_vocabulary(self) -> bool:
        """Whether every term takes a teacher with other classes than the student's."""
        return all(getattr(loss, "any_vocabulary", False) for loss in self.terms.values())

    def layers(self, who: str) -> tuple[str, ...]:
        """The module paths that the terms want of `who` ("student" or "teacher"), each once."""
        return tuple(
            dict.fromkeys(layer for loss in self.terms.values() for layer in layers_of(loss, who))
        )

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Show the modules to the terms that want them."""
        for loss in self.terms.values():
            if hasattr(loss, "bind"):
                cast(Any, loss).bind(student, teacher)

    def build(self, student: Output, teacher: Output, num_examples: int = 0) -> None:
        """Let the terms make their parts from the outputs for one example batch.

        Args:
            student: what the student says of the batch.
            teacher: what the teacher says of it.
            num_examples: of the training split; given to the terms that have a `num_examples`.
        """
        for name, loss in self.terms.items():
            if getattr(loss, "compares_examples", False) and len(student.logits) > MANY:
                log.warning(
                    "the loss %s compares all %d positions of a batch with each other, which takes "
                    "much memory; try a smaller dataset.batch_size",
                    name,
                    len(student.logits),
                )
            if hasattr(loss, "num_examples"):
                cast(Any, loss).num_examples = num_examples
            if hasattr(loss, "build"):
                cast(Any, loss).build(student, teacher)

    def set_epoch(self, epoch: int, max_epochs: int) -> None:
        """Set the weights, and what the terms themselves vary, for this epoch of the stage.

        Args:
            epoch: counted from 0.
            max_epochs: of the stage.

        Raises:
            ValueError: there is nothing to minimise in this epoch.
        """
        self.ce_weight = _weight(self._ce_schedules[self.stage], epoch, max_epochs)
        self.weights = {
            name: _weight(weight, epoch, max_epochs)
            for name, weight in self._schedules[self.stage].items()
        }
        if not self.ce_weight and not self.weights:
            raise ValueError(
                f"nothing to minimise in epoch {epoch}: loss.ce_weight is 0 and so is the weight "
                "of every term; try loss.ce_weight=1"
            )
        for loss in self.modules():
            if loss is not self and hasattr(loss, "set_epoch"):
                cast(Any, loss).set_epoch(epoch, max_epochs)

    def forward(
        self, student: Output, teacher: Output | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of the batch, (), and its parts by name, unweighted and detached.

        Of many labelled positions each valid one counts as an example.

        Everything here is in float32 (float64 stays), under autocast too: it would put the
        products of relational losses and of regressors into bfloat16.

        Raises:
            ValueError: no position of the batch is labelled, or the shapes do not fit.
        """
        weighted, parts = self._weighted(student, teacher, batch)
        total = sum(weighted[1:], start=weighted[0])
        return total, {name: part.detach() for name, part in parts.items()}

    def apart(
        self, student: Output, teacher: Output | None, batch: Batch
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The same in two: what the labels contribute, and what the terms do, each ().

        The labels' part is there with a weight of 0 too; the terms' is None where there are none.
        """
        weighted, parts = self._weighted(student, teacher, batch, labels=True)
        rest = sum(weighted[2:], start=weighted[1]) if len(weighted) > 1 else None
        return weighted[0], rest, {name: part.detach() for name, part in parts.items()}

    def _weighted(
        self, student: Output, teacher: Output | None, batch: Batch, labels: bool = False
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        student, teacher, batch = select(student, teacher, batch, self.any_vocabulary)
        parts: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        student, teacher = _float32(student), None if teacher is None else _float32(teacher)
        with torch.autocast(student.logits.device.type, enabled=False):
            if (self.ce_weight and not batch.drawn) or labels:
                parts["ce"] = F.cross_entropy(student.logits, batch.labels)
                weighted.append(self.ce_weight * parts["ce"])
            for name, weight in self.weights.items():
                parts[name] = self.terms[name](student, teacher, batch)
                weighted.append(weight * parts[name])
        return weighted, parts


def _float32(output: Output) -> Output:
    return Output(
        full(output.logits), {name: full(value) for name, value in output.features.items()}
    )


def _peak(name: str, weight: Weight) -> float:
    peak = float(cast(Any, weight).peak if callable(weight) else weight)
    if not 0 <= peak < float("inf"):
        raise ValueError(f"the weight of {name} must be >= 0 and finite, got {peak}")
    return peak


def _weighing(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """Those that are not 0 throughout."""
    return {name: weight for name, weight in weights.items() if _peak(name, weight) != 0}


def _weight(weight: Weight, epoch: int, max_epochs: int) -> float:
    return float(weight(epoch, max_epochs) if callable(weight) else weight)
