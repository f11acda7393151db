"""Splits cut by seed: validation out of train, and subsets of the training split.

Stratified by the labels; at random where an example has many labelled positions.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_research.data.checks import is_number, is_whole
from kd_research.data.sources import Split


def cut(
    split: Split, fraction: float, seed: int, setting: str = "val_fraction"
) -> tuple[Split, Split]:
    """The split without, and with only, a stratified `fraction` of its examples.

    Args:
        split: what is cut.
        fraction: above 0 and below 1.
        seed: of the choice, at least 0.
        setting: what `fraction` is called, for messages.

    Raises:
        ValueError: a class has fewer than two examples, a part has fewer than there are classes, or
            a number is out of its range.
    """
    if not is_whole(seed) or seed >= 1 << 32:
        raise ValueError(
            f"dataset.split_seed must be a whole number from 0 to 2^32 - 1, got {seed}; "
            "try dataset.split_seed=0"
        )
    if not is_number(fraction) or not 0 < fraction < 1:
        raise ValueError(
            f"dataset.{setting} must be above 0 and below 1, got {fraction}; "
            f"try dataset.{setting}=0.1"
        )
    strata = _strata(split)
    classes, counts = torch.unique(strata, return_counts=True)
    what = f"cannot cut {fraction} of {len(split)} examples off, stratified"
    if len(split) == 0:
        raise ValueError(f"{what}: there are none")
    if counts.min() < 2:
        raise ValueError(
            f"{what}: class {int(classes[counts.argmin()])} has a single example, a cut needs two "
            "of each; add examples or take the class out of the files"
        )
    num = math.ceil(fraction * len(split))
    if min(num, len(split) - num) < len(classes):
        raise ValueError(
            f"{what}: that leaves parts of {len(split) - num} and {num} for {len(classes)} "
            f"classes; try a {'larger' if fraction < 0.5 else 'smaller'} dataset.{setting}"
        )
    kept, taken = _drawn(strata.numpy(), num, seed)
    return split.part(kept), split.part(taken)


def _drawn(strata: NDArray[np.int64], num: int, seed: int) -> tuple[Tensor, Tensor]:
    """The places of all but `num` examples, and of these, each in order and stratified.

    They are those of scikit-learn's `train_test_split(..., stratify=strata)`, whose import takes
    longer than torch's: a test compares them.
    """
    random = np.random.RandomState(seed)
    counts = np.unique(strata, return_counts=True)[1]
    num_kept = _shares(counts, len(strata) - num, random)
    num_taken = _shares(counts - num_kept, num, random)
    kept, taken = [], []
    by_class = np.split(np.argsort(strata, kind="stable"), np.cumsum(counts)[:-1])
    for places, first, second in zip(by_class, num_kept, num_taken, strict=True):
        mixed = places[random.permutation(len(places))]
        kept.append(mixed[:first])
        taken.append(mixed[first : first + second])
    return _in_order(kept), _in_order(taken)


def _in_order(parts: list[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.sort(np.concatenate(parts)))


def _shares(
    counts: NDArray[np.int64], num: int, random: np.random.RandomState
) -> NDArray[np.int64]:
    """`num` spread in proportion: the largest remainders are rounded up, ties are drawn."""
    exact = counts / counts.sum() * num
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    remainders = exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if not (missing := num - shares.sum()):
            break
        (tied,) = np.nonzero(remainders == remainder)
        shares[random.choice(tied, size=min(len(tied), missing), replace=False)] += 1
    return shares


@dataclass(frozen=True)
class TrainingPart:
    """What stays of the published training split where validation or test is cut off it.

    Attributes:
        val_fraction: of what is not test, where no validation split is published.
        test_fraction: of all examples, where no test split is published.
        split_seed: of the cuts.
    """

    val_fraction: float
    test_fraction: float
    split_seed: int

    def rows(self, labels: NDArray[np.int64], published: Container[str]) -> list[int]:
        """Where the training part's examples are, by the cuts that the DataModule makes.

        Args:
            labels: (N,) of the published training split.
            published: the names of the published splits.

        Raises:
            ValueError: it cannot be cut so.
        """
        split = Split(torch.arange(len(labels)), torch.from_numpy(labels))
        if "test" not in published:
            split, _ = cut(split, self.test_fraction, self.split_seed, "test_fraction")
        if "validation" not in published:
            split, _ = cut(split, self.val_fraction, self.split_seed)
        rows: list[int] = split.take(torch.arange(len(split))).inputs.tolist()  # type: ignore[union-attr]
        return rows


def refuse_one_example(split: Split, name: str) -> None:
    """Refuse a training split whose examples are all the same: nothing can be learnt from them.

    Of images that are decoded as they are taken, the first 512 are looked at; of text with a label
    a token, which a single period may make, none.

    Raises:
        ValueError: they are.
    """
    most = min(len(split), 512) if split.is_streamed else len(split)
    if most < 2 or split.labels.ndim > 1:
        return
    start, size = 1, 8
    while start < most:
        index = torch.tensor([0, *range(start, min(start + size, most))])
        inputs = split.take(index).inputs
        parts = inputs.values() if isinstance(inputs, dict) else [inputs]
        if any((part[1:] != part[:1]).any() for part in parts):
            return
        start, size = start + size, min(2 * size, 4096)
    raise ValueError(
        f"the first {most} training examples of {name!r} are equal, of {len(split)}: nothing can "
        "be learnt from them; look at the files, and at the column that is read"
    )


def choose(
    split: Split,
    subset: float | int | None,
    exclude_classes: Sequence[str | int] | str | int | None,
    only_classes: Sequence[str | int] | str | int | None,
    num_classes: int,
    class_names: Sequence[str] | None,
    seed: int,
) -> Split:
    """The training split without some classes, and some of its examples.

    Args:
        split: the training split.
        subset: a share in (0, 1], a count (int), or None for all.
        exclude_classes: names or numbers, or a single one, or None.
        only_classes: the same; None for all.
        num_classes: C.
        class_names: their names, if they have some.
        seed: of the subset, which is stratified.

    Raises:
        ValueError: an unknown class, nothing left, or a subset that is neither a share nor a count
            of at most what there is.
    """
    names = [str(name) for name in class_names] if class_names else []

    def number(given: str | int) -> int:
        if str(given) in names:
            return names.index(str(given))
        if str(given).isdigit() and int(given) < num_classes:
            return int(given)
        known = ", ".join(names) if names else f"0 to {num_classes - 1}"
        raise ValueError(f"dataset has no class {given!r}; there are {known}")

    def numbers(given: Sequence[str | int] | str | int | None) -> set[int]:
        return set(map(number, [given] if isinstance(given, (str, int)) else given or []))

    wanted = set(range(num_classes)) if only_classes is None else numbers(only_classes)
    wanted -= numbers(exclude_classes)
    if len(wanted) < num_classes and split.labels.ndim > 1:
        raise ValueError(
            "dataset.only_classes and dataset.exclude_classes choose examples by their one class, "
            "but these have many labelled positions; type dataset.exclude_classes=[] "
            "dataset.only_classes=null"
        )
    if len(wanted) < num_classes:
        mask = torch.isin(split.labels, torch.tensor(sorted(wanted), dtype=torch.int64))
        split = split.part(mask.nonzero().squeeze(1))
    if len(split) == 0:
        raise ValueError(
            "no training example is left: check dataset.only_classes and dataset.exclude_classes"
        )
    if subset is None:
        return split
    if isinstance(subset, float):
        count = round(subset * len(split)) if 0 < subset <= 1 else 0
    else:
        count = subset if isinstance(subset, int) and not isinstance(subset, bool) else 0
    if not 0 < count <= len(split):
        raise ValueError(
            f"dataset.subset must be a share in (0, 1] or a count in 1 to {len(split)}, "
            f"got {subset!r}; try dataset.subset=0.1"
        )
    return split if count == len(split) else split.part(stratified(split, count, seed))


def stratified(split: Split, count: int, seed: int) -> torch.Tensor:
    """(count,) examples, every class in its share, as near as whole numbers go; sorted."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    labels = _strata(split)[order]
    # Within a class, its n-th example of m stands at (n + 1/2) / m; the first `count` are taken.
    place = torch.empty(len(split), dtype=torch.float64)
    for label in torch.unique(labels):
        where = (labels == label).nonzero().squeeze(1)
        place[where] = (torch.arange(len(where), dtype=torch.float64) + 0.5) / len(where)
    return order[place.argsort(stable=True)[:count]].sort().values


def _strata(split: Split) -> torch.Tensor:
    """(N,) int64: the labels, or a single stratum where each example has many."""
    if split.labels.ndim == 1:
        return split.labels
    return torch.zeros(len(split), dtype=torch.int64)
