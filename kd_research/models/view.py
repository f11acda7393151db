"""What a net sees of an example: some channels, a crop, another resolution.

Teacher and student may look at the same example in different ways: `teacher.view` and
`student.view` in YAML. The data set's example is all that there is; a view is a part of it. That is
privileged information (the teacher sees more columns; Lopez-Paz et al. 2016, arXiv:1511.03643) and
distillation across resolutions. A view's `columns`, names of `dataset.input_columns`, become
channels before it is made: distillation across modalities, where an example has several images.

Shapes: B batch, C channels of an image, or columns of a table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class View:
    """A part of a prepared example, taken in this order: channels, crop, size.

    Args:
        channels: of an image, or columns of a table: the numbers of those that are seen, in this
            order, or "FIRST:END" as Python's slices have it, "0:50" being the first 50; None is
            all.
        crop: [height, width] of the centre that is seen; None is all.
        size: [height, width] to which that is brought: means over areas where it becomes smaller,
            bilinear where it becomes larger; None leaves it.

    Raises:
        ValueError: a value that is not of its kind, all of them at once.
    """

    def __init__(
        self,
        channels: Sequence[int] | str | None = None,
        crop: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
    ):
        self.channels = _channels(channels)
        self.crop, self.size = crop, size
        problems = []
        if channels is not None and self.channels is None:
            problems.append(
                "view.channels must be numbers from 0, at least one, or 'FIRST:END', got "
                f"{channels!r}; try [0], or '0:50'"
            )
        for name in ("crop", "size"):
            pair = getattr(self, name)
            if pair is not None and not _is_size(pair):
                problems.append(
                    f"view.{name} must be [height, width], whole numbers >= 1, got {pair}; "
                    "try [7, 7]"
                )
        if problems:
            raise ValueError("\n".join(problems))

    def shape(self, whole: Sequence[int]) -> list[int]:
        """The shape of what is seen of an example of the shape `whole`, without the batch.

        Raises:
            ValueError: the example has no such channels, or is smaller than the crop.
        """
        seen = list(whole)
        if self.channels is not None:
            stated = self.channels
            last = stated.stop - 1 if isinstance(stated, slice) else max(stated)
            if last >= seen[0]:
                raise ValueError(
                    f"view.channels has {last}, but an example has the channels (or columns) 0 to "
                    f"{seen[0] - 1}"
                )
            number = stated.stop - stated.start if isinstance(stated, slice) else len(stated)
            seen[0] = number
        if (self.crop or self.size) and len(seen) != 3:
            raise ValueError(
                f"view.crop and view.size are of images, an example here is {seen}; "
                "type view.channels=[0,1] for columns of a table"
            )
        if self.crop:
            if self.crop[0] > seen[1] or self.crop[1] > seen[2]:
                raise ValueError(f"view.crop={[*self.crop]} is larger than the example, {seen[1:]}")
            seen[1:] = self.crop
        if self.size:
            seen[1:] = self.size
        return seen

    def __call__(self, inputs: Tensor) -> Tensor:
        """(B, C, ...) -> what is seen of it."""
        if self.channels is not None:
            inputs = inputs[:, self.channels]
        if self.crop:
            top = (inputs.shape[2] - self.crop[0]) // 2
            left = (inputs.shape[3] - self.crop[1]) // 2
            inputs = inputs[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        if self.size:
            height, width = self.size
            smaller = height <= inputs.shape[2] and width <= inputs.shape[3]
            mode: dict[str, Any] = {"mode": "area"}
            if not smaller:
                mode = {"mode": "bilinear", "align_corners": False}
            inputs = F.interpolate(inputs, size=(height, width), **mode)
        return inputs

    def put_before(self, model: nn.Module) -> None:
        """Have `model` see this of whatever it is called with; its layers keep their names."""
        model.register_forward_pre_hook(self._hook)

    def _hook(self, module: nn.Module, arguments: tuple[Any, ...]) -> Tensor:
        if len(arguments) != 1 or not isinstance(arguments[0], Tensor):
            raise ValueError("a view is of images or of the columns of a table, not of text")
        return self(arguments[0])


def _channels(stated: Any) -> slice | list[int] | None:
    """What picks the channels; None where it is not such a thing."""
    if isinstance(stated, str):
        found = re.fullmatch(r"(\d*):(\d+)", stated)
        first, end = (int(found[1] or 0), int(found[2])) if found else (0, 0)
        return slice(first, end) if first < end else None
    if isinstance(stated, Sequence) and stated and all(_is_whole(each, 0) for each in stated):
        return list(stated)
    return None


def _is_size(pair: Any) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and all(_is_whole(x, 1) for x in pair)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
