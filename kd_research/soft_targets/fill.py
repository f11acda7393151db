"""What is cached of a run's teacher: a store for each split, and filling it ahead of the fit.

Shapes: N examples of the split, M of them, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor

from kd_research.data.module import DataModule
from kd_research.interfaces import Batch, Inputs, Output
from kd_research.soft_targets.store import LOGITS, SoftTargets, TooLargeError

log = logging.getLogger(__name__)


def cache(
    config: Mapping[str, Any],
    data: DataModule,
    teacher_key: Any,
    shapes: Mapping[str, tuple[int, ...]],
) -> SoftTargets | None:
    """The store for a run's teacher on its training split, or None where the teacher runs live.

    Args:
        config: the whole resolved configuration.
        data: the data, its views set.
        teacher_key: the teacher's `key`.
        shapes: name -> shape of one example's output.

    Raises:
        ValueError: a setting that does not fit; or the store is too large for the stated views.
    """
    settings = config["soft_targets"]
    if not settings["cache"]:
        return None
    num_views = data.num_views or config["trainer"]["max_epochs"]
    view = None if data.num_views == 1 else [data.seed, config["dataset"].get("augment")]
    try:
        return SoftTargets(
            Path(config["output_dir"]) / "soft_targets",
            [teacher_key, data.fingerprint(), view, config["channels_last"]],
            len(data.train),
            shapes,
            num_views,
            settings["dtype"],
            settings["top_k"],
            settings["max_gb"],
        )
    except TooLargeError as error:
        if data.num_views is not None and data.num_views > 1:
            raise
        log.warning("the teacher runs live: %s", error)
        return None


def evaluation_logits(
    config: Mapping[str, Any],
    data: DataModule,
    teacher_key: Any,
    split_name: str,
    predict: Callable[[Tensor], Tensor],
) -> Tensor:
    """(N, C) float32 on the CPU: the teacher's logits for a split that is not trained on.

    Whole and in float32, whatever is cached of the training split: metrics are computed from them.

    Args:
        config: the whole resolved configuration.
        data: the data.
        teacher_key: the teacher's `key`.
        split_name: "val" or "test".
        predict: positions in the split, (M,) int64 -> the teacher's logits for those, (M, C).
    """
    settings, every = config["soft_targets"], torch.arange(len(getattr(data, split_name)))
    if not settings["cache"]:
        return predict(every)
    try:
        cached = SoftTargets(
            Path(config["output_dir"]) / "soft_targets",
            [teacher_key, data.fingerprint(), split_name, config["channels_last"]],
            len(every),
            {LOGITS: (data.num_classes,)},
            num_views=1,
            max_gb=settings["max_gb"],
        )
    except TooLargeError:
        return predict(every)
    cached.start_epoch(0)
    return cached.outputs(every, lambda rows: Output(predict(rows), {})).logits


def fill(
    cached: SoftTargets,
    data: DataModule,
    teach: Callable[[Inputs], Output],
    device: torch.device,
    views: int | None = None,
) -> None:
    """Compute all that is missing, ahead of the fit; a second process waits, then finds it done.

    Args:
        cached: the store.
        data: the data.
        teach: prepared inputs -> the teacher's output, both on `device`.
        device: the teacher's.
        views: how many, from the first; None is all.
    """
    with filelock.FileLock(cached.directory / "fill.lock"):
        for view in range(views or cached.num_views):
            cached.start_epoch(view)
            missing = cached.missing()
            for start in range(0, len(missing), data.batch_size):
                index = missing[start : start + data.batch_size]
                examples = data.train.take(index)
                batch = Batch(examples.inputs, examples.labels, index)
                batch = data.transfer_batch_to_device(batch, device, 0)
                inputs = data.prepare(batch, data.view(view)).inputs
                cached.outputs(batch.index, partial(_all, teach, inputs))


def _all(teach: Callable[[Inputs], Output], inputs: Inputs, rows: Tensor) -> Output:
    return teach(inputs)  # every row is missing
