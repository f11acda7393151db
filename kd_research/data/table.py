"""A table of numbers and categories into one row of numbers an example.

A number is itself; a category is one column a value that the training part has, 1 where the
example has it (one-hot). A value that only another part has is 0 in all of them. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_research.data.columns import describe, described, find_label, is_numeric, is_text
from kd_research.data.hub import Source
from kd_research.data.store import array_digest, create_array

if TYPE_CHECKING:
    import datasets

MAX_VALUES = 256  # of a category: more are names or numbers of rows, which say nothing of a class


@dataclass(frozen=True)
class Table:
    """Which columns of a table are the inputs.

    Attributes:
        columns: their names; None is all but the label's.
    """

    columns: Sequence[str] | None = None

    def inputs(self, source: Source, features: Mapping[str, Any]) -> list[str]:
        """The names of the input columns.

        Raises:
            ValueError: one is not there, or is neither numbers nor text.
        """
        label = find_label(source, features)
        names = [name for name in features if name != label and not name.startswith("__index")]
        if self.columns is not None:
            names = list(map(str, self.columns))
        absent = [name for name in names if name not in features]
        if absent:
            raise ValueError(
                f"{source}: no column {', '.join(absent)}; there are {described(features)}; "
                "type dataset.input_columns=[NAME,...], or null for all but the label"
            )
        if label in names:
            raise ValueError(
                f"{source}: dataset.input_columns has the label column {label!r}; take it out"
            )
        odd = [
            name for name in names if not (is_numeric(features[name]) or is_text(features[name]))
        ]
        if odd:
            raise ValueError(
                f"{source}: column {odd[0]!r} is {describe(features[odd[0]])}, neither numbers nor "
                f"text; type {_without(names, odd)}"
            )
        return names


def encode_table(
    source: Source,
    splits: Mapping[str, datasets.Dataset],
    table: Table,
    width: int,
    folder: Path,
    learnt: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Write `SPLIT-inputs.npy`, (N, F) float32; the meta data.

    Args:
        source: for messages.
        splits: the rows of each split.
        table: which columns are the inputs.
        width: F, checked.
        folder: where the arrays go.
        learnt: rows of the training split that make a category's values; None is all.

    Raises:
        ValueError: a value is missing or not finite, a category has too many values, or the
            columns do not give F numbers.
    """
    train = splits["train"]
    names = table.inputs(source, train.features)
    values: dict[str, list[str]] = {}  # of the categories
    for name in names:
        if is_text(train.features[name]):
            cells = train[name][:]
            seen = cells if learnt is None else [cells[row] for row in learnt]
            values[name] = sorted({value for value in seen if value is not None})
            if len(values[name]) > MAX_VALUES:
                raise ValueError(
                    f"{source}: column {name!r} has {len(values[name])} different texts in "
                    f"{len(seen)} training rows, which is no category (at most {MAX_VALUES}); type "
                    f"{_without(names, [name])}, or dataset=hub_text dataset.input_column={name} "
                    "for a model of text"
                )
    found = sum(len(values[name]) if name in values else 1 for name in names)
    if found != width:
        numbers = [name for name in names if name not in values]
        parts = [f"{len(numbers)} of numbers"] if numbers else []
        parts += [f"{len(values[name])} of the values of {name}" for name in values]
        raise ValueError(
            f"{source} has {found} columns of inputs ({', '.join(parts)}), dataset.input_shape "
            f"says {width}; type dataset.input_shape=[{found}]"
        )
    meta: dict[str, Any] = {"kind": "table", "splits": {}}
    for split, rows in splits.items():
        array = create_array(folder / f"{split}-inputs.npy", (len(rows), found), "float32")
        at = 0
        for name in names:
            part = _column(f"{source}: column {name!r} of the split {split!r}", rows, name, values)
            array[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        meta["splits"][split] = {"num": len(rows), "inputs": array_digest(array)}
        if split == "train":
            meta["mean"] = array.mean(axis=0, dtype=np.float64).tolist()
            meta["std"] = array.std(axis=0, dtype=np.float64).tolist()
    return meta


def _column(where: str, rows: Any, name: str, values: Mapping[str, list[str]]) -> NDArray[Any]:
    """(N, 1) numbers, or (N, values) of 0 and 1."""
    cells = rows[name][:]
    missing = [at for at, cell in enumerate(cells) if cell is None or cell != cell]
    if missing:
        raise ValueError(
            f"{where} has no value in {len(missing)} of {len(cells)} rows, the first is row "
            f"{missing[0]}; fill them, or name the columns without it by dataset.input_columns"
        )
    if name not in values:
        numbers = np.array(cells, dtype=np.float32)[:, None]
        if not np.isfinite(numbers).all():
            row = int(np.isfinite(numbers[:, 0]).argmin())
            raise ValueError(f"{where} has {cells[row]} in row {row}, which is no finite float32")
        return numbers
    number = {value: position for position, value in enumerate(values[name])}
    one_hot = np.zeros((len(cells), len(number)), dtype=np.float32)
    for at, cell in enumerate(cells):
        if cell in number:
            one_hot[at, number[cell]] = 1
    return one_hot


def _without(names: Sequence[str], left_out: Sequence[str]) -> str:
    kept = ",".join(name for name in names if name not in left_out)
    return f"'dataset.input_columns=[{kept}]'"
