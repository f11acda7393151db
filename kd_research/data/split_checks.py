"""Whether splits are what the configuration says of them."""

from __future__ import annotations

from collections.abc import Mapping

from kd_research.data.sources import Split


def split_problems(
    splits: Mapping[str, Split],
    dataset: str,
    expected: tuple[int, ...] | None,
    num_classes: int,
    is_moved: bool,
) -> list[str]:
    """What is wrong with a data set's splits, a line a problem.

    Args:
        splits: train, val and test.
        dataset: its name, for the messages.
        expected: the shape of one example; None where that is not known.
        num_classes: C.
        is_moved: whether an augmentation moves the examples.
    """
    problems = []
    for split_name, split in splits.items():
        if len(split) == 0:
            problems.append(f"the {split_name} split of dataset {dataset!r} is empty")
            continue
        shape = split.example_shape
        if expected is not None and shape != expected:
            problems.append(
                f"dataset.input_shape is {[*expected]}, but {split_name} examples of "
                f"{dataset!r} are {[*shape]}; try dataset.input_shape={[*shape]}"
            )
        problems += split.label_problems(split_name, dataset, num_classes)
    if splits["train"].labels.ndim > 1 and is_moved:
        problems.append(
            f"dataset.augment moves pictures but not the labels of their positions, which "
            f"{dataset!r} has; type none of its settings"
        )
    return problems
