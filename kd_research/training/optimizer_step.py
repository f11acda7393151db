"""The batches of an optimizer step, of which several may be accumulated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

from kd_research.interfaces import Batch


class OptimizerStep(NamedTuple):
    """Which batches one step of the optimizer has.

    Attributes:
        number: of the step in the fit.
        first: number, in the epoch, of its first batch.
        end: of the batch after its last.
    """

    number: int
    first: int
    end: int


def steps_of_an_epoch(trainer: Trainer) -> int:
    """How many there are; the last one may have fewer batches."""
    return -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)


def step_of(trainer: Trainer, batch_idx: int) -> OptimizerStep:
    """The step to which a batch of the current epoch belongs."""
    size = trainer.accumulate_grad_batches
    in_epoch = batch_idx // size
    end = min((in_epoch + 1) * size, int(trainer.num_training_batches))
    number = trainer.current_epoch * steps_of_an_epoch(trainer) + in_epoch
    return OptimizerStep(number, in_epoch * size, end)


def num_labels(trainer: Trainer, step: OptimizerStep) -> int:
    """How many labels the data have in the step's batches, over all processes."""
    loader: Any = trainer.train_dataloader
    return int(loader.num_labels(step.first, step.end))


def later_batches(trainer: Trainer, step: OptimizerStep) -> Iterator[Batch]:
    """The step's batches after its first, prepared and on the device, before the loader gives them.

    Of examples in memory.
    """
    loader: Any = trainer.train_dataloader
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    for batch in loader.numbered(step.first + 1, step.end):
        there = data.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
        yield data.on_after_batch_transfer(there, 0)
