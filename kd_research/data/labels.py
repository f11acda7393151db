"""Labels as whole numbers and the classes' names, out of what a label column holds.

Imports `datasets` only when it is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_research.data.hub import Source

if TYPE_CHECKING:
    import datasets


def read_labels(
    source: Source, splits: Mapping[str, datasets.Dataset], column: str, num_classes: int
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Split -> labels (N,), and the names of the classes.

    A class is a name, in alphabetical order, or a whole number from 0; with `source.renumber` any
    whole numbers are, in their order.

    Raises:
        ValueError: the number of classes is not `num_classes`, or a label is missing, is not one
            whole number or name, or is out of its range.
    """
    import datasets

    kind = splits["train"].features[column]
    raw = {split: rows.with_format(None)[column][:] for split, rows in splits.items()}
    for split, values in raw.items():
        _refuse_odd(f"{source}: the column {column!r} of the split {split!r}", split, values)
    if isinstance(kind, datasets.ClassLabel):
        names = list(kind.names)
    elif isinstance(raw["train"][0], str) or source.renumber:
        ordered = sorted(set(raw["train"]))
        names = [value if isinstance(value, str) else str(int(value)) for value in ordered]
        number = {value: position for position, value in enumerate(ordered)}
        for split, values in raw.items():
            _refuse_untrained(f"{source}: the column {column!r}", split, values, number)
            raw[split] = [number[value] for value in values]
    else:
        names = [str(label) for label in range(num_classes)]
    if len(names) != num_classes:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(
            f"{source} has {len(names)} classes ({shown}), the configuration says {num_classes}; "
            f"type dataset.num_classes={len(names)}"
        )
    labels = {}
    for split, values in raw.items():
        array = np.array(values, dtype=np.int64)
        outside = Counter(int(value) for value in array[(array < 0) | (array >= num_classes)])
        if outside:
            advice = _advice(values, num_classes)
            if split != "train":
                advice += f"; if the split has no labels, type ++dataset.splits.{split}=null"
            raise ValueError(
                f"{source}: the column {column!r} of the split {split!r} has labels outside 0 to "
                f"{num_classes - 1}: {dict(outside.most_common(5))} (value: count); {advice}"
            )
        labels[split] = array
    absent = sorted(set(range(num_classes)) - set(labels["train"].tolist()))
    if absent:
        there = num_classes - len(absent)
        shown = ", ".join(names[label] for label in absent[:10])
        raise ValueError(
            f"{source}: no training example of class {shown}; the configuration says "
            f"dataset.num_classes={num_classes}, train has {there}; check that dataset.root holds "
            "all files (a class is left out of a set by dataset.exclude_classes), or type "
            f"dataset.renumber=true dataset.num_classes={there} if there is no such class"
        )
    return labels, names


def _advice(labels: Sequence[Any], num_classes: int) -> str:
    """What to type where whole numbers are no classes as they are."""
    there = sorted({int(label) for label in labels})
    if len(there) == num_classes or there[0] == 1:
        count = "" if len(there) == num_classes else f" dataset.num_classes={len(there)}"
        kind = "start at 1" if there == list(range(1, len(there) + 1)) else "have gaps"
        return (
            f"they are {len(there)} numbers that {kind}: type dataset.renumber=true{count} to "
            f"number them in their order, {there[0]} becomes 0 and {there[-1]} {len(there) - 1}"
        )
    return "check dataset.num_classes and dataset.label_column"


def _refuse_untrained(
    where: str, split: str, values: Sequence[Any], number: Mapping[Any, int]
) -> None:
    """Refuse labels that only another split than train has."""
    if new := Counter(str(value) for value in values if value not in number):
        shown = ", ".join(f"{name} ({count} rows)" for name, count in new.most_common(5))
        raise ValueError(
            f"{where} of the split {split!r} has {shown}, which no training example has; add "
            f"examples of it to train, remove these rows, or type ++dataset.splits.{split}=null "
            "to do without the split"
        )


def _refuse_odd(where: str, split: str, values: Sequence[Any]) -> None:
    missing = sum(value is None for value in values)
    if missing:
        advice = "remove these rows"
        if split != "train":
            advice += f", or type ++dataset.splits.{split}=null to do without the split"
        raise ValueError(f"{where} has no label in {missing} of {len(values)} rows; {advice}")
    for at, value in enumerate(values):
        if isinstance(value, (int, str)) or (isinstance(value, float) and value.is_integer()):
            continue
        several = isinstance(value, (list, dict))
        problem = "several labels an example are not supported" if several else "it is no class"
        raise ValueError(
            f"{where} has {value!r} in row {at}: {problem}; a label is a name or a whole number; "
            "type dataset.label_column=NAME of another column"
        )
