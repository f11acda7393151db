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
    elif isinstance(raw["train"][0], str):
        names = sorted(set(raw["train"]))
        number = {name: position for position, name in enumerate(names)}
        raw = {split: [number.get(label, -1) for label in labels] for split, labels in raw.items()}
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
            advice = "check dataset.num_classes and dataset.label_column"
            if split != "train":
                advice += f"; if the split has no labels, type ++dataset.splits.{split}=null"
            raise ValueError(
                f"{source}: the column {column!r} of the split {split!r} has labels outside 0 to "
                f"{num_classes - 1}: {dict(outside.most_common(5))} (value: count); {advice}"
            )
        labels[split] = array
    absent = sorted(set(range(num_classes)) - set(labels["train"].tolist()))
    if absent:
        shown = ", ".join(names[label] for label in absent[:10])
        raise ValueError(
            f"{source}: no training example of class {shown}; the configuration says "
            f"dataset.num_classes={num_classes}, train has {num_classes - len(absent)}; check that "
            "dataset.root holds all files (a class is left out of a set by dataset.exclude_classes)"
        )
    return labels, names


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
