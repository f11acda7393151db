"""Two students on the same examples: which is better, and could it be chance?

McNemar's exact test (1947; the binomial form) on the examples that one student alone gets right,
and a percentile bootstrap of the difference in accuracy over the examples. Both speak of these
two trained students, not of their recipes: for those, repeat seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_research.records.printable import typed
from kd_research.records.record import PREDICTIONS_NAME

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Pair:
    """Of one split: N examples, on which `one` and `other` were both run.

    Attributes:
        split: "val" or "test".
        accuracies: of the two.
        only: how many examples the first alone, and the second alone, gets right.
        p_value: of McNemar's test that both err equally often.
        interval: of the difference in accuracy, other - one, 95 %.
    """

    split: str
    num_examples: int
    accuracies: tuple[float, float]
    only: tuple[int, int]
    p_value: float
    interval: tuple[float, float]


def compare_runs(one: Path, other: Path) -> list[Pair]:
    """Compare two runs' students on validation and on test.

    Raises:
        FileNotFoundError: a run has no predictions.
        ValueError: the two were not evaluated on the same examples, or these have many labels each.
    """
    found = [_predictions(folder) for folder in (one, other)]
    if any("val_labels" not in run for run in found):
        raise ValueError(
            f"{one} or {other} has many labelled positions an example, as text has, and McNemar's "
            "test is for one; their evaluation.json has intervals over whole examples"
        )
    pairs = []
    for split in ("val", "test"):
        labels = [run[f"{split}_labels"] for run in found]
        if not np.array_equal(*labels):
            raise ValueError(
                f"{one} and {other} were not evaluated on the same {split} examples; compare runs "
                "of one dataset with the same dataset.split_seed"
            )
        right = [run[f"{split}_student"] == labels[0] for run in found]
        pairs.append(pair(split, right[0], right[1]))
    return pairs


def pair(split: str, one: Any, other: Any) -> Pair:
    """The comparison of two (N,) arrays that say which examples were right."""
    from scipy.stats import binomtest  # half a second that only this needs

    size = len(one)
    only = (int((one & ~other).sum()), int((other & ~one).sum()))
    discordant = sum(only)
    counts = np.array([only[0], size - discordant, only[1]])
    # N draws with replacement of -1, 0 and 1: the bootstrap of the mean difference, exactly.
    drawn = np.random.default_rng(0).multinomial(size, counts / size, NUM_RESAMPLES)
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / size, [2.5, 97.5])
    return Pair(
        split=split,
        num_examples=size,
        accuracies=(float(one.mean()), float(other.mean())),
        only=only,
        p_value=float(binomtest(only[0], discordant).pvalue) if discordant else 1.0,
        interval=(float(low), float(high)),
    )


def sentences(pairs: list[Pair], names: tuple[str, str]) -> list[str]:
    """The result for a person, two lines a split."""
    lines = []
    for found in pairs:
        one, other = (100 * accuracy for accuracy in found.accuracies)
        low, high = (100 * end for end in found.interval)
        lines += [
            f"{found.split}: {names[0]} {one:.2f}%, {names[1]} {other:.2f}% of "
            f"{found.num_examples} examples; difference {other - one:+.2f} points, "
            f"95 % interval {low:+.2f} to {high:+.2f} (bootstrap over examples)",
            f"{'':{len(found.split) + 2}}right alone: {found.only[0]} and {found.only[1]} "
            f"examples; McNemar's exact p = {found.p_value:.3g}",
        ]
    return lines


def _predictions(folder: Path) -> dict[str, Any]:
    path = folder / PREDICTIONS_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; run the folder again with "
            f"`python -m kd_research.trial {typed(folder)}`"
        )
    with np.load(path, allow_pickle=False) as content:
        return dict(content)
