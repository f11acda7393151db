"""The distillation step as a LightningModule.

With a teacher and a distillation objective it trains a student on soft targets; without a teacher
it is plain supervised training, which is how teachers are made: the two stages share this file
and nothing else.

The teacher is kept outside the module tree, so that Lightning neither switches its mode nor
saves it, wraps it in DDP or shows it to the optimizer. `freeze` makes it unable to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kd_research.interfaces import Batch, Inputs, Output, some
from kd_research.losses.logits import full
from kd_research.losses.objective import Objective
from kd_research.losses.positions import check_positions, count_valid, select
from kd_research.models.capture import Capture
from kd_research.soft_targets.store import LOGITS, SoftTargets
from kd_research.training.chunked_step import ChunkedStep, chunked_step
from kd_research.training.dot import DOT
from kd_research.training.groups import Groups, parameter_groups
from kd_research.training.on_policy import StudentText
from kd_research.training.optimizer_step import num_labels, step_of, steps_of_an_epoch
from kd_research.training.optimizers import checked_dot, configured
from kd_research.training.schedules import Schedule
from kd_research.training.stages import Learners, Stage
from kd_research.training.train_losses import TrainLosses

LARGE_VOCABULARY = 4096  # tokens: below, no batch has so many logits that they must be chunked

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]  # parameters, or groups of them
SchedulerFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def freeze(teacher: nn.Module) -> nn.Module:
    """The module itself, in eval mode and with no parameter that takes a gradient."""
    return teacher.eval().requires_grad_(False)


class Distiller(LightningModule):
    """Trains `student` on `objective`, with the outputs of a frozen `teacher` where it needs them.

    Args:
        student: inputs -> logits. If it has an `after_step` method, that is called after every
            optimizer step (max-norm constraints).
        objective: the labels' cross-entropy and the distillation terms.
        optimizer: parameters -> optimizer; gets the student's and the objective's own.
        scheduler: a schedule; or optimizer -> scheduler, stepped once an epoch; None keeps the
            rate.
        teacher: None where the objective needs none.
        groups: of parameters that have settings of their own.
        stages: before the training itself, by name; those that the objective lacks do not exist.

    Raises:
        ValueError: the objective needs a teacher and there is none, or names unknown layers.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        optimizer: OptimizerFactory,
        scheduler: Schedule | SchedulerFactory | None = None,
        teacher: nn.Module | None = None,
        groups: Groups | None = None,
        stages: Mapping[str, Stage] | None = None,
    ):
        super().__init__()
        if objective.needs_teacher and teacher is None:
            raise ValueError(
                f"the loss terms {', '.join(objective.terms)} need a teacher; "
                "try teacher=mlp, or loss=ce for the student alone"
            )
        self.student = student
        self.objective = objective
        self._factories, self._groups = (optimizer, scheduler), groups or {}
        self.stages = {name: (stages or {})[name] for name in objective.stages}
        self.learners: Learners | None = None  # where there are stages
        self._dot: DOT | None = None  # the optimizer, if it wants the labels' gradient apart
        self._student = Capture(student, objective.layers("student"))
        self._teacher = (
            Capture(freeze(teacher), objective.layers("teacher"))
            if teacher is not None and objective.needs_teacher
            else None
        )
        objective.bind(student, teacher)
        self.val_accuracy = MeanMetric(nan_strategy="disable")
        self.val_nll = MeanMetric(nan_strategy="disable")
        self.train_losses = TrainLosses()
        self.teacher_shapes: dict[str, tuple[int, ...]] = {}  # of one example's outputs
        self._chunked: ChunkedStep | None = None
        self.cached: SoftTargets | None = None  # where the outputs for the training split are
        self.fill: Callable[[torch.device, Sequence[int]], None] | None = None  # views of it
        self.text: StudentText | None = None  # what makes batches of text during the fit

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; Lightning sets this one forty times a step, which Module makes slow."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @torch.no_grad()
    def build(self, batch: Batch, num_examples: int) -> None:
        """Let the objective make its parts, from one prepared batch; before the optimizer is made.

        Runs both nets in eval mode, so that no running statistic moves.

        Args:
            batch: any examples.
            num_examples: of the training split, for memory banks.
        """
        if self._teacher is None and batch.labels.ndim == 1 and not self.stages:
            return
        was_training = self.student.training
        self.student.eval()
        student = self._student(batch.inputs)
        check_positions(student.logits, batch.labels)
        if self._teacher is not None:
            teacher = self._teacher(batch.inputs)
            outputs = {LOGITS: teacher.logits, **teacher.features}
            if not self.objective.runs_teacher:
                self.teacher_shapes = {name: tuple(v.shape[1:]) for name, v in outputs.items()}
            num_examples *= batch.labels[0].numel()  # each position is one
            chosen = select(student, teacher, batch, self.objective.any_vocabulary)
            self.objective.build(*chosen[:2], num_examples)
        if batch.labels.ndim == 2 and student.logits.shape[2] >= LARGE_VOCABULARY:
            net = None if self._teacher is None else self._teacher.model
            self._chunked = chunked_step(
                self.student, net, self.objective, batch, student.logits.shape[2]
            )
        self.student.train(was_training)
        if self.stages:
            self.learners = Learners(self, self.stages, batch)

    def on_fit_start(self) -> None:
        """Bring the teacher to the student's device; Lightning does not know of it."""
        if self._teacher is not None:
            self._teacher.model.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Set the weights that follow the epochs."""
        self.objective.set_epoch(self.current_epoch, self.trainer.max_epochs or 1)
        if self.cached is not None:
            self.cached.start_epoch(self.current_epoch)
            whole = self.objective.asks_teacher and self._is_whole_epoch()
            if self.fill is not None and whole:
                self.fill(self.device, [self.current_epoch])
        if self.text is not None:
            self.text.start((self.trainer.max_epochs or 1) * steps_of_an_epoch(self.trainer))

    def _is_whole_epoch(self) -> bool:
        """Whether the epoch sees every example: of a part of one, the teacher is asked as it goes.

        A fit that goes on within an epoch, or stops in one, sees less too: at most by that epoch.
        """
        trainer = self.trainer
        return trainer.limit_train_batches == 1.0 and trainer.max_steps == -1

    def teach(self, batch: Batch) -> Output | None:
        """The teacher's output for the batch, without gradient; None where nobody asks for it."""
        if self._teacher is None or not self.objective.asks_teacher:
            return None
        if self.cached is not None:
            return self.cached.outputs(
                batch.index, lambda rows: self.run_teacher(batch.inputs, rows)
            )
        with torch.no_grad():  # not inference_mode: trainable connectors save these for backward
            return self._teacher(batch.inputs)

    @torch.no_grad()
    def run_teacher(self, inputs: Inputs, rows: Tensor | None = None) -> Output:
        """The teacher's output for (some of) a batch in float32, whatever the fit's precision."""
        assert self._teacher is not None
        if rows is not None:
            inputs = some(inputs, rows)
        with torch.autocast(self.device.type, enabled=False):
            return self._teacher(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The objective of the batch, ()."""
        loss: Tensor
        batch, beside = self._with_text(self.text, batch, batch_idx) if self.text else (batch, None)
        count = count_valid(batch.labels)
        share = self._share(count, batch_idx, batch.drawn)
        if self._dot is None:
            loss, parts = self.losses(batch)
        else:
            student = self._student(batch.inputs)
            labels, rest, parts = self.objective.apart(student, self.teach(batch), batch)
            loss = labels if rest is None else labels + rest
            reduce = partial(self.trainer.strategy.reduce, reduce_op="mean")
            self._dot.differentiate_labels(share * labels, rest, reduce)
        self.train_losses.add(count, {"loss": loss.detach(), **parts})
        loss = loss if share == 1 else loss * share
        return loss if beside is None else loss + beside

    def _with_text(
        self, text: StudentText, batch: Batch, batch_idx: int
    ) -> tuple[Batch, Tensor | None]:
        """What takes the batch's place, and what the labels of the data themselves contribute."""
        assert self._teacher is not None
        made = text.in_place_of(batch, batch_idx, self.trainer, self.student, self._teacher.model)
        if not (made.drawn and text.data_weight):
            return made, None
        count = count_valid(batch.labels)
        output, _, data = select(self._student(batch.inputs), None, batch)
        ce = nn.functional.cross_entropy(full(output.logits), data.labels)
        self.train_losses.add(count, {"data_ce": ce.detach()})
        return made, text.data_weight * self._share(count, batch_idx) * ce

    def in_chunks(self, batch: Batch) -> bool:
        """Whether the batch has so many logits that they are never all there."""
        return self._chunked is not None and self._chunked.wanted(batch)

    def losses(
        self, batch: Batch, taught: Output | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of the batch, (), and its parts; in chunks where its logits are too many.

        Args:
            batch: prepared, on the device.
            taught: the teacher's output; None asks for it here.
        """
        if self._chunked is not None and self._chunked.wanted(batch):
            return self._chunked(self.objective, batch, self.cached, self.run_teacher)
        student = self._student(batch.inputs)
        parts: dict[str, Tensor]
        total, parts = self.objective(student, taught or self.teach(batch), batch)
        return total, parts

    def _share(self, count: int, batch_idx: int, drawn: bool = False) -> float:
        """What makes Lightning's means the mean over the labels of the whole optimizer step.

        Lightning means over processes and over accumulated batches, whatever each has to learn.

        Args:
            count: labels of this batch in this process.
            batch_idx: of this batch in the epoch.
            drawn: whether it is text of the fit.
        """
        num_parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if num_parts == 1:
            return 1.0
        if drawn and self.text is not None:
            return count * num_parts / self.text.num_labels
        return count * num_parts / num_labels(self.trainer, step_of(self.trainer, batch_idx))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate accuracy and NLL; a process's share of the last batch may be empty."""
        if not count_valid(batch.labels):
            return
        output, _, batch = select(self._student(batch.inputs), None, batch)
        logits = output.logits.float()
        self.val_accuracy.update((logits.argmax(dim=1) == batch.labels).float())
        self.val_nll.update(nn.functional.cross_entropy(logits, batch.labels, reduction="none"))

    def on_validation_epoch_end(self) -> None:
        """Log both over the whole split, each example, or valid position, counted once."""
        self.log_dict({"val_accuracy": self.val_accuracy, "val_nll": self.val_nll})
        if self.text is not None:
            self.text.validated(float(self.val_nll.compute()))

    def configure_optimizers(self) -> Any:
        """One optimizer over what trains: the student and the objective's own parts."""
        make_optimizer, schedule = self._factories
        optimizer = make_optimizer(self.parameters_for_optimizer(some=bool(self.stages)))
        self._dot = checked_dot(optimizer, self.trainer)
        stage = self.stages.get(self.objective.stage or "")
        return configured(optimizer, schedule, stage, self.student, self.trainer)

    def parameters_for_optimizer(self, some: bool = False) -> list[dict[str, Any]]:
        """What trains, in groups: the student's parameters and the objective's own.

        Args:
            some: whether these are those of a stage.

        Raises:
            ValueError: a group takes nothing, of what trains in any stage.
        """
        trained = {
            name.removeprefix("student."): parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }
        return parameter_groups(trained.items(), self._groups, some)
