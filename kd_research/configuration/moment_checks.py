"""Checks of what images and columns are normalised by: `dataset.mean` and `dataset.std`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd_research.configuration.own_classes import PACKAGE
from kd_research.configuration.structure import value_at
from kd_research.configuration.values import is_count, is_number

# Mean and deviation by which public checkpoints were trained, of pixels in [0, 1]: by name.
KNOWN: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
    "mnist": ([0.1307], [0.3081]),
    "half": ([0.5], [0.5]),  # [-1, 1]
    "none": ([0.0], [1.0]),
}


def normalising_problems(whole: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the numbers of the data sets of ours that a configuration states.

    Args:
        whole: a configuration, resolved.
    """
    for at in ("dataset", "teacher.dataset", "student.pretraining.dataset"):
        own = value_at(whole, at) or {}  # but for the first, what is another there
        dataset = {**whole["dataset"], **own}
        shape = dataset.get("input_shape")
        ours = str(dataset.get("_target_")).startswith(f"{PACKAGE}.")
        if ours and isinstance(shape, list) and shape and is_count(shape[0]):
            yield from moment_problems(own.get("mean"), own.get("std"), shape[0], at)


def moment_problems(mean: Any, std: Any, num: int, at: str = "dataset") -> Iterator[str]:
    """What of the two cannot normalise `num` channels, a line each; None is as measured.

    Args:
        mean: numbers, or a name of `KNOWN`, as the deviation.
        std: the deviation.
        num: of an example's channels, or of its columns.
        at: the data set's key.
    """
    for place, (name, given, example) in enumerate((("mean", mean, "0.5"), ("std", std, "0.25"))):
        if given is None:
            continue
        if isinstance(given, str) and given not in KNOWN:
            yield (
                f"{at}.{name} must be numbers, one per channel, or one of {', '.join(KNOWN)}, "
                f"got {given!r}; try {at}.{name}=imagenet"
            )
            continue
        values = KNOWN[given][place] if isinstance(given, str) else given
        right = isinstance(values, Sequence) and len(values) in (1, num)
        if not (right and all(is_number(v, above=0 if name == "std" else None) for v in values)):
            yield (
                f"{at}.{name} must be {num} numbers{' above 0' * (name == 'std')}, one per "
                f"channel, or a list of a single one for all, got {values}; "
                f"try {at}.{name}=[{','.join([example] * num)}]"
            )
