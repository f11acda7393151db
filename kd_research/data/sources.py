"""Where examples come from: functions that give the splits of a data set, before any cutting.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd_research.data.decode import Part, decoded, read_meta
from kd_research.data.hub import Source
from kd_research.data.store import open_array
from kd_research.data.stream import EncodedImages, open_stream
from kd_research.data.table import Table
from kd_research.data.text import Tokens
from kd_research.interfaces import Inputs
from kd_research.losses.positions import IGNORED

if TYPE_CHECKING:
    import tokenizers


class Examples(NamedTuple):
    """Examples taken out of a split: inputs (B, ...), or a dict of such, and the labels."""

    inputs: Inputs
    labels: Tensor


@dataclass(frozen=True)
class Split:
    """Examples of one split: all those of `inputs`, or some.

    Attributes:
        inputs: (M, ...), any dtype, perhaps memory-mapped; a dict of such for text; or images
            that are decoded when they are taken. Normalisation comes later, on the device; bytes
            stand for pixels of 0 to 255.
        labels: (N,) int64; of many positions (N, T) or (N, H, W), any whole numbers, -100 where
            nothing is learnt.
        rows: (N,) int64, where in `inputs` each example is; None where N = M, in order.
        num_bytes: (N,) int64, the bytes of text that the labels of each example are; None where
            they are no text.
    """

    inputs: Inputs | EncodedImages
    labels: Tensor
    rows: Tensor | None = None
    num_bytes: Tensor | None = None

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(self.labels)

    def take(self, index: Tensor) -> Examples:
        """The examples at `index`, (B,) int64, copied out."""
        rows = index if self.rows is None else self.rows.index_select(0, index)
        labels = self.labels.index_select(0, index).long()
        if not isinstance(self.inputs, dict):
            return Examples(self.inputs.index_select(0, rows), labels)
        taken = {name: value.index_select(0, rows).long() for name, value in self.inputs.items()}
        return Examples(_trim(taken) if labels.ndim == 1 else taken, labels)

    def part(self, index: Tensor) -> Split:
        """The examples at `index`, (N',) int64, left where they are."""
        rows = index if self.rows is None else self.rows[index]
        num_bytes = None if self.num_bytes is None else self.num_bytes[index]
        return Split(self.inputs, self.labels[index], rows, num_bytes)

    def to(self, device: torch.device) -> Split:
        """The split on a device, without the examples that it does not have."""
        inputs = self.take(torch.arange(len(self))).inputs if self.rows is not None else self.inputs
        if isinstance(inputs, dict):
            moved = {name: value.to(device) for name, value in inputs.items()}
            return Split(moved, self.labels.to(device), num_bytes=self.num_bytes)
        assert isinstance(inputs, Tensor)
        return Split(inputs.to(device), self.labels.to(device))

    @cached_property
    def num_valid(self) -> Tensor:
        """(N,) int64 on the CPU: how many labels each example has; 1 unless it has positions."""
        if self.labels.ndim == 1:
            return torch.ones(len(self), dtype=torch.int64)
        parts = [(part != IGNORED).flatten(1).sum(dim=1) for part in torch.split(self.labels, 1024)]
        return torch.cat(parts).cpu()

    def label_problems(self, split_name: str, dataset: str | None, num_classes: int) -> list[str]:
        """What is wrong with the labels of at least one example, a line a problem."""
        barren = (self.num_valid == 0).nonzero().squeeze(1)
        if split_name == "train" and len(barren):
            return [
                f"{len(barren)} of {len(self)} train examples of {dataset!r} have nothing to "
                f"learn: all their labels are {IGNORED}, the first is example {int(barren[0])}; "
                "leave them out of the data"
            ]
        if not int(self.num_valid.sum()):
            return [f"all labels of the {split_name} split of {dataset!r} are {IGNORED}"]
        least, most = num_classes, -1
        for part in torch.split(self.labels, 1024 if self.labels.ndim > 1 else len(self)):
            valid = part if part.ndim == 1 else part[part != IGNORED]
            if len(valid):
                least, most = min(least, int(valid.min())), max(most, int(valid.max()))
        if least < 0 or most >= num_classes:
            return [
                f"dataset.num_classes is {num_classes}, but {split_name} labels of "
                f"{dataset!r} run from {least} to {most}"
            ]
        return []

    @property
    def is_streamed(self) -> bool:
        """Whether examples are decoded as they are taken."""
        return isinstance(self.inputs, EncodedImages)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example; of one token sequence for text."""
        return tuple(self._first.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the inputs."""
        return self._first.dtype

    @property
    def _first(self) -> Tensor | EncodedImages:
        return next(iter(self.inputs.values())) if isinstance(self.inputs, dict) else self.inputs

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the inputs; none where they are streamed."""
        if isinstance(self.inputs, dict):
            return list(self.inputs.values())
        return [self.inputs] if isinstance(self.inputs, Tensor) else []


def _trim(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Text without the columns that are padding in all rows."""
    mask = inputs["attention_mask"]
    length = max(1, int(mask.sum(dim=1).max())) if len(mask) else 1
    return {name: value[:, :length] for name, value in inputs.items()}


@dataclass(frozen=True)
class Splits:
    """A data set as published; what is None is cut from train by the DataModule.

    Attributes:
        train: the training split.
        val: the validation split, if one is published.
        test: the test split, if one is published.
        content: names the content; None has it computed from the tensors.
        class_names: C names; None where there are none.
        mean: of the training split's pixels in [0, 1], per channel, if known.
        std: their deviation.
        tokenizer: what made a language model's tokens, with `encode`, `decode`, `get_vocab_size`.
    """

    train: Split
    val: Split | None = None
    test: Split | None = None
    content: str | None = None
    class_names: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    tokenizer: tokenizers.Tokenizer | None = None


def digits() -> Splits:
    """scikit-learn's handwritten digits: 1,797 real 8x8 images, 10 classes, pixels in [0, 1].

    The set (UCI Optical Recognition of Handwritten Digits, test part) has no split of its own. The
    file is read that `sklearn.datasets.load_digits` reads: to import that takes longer than torch.
    """
    installed = find_spec("sklearn")
    assert installed is not None
    assert installed.origin is not None
    path = Path(installed.origin).with_name("datasets") / "data" / "digits.csv.gz"
    table = torch.from_numpy(np.loadtxt(path, delimiter=","))
    return Splits(Split(table[:, :-1].float().div(16).view(-1, 1, 8, 8), table[:, -1].long()))


def synthetic(
    input_shape: Sequence[int], num_classes: int, num_train: int, num_test: int, noise: float
) -> Splits:
    """Examples about a random prototype per class: for trying things out, never for results.

    Args:
        input_shape: of one example.
        num_classes: C.
        num_train: training examples, validation included.
        num_test: test examples.
        noise: standard deviation about the prototypes, whose own is 1.

    Raises:
        ValueError: there are fewer examples than classes.
    """
    if min(num_train, num_test) < num_classes:
        raise ValueError(
            f"synthetic data need num_train and num_test >= num_classes={num_classes}, "
            f"got {num_train} and {num_test}"
        )
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(num_classes, *input_shape, generator=generator)

    def draw(num: int) -> Split:
        labels = torch.arange(num) % num_classes
        inputs = torch.randn(num, *input_shape, generator=generator).mul_(noise)
        return Split(inputs.add_(prototypes[labels]), labels)

    return Splits(draw(num_train), test=draw(num_test))


def images(
    source: Source, input_shape: Sequence[int], num_classes: int, resize: bool, store: Path
) -> Splits:
    """A set of images, decoded once per machine into `store` and memory-mapped from there."""
    folder = decoded(source, num_classes, store, input_shape=input_shape, resize=resize)
    return _read(folder)


def stream(
    source: Source,
    input_shape: Sequence[int],
    num_classes: int,
    resize: bool,
    store: Path,
    workers: int,
) -> Splits:
    """A set of images that are decoded as they are asked for, by `workers` processes."""
    opened, names, content = open_stream(source, input_shape, num_classes, resize, store, workers)
    splits = {name: Split(*parts) for name, parts in opened.items()}
    return Splits(
        splits["train"], splits.get("validation"), splits.get("test"), content, class_names=names
    )


def text(
    source: Source,
    num_classes: int,
    tokens: Tokens,
    store: Path,
    part: Part | None = None,
) -> Splits:
    """A set of sentences as token ids, made once per machine in `store`."""
    return _read(decoded(source, num_classes, store, tokens=tokens, part=part))


def table(
    source: Source,
    input_shape: Sequence[int],
    num_classes: int,
    columns: Table,
    store: Path,
    part: Part | None = None,
) -> Splits:
    """A table as rows of numbers, made once per machine in `store`."""
    folder = decoded(source, num_classes, store, input_shape=input_shape, table=columns, part=part)
    return _read(folder)


def _read(folder: Path) -> Splits:
    meta = read_meta(folder)
    splits: dict[str, Split] = {}
    for name in meta["splits"]:
        known = meta["splits"][name]
        array = torch.from_numpy(open_array(folder / f"{name}-inputs.npy", known["inputs"]))
        labels = torch.from_numpy(open_array(folder / f"{name}-labels.npy", known["labels"]))
        labels = labels.clone()
        inputs: Inputs = array
        if meta["kind"] == "text":
            lengths = torch.from_numpy(open_array(folder / f"{name}-lengths.npy", known["lengths"]))
            mask = torch.arange(array.shape[1]) < lengths.unsqueeze(1)
            inputs = {"input_ids": array.long(), "attention_mask": mask.long()}
        if not len(array) == len(labels) == meta["splits"][name]["num"]:
            raise ValueError(f"{folder} is damaged; delete it and run again: it is made anew")
        splits[name] = Split(inputs, labels)
    return Splits(
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        content=content_of(meta["splits"]),
        class_names=meta["class_names"],
        mean=meta.get("mean"),
        std=meta.get("std"),
    )


def content_of(splits: Mapping[str, Mapping[str, object]]) -> str:
    """What names the content of splits, of what their `meta.json` says of each."""
    return repr(sorted((name, sorted(split.items())) for name, split in splits.items()))
