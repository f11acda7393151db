"""What a teacher or student sees of an example: checks, and columns by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

VIEW = frozenset({"columns", "channels", "crop", "size"})  # as models/view.py, by name as well


def view_problems(who: str, view: Any, dataset: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `teacher.view` or `student.view`, a line a problem.

    Args:
        who: teacher or student.
        view: as it is stated.
        dataset: of the configuration.
    """
    if view is not None and not (isinstance(view, Mapping) and set(view) <= VIEW):
        yield (
            f"{who}.view must be null or some of {', '.join(sorted(VIEW))}, got {view}; "
            f"try '{who}.view={{size: [7, 7]}}'"
        )
    elif view and view.get("columns") is not None:
        if view.get("channels") is not None:
            yield f"{who}.view has columns and channels, which are the same; leave one of them out"
        try:
            channels_of(view["columns"], dataset)
        except ValueError as error:
            yield f"{who}.{error}"


def channels_of(columns: Any, dataset: Mapping[str, Any]) -> list[int]:
    """Which channels of an example, or columns of a table, are those of such names.

    Args:
        columns: names of a view.
        dataset: of the configuration; its `input_columns` are a mapping of columns of images to
            their channels, or names of a table's columns.

    Raises:
        ValueError: the data set names no columns, none like these, or a category among them, whose
            number of values is not known before.
    """
    stated, shape = dataset.get("input_columns"), dataset.get("input_shape")
    widths = dict(stated) if isinstance(stated, Mapping) else dict.fromkeys(stated or (), 1)
    if not widths:
        raise ValueError(
            f"view.columns={columns} are names of dataset.input_columns, which dataset "
            f"{dataset.get('name')} does not state; type view.channels=[NUMBER,...]"
        )
    names = [columns] if isinstance(columns, str) else columns
    if not isinstance(names, Sequence) or not names or not set(map(str, names)) <= widths.keys():
        raise ValueError(
            f"view.columns must be names of dataset.input_columns, {', '.join(widths)}, got "
            f"{columns}; try view.columns=[{next(iter(widths))}]"
        )
    if isinstance(shape, Sequence) and sum(widths.values()) != shape[0]:
        raise ValueError(
            f"view.columns={columns}: dataset.input_columns are {sum(widths.values())} in all, "
            f"dataset.input_shape says {shape[0]} (a category of a table is several); "
            "type view.channels=[NUMBER,...]"
        )
    first, places = 0, {}
    for name, width in widths.items():
        places[name] = range(first, first + width)
        first += width
    return [channel for name in names for channel in places[str(name)]]
