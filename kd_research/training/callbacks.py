"""Callbacks of whole epochs, which Lightning then does not call at every step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class PerEpoch:
    """Stands before `Callback` among a class's bases: it has none of the hooks of a step.

    Lightning calls what is callable. An empty hook costs it a few microseconds, and with six hooks
    a step and four callbacks that is a tenth of a tiny student's step.
    """

    on_train_batch_start: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None
    on_train_batch_end: Any = None


class WithoutFrozen(PerEpoch, Callback):
    """Leaves out of a fit's checkpoints what does not change in it: the base of an adapter."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning's hook."""
        for name in frozen(pl_module):
            checkpoint["state_dict"].pop(name, None)


def frozen(module: LightningModule) -> list[str]:
    """The names of the parameters that take no gradient, in no stage of the training."""
    learners = getattr(module, "learners", None) or ()
    return [
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad and name not in learners
    ]
