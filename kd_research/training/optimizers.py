"""The optimizer of a fit, its rate over it, and what both have to do with the student."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from kd_research.training.dot import DOT
from kd_research.training.schedules import Schedule
from kd_research.training.stages import Stage


def checked_dot(optimizer: torch.optim.Optimizer, trainer: Trainer) -> DOT | None:
    """The optimizer, if it wants the labels' gradient apart.

    Raises:
        ValueError: the trainer would mix the two gradients.
    """
    if not isinstance(optimizer, DOT):
        return None
    if trainer.gradient_clip_val or trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "optimizer=dot keeps two gradients apart, which clipping and accumulation "
            "would mix; try trainer.gradient_clip_val=null, or another optimizer"
        )
    return optimizer


def configured(
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    stage: Stage | None,
    student: nn.Module,
    trainer: Trainer,
) -> Any:
    """What Lightning steps: the optimizer, and where there is one the schedule of its rate.

    Args:
        optimizer: just made.
        schedule: a schedule; or optimizer -> scheduler, stepped once an epoch; None keeps the
            rate. That of the training itself.
        stage: which the fit is of; its rate takes the place of the optimizer's own, and its
            schedule that of the training.
        student: if it has an `after_step` method, that is called after every step.
        trainer: of the fit.
    """
    after_step = getattr(student, "after_step", None)
    if after_step is not None:
        optimizer.register_step_post_hook(lambda *_: after_step())
    if stage is not None:
        schedule = stage.scheduler
        for group in optimizer.param_groups if stage.lr is not None else ():
            if group["lr"] == optimizer.defaults["lr"]:  # else the group has a rate of its own
                group["lr"] = stage.lr
    if schedule is None:
        return optimizer
    if not isinstance(schedule, Schedule):
        return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer)}
    return {"optimizer": optimizer, "lr_scheduler": schedule.bound(optimizer, trainer)}
