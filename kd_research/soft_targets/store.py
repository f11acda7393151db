"""Teacher outputs cached on disk: computed once per (example, view), read ever after.

In this fit, in later epochs, in other trials and in other processes. A row of the store is one
example in one view of the augmentation: the teacher's logits and the features that the loss wants
(`row_file.py`). Any number of processes fill one store as they go; what one was killed over, or
what was damaged since, is computed again.

What decides a teacher's output is in the store's key (`key`), so that nothing stale is found.

Shapes: N examples of the split, B batch, C classes, W 64-bit words of a row, M of B rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_research.data.store import content_key
from kd_research.interfaces import Output
from kd_research.records.record import write_json
from kd_research.soft_targets.encoding import LOGITS, Encoding
from kd_research.soft_targets.row_file import RowFile

__all__ = ["LOGITS", "SoftTargets", "TooLargeError"]

_VERSION = 2


class TooLargeError(ValueError):
    """The cached outputs would take more than they may."""


class SoftTargets:
    """A teacher's outputs for one split.

    Args:
        directory: the folder of all stores.
        key: a JSON value with all that decides the outputs: teacher, data, view, normalisation.
        num_examples: N.
        shapes: name -> shape of one example's output; "logits" and the features.
        num_views: how many views there are; view v of epoch e is e modulo this.
        dtype: "float32" or "float16", of what is kept.
        top_k: keep the k largest logits and the log of the others' joint mass, which is spread
            evenly over them: exact at temperature 1 but for that spread. None keeps all.
        max_gb: the most that the store may come to, in 10^9 bytes.
        draws: keep so many random draws from the softmax at temperature 1 instead; None: not so.

    Raises:
        ValueError: an unknown dtype, a top_k outside 1 to C - 1, views below 1, a wrong number of
            draws, or a store above `max_gb`; the message says what would fit.
    """

    def __init__(
        self,
        directory: Path,
        key: Any,
        num_examples: int,
        shapes: Mapping[str, tuple[int, ...]],
        num_views: int,
        dtype: str = "float32",
        top_k: int | None = None,
        max_gb: float = 8.0,
        draws: int | None = None,
    ):
        if num_views < 1:
            raise ValueError(f"soft_targets.views must be >= 1, got {num_views}")
        self.encoding = Encoding(shapes, dtype, top_k, draws)
        self.num_examples, self.num_views = num_examples, num_views
        self._words = self.encoding.words + 1
        described = [_VERSION, key, num_examples, sorted(shapes.items()), dtype, top_k, draws]
        self.key = content_key(described)
        self.directory = directory / self.key
        self._check_size(max_gb)
        self._seed = int(self.key[:15], 16)
        self._file: RowFile | None = None
        self._whole: Tensor | None = None
        self.view = 0
        self.computed = 0
        self.filling_seconds = 0.0  # processor time of this process's latest `fill_view`
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.directory / "key.json").exists():
            write_json(self.directory / "key.json", described)

    def _check_size(self, max_gb: float) -> None:
        row = self._words * 8
        size = row * self.num_examples * self.num_views
        if size > max_gb * 1e9:
            fitting = int(max_gb * 1e9 // (row * self.num_examples))
            raise TooLargeError(
                f"the cached teacher outputs would take {size / 1e9:.1f} GB ({self.num_examples} "
                f"examples x {self.num_views} views x {row} bytes), soft_targets.max_gb is "
                f"{max_gb:g}; type soft_targets.views={max(1, fitting)}, "
                f"soft_targets.dtype=float16, soft_targets.top_k=10, "
                f"soft_targets.max_gb={math.ceil(size / 1e9)} or soft_targets.cache=false"
            )

    def start_epoch(self, epoch: int) -> None:
        """Turn to the epoch's view: to all its rows at once, on the device, if each is there."""
        view = epoch % self.num_views
        if self._file is None or view != self.view:
            path = self.directory / f"view-{view:04d}.bin"
            self._file = RowFile(path, self.num_examples, self._words, self._seed + view)
        self.view = view
        self._whole = self._file.rows if self._file.missing().numel() == 0 else None

    def missing(self, index: Tensor | None = None) -> Tensor:
        """(M,) int64: the examples that are not there, or damaged, in the epoch's view.

        Args:
            index: of these, (B,) int64; None: of all.
        """
        assert self._file is not None
        if index is None:
            return self._file.missing()
        _, whole = self._file.read(index)
        return index[~whole]

    def outputs(self, index: Tensor, compute: Callable[[Tensor], Output]) -> Output:
        """The teacher's outputs for these examples in the epoch's view, on `index`'s device.

        Args:
            index: (B,) int64, positions in the split.
            compute: positions in the batch, (M,) int64 -> the teacher's output for those M; called
                only for rows that are not there.
        """
        return self.encoding.decode(self.rows(index, compute))

    def rows(
        self, index: Tensor, compute: Callable[[Tensor], Output], at_once: int | None = None
    ) -> Tensor:
        """(B, W) int64, the rows of these examples, on `index`'s device; see `outputs`.

        Args:
            index: (B,) int64.
            compute: as of `outputs`.
            at_once: examples that are computed together, at most; None: all that are missing.
        """
        if self._whole is not None:
            if self._whole.device != index.device:
                self._whole = self._whole.to(index.device)
            return self._whole.index_select(0, index)
        assert self._file is not None
        at = index.cpu()
        rows, whole = self._file.read(at)
        missing = (~whole).nonzero().squeeze(1)
        for places in torch.split(missing, at_once or len(at)) if len(missing) else ():
            seeds = self._seed + self.view * self.num_examples + at[places]
            made = self.encoding.encode(compute(places.to(index.device)), seeds)
            self._file.write(at[places], made)
            rows.index_copy_(0, places, made)
            self.computed += places.numel()
        return rows.to(index.device)

    def summary(self) -> dict[str, Any]:
        """For the record: the store, its views, and how many outputs this process computed."""
        return {"key": self.key, "views": self.num_views, "computed": self.computed}
