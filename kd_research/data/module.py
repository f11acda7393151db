"""The LightningDataModule: cuts the splits, serves batches, and prepares them on the device."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor

from kd_research.data import random_windows as anywhere
from kd_research.data.augment import Augment
from kd_research.data.batches import Batches
from kd_research.data.crops import centre
from kd_research.data.cuts import choose, cut, refuse_one_example
from kd_research.data.digests import digest_of
from kd_research.data.moments import Moments, check_moments, moments
from kd_research.data.sources import Split, Splits
from kd_research.data.split_checks import split_problems
from kd_research.interfaces import Batch

log = logging.getLogger(__name__)

ON_DEVICE_BYTES = 8 << 30  # a training split up to this size lives on the accelerator


class DataModule(LightningDataModule):
    """One data set in memory, its validation split cut from train, stratified and by seed.

    The splits are loaded when the module is made, so that a wrong data set fails before anything
    is trained.

    Args:
        name: for reports.
        source: gives the published splits.
        num_classes: C, checked against the labels.
        batch_size: of the global batch, over all devices together.
        val_fraction: of the published training split, where no validation split is published.
        test_fraction: of all examples, where no test split is published.
        split_seed: of the cuts, apart from the run's seed: runs of all seeds share their splits.
        seed: of the order and the augmentation of the training examples.
        input_shape: of one example, checked against the data; None for text.
        decoded_shape: of one example in `source` where that is larger: training crops from it,
            evaluation takes its centre. None is `input_shape`.
        mean: per channel, subtracted from the inputs, of which bytes are divided by 255 first; a
            name is a known set's (`moments.py`), None the training split's, before `subset`.
        std: per channel, what they are then divided by; a measured 0 counts as 1.
        augment: makes the augmentation from the seed; None leaves the examples as they are.
        random_windows: whether training windows of a running text begin anywhere in it.
        subset: of the training split: a share (float, at most 1) or a count (int), stratified, by
            `split_seed`; None is all of it.
        exclude_classes: names or numbers of the classes that the training split is to lack, or a
            single one.
        only_classes: the only ones that it is to have; None is all.

    Raises:
        ValueError: the data do not have the stated shape or classes, a split is empty, or `mean` or
            `std` are no numbers for these channels.
    """

    def __init__(
        self,
        name: str,
        source: Callable[[], Splits],
        num_classes: int,
        batch_size: int,
        val_fraction: float,
        test_fraction: float,
        split_seed: int,
        seed: int,
        input_shape: Sequence[int] | None = None,
        mean: Moments = None,
        std: Moments = None,
        augment: Callable[..., Augment] | None = None,
        subset: float | int | None = None,
        exclude_classes: Sequence[str | int] | str | int | None = (),
        only_classes: Sequence[str | int] | str | int | None = None,
        decoded_shape: Sequence[int] | None = None,
        random_windows: bool = False,
    ):
        super().__init__()
        self.name, self.num_classes = name, num_classes
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self._decoded_shape = self.input_shape if decoded_shape is None else tuple(decoded_shape)
        self.batch_size, self.seed, self._augment = batch_size, seed, augment
        self.views: int | None = None  # how many views of an example there are; None: one an epoch
        self.channels_last, self.random_windows = False, random_windows
        _ = self.augment  # a wrong setting is told before the data are read
        splits = source()
        self.choices: tuple[int, ...] = ()  # token ids of which one is right: of label words
        self.class_names, self.tokenizer = splits.class_names, splits.tokenizer
        train, test = splits.train, splits.test
        if test is None:
            train, test = cut(train, test_fraction, split_seed, "test_fraction")
        if splits.val is None:
            self.train, self.val = cut(train, val_fraction, split_seed)
        else:
            self.train, self.val = train, splits.val
        self.test = test
        splits_now = {"train": self.train, "val": self.val, "test": self.test}
        moves = self.augment.changes
        if problems := split_problems(splits_now, name, self._decoded_shape, num_classes, moves):
            raise ValueError("\n".join(problems))
        refuse_one_example(self.train, name)
        whole = self.train  # before a subset is taken: teacher and student share their inputs
        self.train = choose(
            self.train,
            subset,
            exclude_classes,
            only_classes,
            num_classes,
            self.class_names,
            split_seed,
        )
        if self.random_windows and (problem := anywhere.problem(self.train)):
            raise ValueError(problem)
        self._content: Any = splits.content
        if self.train.is_streamed and (mean is None or std is None):
            raise ValueError(
                "a streamed set needs dataset.mean and dataset.std, a number per channel; "
                "try ImageNet's: [0.485,0.456,0.406] and [0.229,0.224,0.225]"
            )
        own_mean, own_std = splits.mean, splits.std
        is_cut = splits.val is None or splits.test is None
        if own_mean is not None and is_cut and (mean is None or std is None):
            own_mean, own_std = moments(whole)  # not of what was cut off for validation and test
        measured = own_std and [value or 1.0 for value in own_std]  # 0: a constant channel
        self._normaliser(mean or own_mean, std or measured)

    def _normaliser(self, mean: Moments, std: Moments) -> None:
        """Make normalisation one pass over the batch: x * scale + shift."""
        self._scale, self._shift = torch.ones(()), torch.zeros(())
        self._unit = 255.0 if self.train.dtype == torch.uint8 else 1.0
        if mean is None or std is None or self.input_shape is None:
            return
        mean, std = check_moments(mean, std, self.input_shape[0])
        shape = (-1, *[1] * (len(self.input_shape) - 1))
        deviation = torch.tensor(list(std), dtype=torch.float64).view(shape)
        self._scale = (1 / (self._unit * deviation)).float()
        self._shift = (-torch.tensor(list(mean)).view(shape) / deviation).float()

    @cached_property
    def augment(self) -> Augment:
        """The augmentation of this module's seed."""
        return self._augment(seed=self.seed) if self._augment else Augment(seed=self.seed)

    @property
    def has_positions(self) -> bool:
        """Whether an example has many labelled positions: tokens, or pixels."""
        return self.train.labels.ndim > 1

    @property
    def reading(self) -> dict[str, int]:
        """Of text whose tokens are labelled, how it is read: the perplexity depends on it."""
        shape = self.train.labels.shape
        return {"context": shape[1], "stride": shape[1]} if len(shape) == 2 else {}

    @property
    def num_views(self) -> int | None:
        """How many different views the training examples have; None: one an epoch, without end."""
        return self.views if self.augment.changes or self.random_windows else 1

    def view(self, epoch: int) -> int | None:
        """The view of an epoch; None is the example as it is."""
        if (views := self.num_views) is None:
            return epoch
        return None if views == 1 else epoch % views

    def fingerprint(self) -> str:
        """SHA-256 over the examples, labels and cuts: the same data give the same string."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        prepared = repr((self._scale.tolist(), self._shift.tolist()))
        if self._decoded_shape != self.input_shape:
            prepared += repr(self.input_shape)
        return digest_of(self._content, (self.train, self.val, self.test), prepared)

    def with_seed(self, seed: int) -> DataModule:
        """The same data, served in the order and the augmentation of another seed."""
        other = copy.copy(self)
        other.seed, other.views = seed, None
        other.__dict__.pop("augment", None)
        return other

    def with_train(self, split: Split, content: Any) -> DataModule:
        """The same data with another training split; `content`, a JSON value, decides all of it."""
        other = self.with_seed(self.seed)
        other.train, other.random_windows, other._content = split, False, self._content and content
        other.__dict__.pop("_fingerprint", None)
        return other

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Scale and shift on the CPU, per channel: prepared inputs are raw * scale + shift."""
        return self._scale.cpu(), self._shift.cpu()

    def batches(self, split: Split) -> Batches:
        """`split` in order, in one process: for evaluation."""
        return Batches(split, self.batch_size)

    def prepare(self, batch: Batch, view: int | None = None) -> Batch:
        """The batch augmented and normalised, on the device where it is; float32.

        Args:
            batch: with inputs as the split has them.
            view: of the augmentation; None leaves the examples as they are.
        """
        if isinstance(batch.inputs, dict):
            if view is None or not self.random_windows:
                return batch
            return anywhere.read(self.train, batch, view, self.seed)
        inputs = self._look(batch.inputs, batch.index, view)
        if view is None or not self.augment.mixes:
            return batch._replace(inputs=inputs)
        partners = self.augment.partners(batch.index, view, len(self.train))
        others = self.train.take(partners.to(self.train.labels.device))
        assert isinstance(others.inputs, Tensor)
        other_inputs = self._look(others.inputs.to(inputs.device), partners, view)
        mixed, labels = self.augment.mix(
            inputs,
            F.one_hot(batch.labels, self.num_classes).float(),
            other_inputs,
            F.one_hot(others.labels.to(inputs.device), self.num_classes).float(),
            batch.index,
            view,
        )
        return batch._replace(inputs=mixed, labels=labels)

    def _look(self, inputs: Tensor, index: Tensor, view: int | None) -> Tensor:
        size = None
        if self._decoded_shape != self.input_shape and self.input_shape is not None:
            size = (self.input_shape[1], self.input_shape[2])
        if view is not None:
            inputs = self.augment.move(inputs, index, view, size)
        if size is not None:
            inputs = centre(inputs, size)
        if view is not None and self.augment.colour is not None:
            inputs = self.augment.recolour(inputs.float() / self._unit, index, view) * self._unit
        if self._scale.device != inputs.device:
            self._scale, self._shift = self._scale.to(inputs.device), self._shift.to(inputs.device)
        inputs = inputs.to(torch.float32, copy=True).mul_(self._scale).add_(self._shift)
        if self.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs if view is None else self.augment.erase(inputs, index, view)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, index: int) -> Batch:
        """The batch on the device; itself if it is there, without Lightning's walk through it."""
        if batch.labels.device == device:
            return batch
        moved: Batch = super().transfer_batch_to_device(batch, device, index)
        return moved

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Lightning's hook, on the device."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return self.prepare(batch)
        return self.prepare(batch, self.view(trainer.current_epoch))

    def train_dataloader(self) -> Any:
        """This process's share of the training batches, shuffled anew each epoch."""
        return self._shared(self.train, self.seed)

    def val_dataloader(self) -> Any:
        """This process's share of the validation batches."""
        return self._shared(self.val, None)

    def _shared(self, split: Split, seed: int | None) -> Batches:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if trainer and trainer.strategy.root_device.type != "cpu":
            size = sum(len(split) * tensor[0].nbytes for tensor in split.tensors)
            if size <= ON_DEVICE_BYTES and not split.is_streamed:
                split = split.to(trainer.strategy.root_device)
        return Batches(split, self.batch_size, seed, rank, world_size)
