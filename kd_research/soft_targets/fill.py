"""What is cached of a run's teacher: a store for each split, and what fills it.

Shapes: N examples of the split, M of them, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.configuration.stage_checks import stage_epochs
from kd_research.data.module import DataModule
from kd_research.data.sources import Split
from kd_research.interfaces import Batch, Inputs, Output
from kd_research.soft_targets.store import LOGITS, SoftTargets, TooLargeError
from kd_research.soft_targets.together import fill_view

log = logging.getLogger(__name__)
LARGE_VOCABULARY = 2048  # tokens: above, top_k=auto keeps these most probable ones, and the tail
TOKENS_TOP_K = 50
MANY_LOGITS = 1 << 24  # of examples that the teacher is asked together: 64 MB in float32


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
    of_tokens = any(len(shape) > 1 for name, shape in shapes.items() if name != LOGITS)
    if of_tokens and isinstance(data.train.inputs, dict) and not data.has_positions:
        log.warning(
            "the teacher runs live: the loss looks at its tokens, whose number changes from batch "
            "to batch"
        )
        return None
    few = what_is_cached(settings, shapes[LOGITS])
    epochs = config["trainer"]["max_epochs"]
    stages = (config["loss"].get("stages") or {}).values()
    num_views = data.num_views or max([epochs, *(stage_epochs(each, epochs) for each in stages)])
    view = None if data.num_views == 1 else [data.seed, config["dataset"].get("augment")]
    try:
        return SoftTargets(
            Path(config["output_dir"]) / "soft_targets",
            [teacher_key, data.fingerprint(), view, config["channels_last"]],
            len(data.train),
            shapes,
            num_views,
            max_gb=settings["max_gb"],
            **few,
        )
    except TooLargeError as error:
        if data.num_views is not None and data.num_views > 1:
            raise
        log.warning("the teacher runs live: %s", error)
        return None


def what_is_cached(settings: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The store's dtype, top_k and draws: as `soft_targets` says, or by the number of classes.

    Args:
        settings: the configuration's `soft_targets`.
        shape: of one example's logits.
    """
    dtype, top_k, draws = settings["dtype"], settings["top_k"], settings.get("draws")
    if top_k == "auto":
        is_large = len(shape) == 2 and shape[1] > LARGE_VOCABULARY
        top_k = TOKENS_TOP_K if is_large and draws is None else None
        dtype = dtype or ("float16" if top_k else "float32")
    return {"dtype": dtype or "float32", "top_k": top_k, "draws": draws}


def check_draws(cached: SoftTargets | None, terms: nn.ModuleDict) -> None:
    """Whether every term may be given draws in place of the teacher's distribution.

    Args:
        cached: the store, if there is one.
        terms: name -> loss; one that is linear in the teacher's distribution, so that its gradient
            stays unbiased, has a true `takes_draws`.

    Raises:
        ValueError: one may not.
    """
    if cached is None or cached.encoding.draws is None:
        return
    wrong = [name for name, loss in terms.items() if not getattr(loss, "takes_draws", False)]
    if wrong:
        raise ValueError(
            f"soft_targets.draws caches samples of the teacher's distribution at temperature 1, "
            f"which only its forward KL divergence can learn from, not {', '.join(wrong)}; type "
            "loss=fkl loss.temperature=1, or soft_targets.draws=null"
        )


def evaluation_store(
    config: Mapping[str, Any],
    data: DataModule,
    teacher_key: Any,
    split_name: str,
    num_positions: int,
) -> SoftTargets | None:
    """The store of the teacher's logits of text, (T, V), for a split that is not trained on.

    Whole and in float32; None where it would be too large, or nothing is cached: the teacher runs
    live.

    Args:
        config: the whole resolved configuration.
        data: the data.
        teacher_key: the teacher's `key`.
        split_name: "val" or "test".
        num_positions: T.
    """
    if not config["soft_targets"]["cache"]:
        return None
    try:
        cached = SoftTargets(
            Path(config["output_dir"]) / "soft_targets",
            [teacher_key, data.fingerprint(), split_name, config["channels_last"]],
            len(getattr(data, split_name)),
            {LOGITS: (num_positions, data.num_classes)},
            num_views=1,
            max_gb=config["soft_targets"]["max_gb"],
        )
    except TooLargeError:
        return None
    cached.start_epoch(0)
    return cached


def evaluation_logits(
    config: Mapping[str, Any],
    data: DataModule,
    teacher_key: Any,
    split_name: str,
    predict: Callable[[Tensor], Tensor],
) -> Tensor:
    """(N, C) float32 on the CPU: the teacher's logits for a split that is not trained on.

    Whole and in float32, whatever is cached of the training split, also where that asks a live
    teacher: metrics are computed from them.

    Args:
        config: the whole resolved configuration.
        data: the data.
        teacher_key: the teacher's `key`.
        split_name: "val" or "test".
        predict: positions in the split, (M,) int64 -> the teacher's logits for those, (M, C).
    """
    every = torch.arange(len(getattr(data, split_name)))
    try:
        cached = SoftTargets(
            Path(config["output_dir"]) / "soft_targets",
            [teacher_key, data.fingerprint(), split_name, config["channels_last"]],
            len(every),
            {LOGITS: (data.num_classes,)},
            num_views=1,
            max_gb=config["soft_targets"]["max_gb"],
        )
    except TooLargeError:
        return predict(every)
    cached.start_epoch(0)
    fill_view(cached, lambda rows: Output(predict(rows), {}), examples_at_once(data))
    return cached.outputs(every, lambda rows: Output(predict(rows), {})).logits


def fill(
    cached: SoftTargets,
    data: DataModule,
    teach: Callable[[Inputs], Output],
    device: torch.device,
    views: Iterable[int],
) -> None:
    """Compute all that is missing of these views of the training split, beside whoever else does.

    Args:
        cached: the store.
        data: the data.
        teach: prepared inputs -> the teacher's output, both on `device`.
        device: the teacher's.
        views: which; the store is left at the last one.
    """
    for view in views:
        cached.start_epoch(view)
        fill_split(cached, data, data.train, teach, device, data.view(view))


def fill_split(
    cached: SoftTargets,
    data: DataModule,
    split: Split,
    teach: Callable[[Inputs], Output],
    device: torch.device,
    view: int | None = None,
) -> None:
    """Compute all that is missing of a split in the view that `cached` is at.

    Args:
        cached: the store.
        data: the data.
        split: of them.
        teach: prepared inputs -> the teacher's output, both on `device`.
        device: the teacher's.
        view: of the augmentation; None leaves the examples as they are.
    """

    def compute(index: Tensor) -> Output:
        examples = split.take(index.to(split.labels.device))
        batch = Batch(examples.inputs, examples.labels, index)
        batch = data.transfer_batch_to_device(batch, device, 0)
        return teach(data.prepare(batch, view).inputs)

    fill_view(cached, compute, examples_at_once(data))


def examples_at_once(data: DataModule) -> int:
    """How many examples the teacher is asked together: a batch, or of text what memory holds."""
    if not data.has_positions:
        return data.batch_size
    logits = data.train.labels[0].numel() * data.num_classes
    return max(1, min(data.batch_size, MANY_LOGITS // logits))
