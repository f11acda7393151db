"""What a teacher or student sees of an example: checks as of models/view.py, columns by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd_research.configuration.values import is_whole

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
        return
    found, shape = list(value_problems(view or {}, f"{who}.view")), dataset.get("input_shape")
    yield from found
    if not view or found:
        return
    if shape is None and "vocab_size" in dataset:
        yield (
            f"{who}.view is of images or tables, and dataset {dataset.get('name')} is text; "
            f"type {who}.view=null"
        )
        return
    seen = dict(view)
    if view.get("columns") is not None:
        if view.get("channels") is not None:
            yield f"{who}.view has columns and channels, which are the same; leave one of them out"
        try:
            seen["channels"] = channels_of(view["columns"], dataset)
        except ValueError as error:
            yield re.sub(r"(?<![\w.])view\.", f"{who}.view.", str(error))
    if isinstance(shape, list):
        yield from shape_problems(seen, shape, f"{who}.view")


def value_problems(view: Mapping[str, Any], at: str = "view") -> Iterator[str]:
    """What is wrong with a view's values, whatever it is of, a line a problem.

    Args:
        view: as it is stated.
        at: its key.
    """
    channels = view.get("channels")
    if channels is not None and numbers_of(channels) is None:
        yield (
            f"{at}.channels must be numbers from 0, at least one, or 'FIRST:END', got "
            f"{channels!r}; try {at}.channels=[0], or '0:50'"
        )
    for name in ("crop", "size"):
        pair = view.get(name)
        if pair is not None and not _is_size(pair):
            yield (
                f"{at}.{name} must be [height, width], whole numbers >= 1, got {pair}; "
                f"try {at}.{name}=[7,7]"
            )


def shape_problems(
    view: Mapping[str, Any], whole: Sequence[int], at: str = "view"
) -> Iterator[str]:
    """What of a right view examples of the shape `whole`, without the batch, have not."""
    channels, seen = numbers_of(view.get("channels")), list(whole)
    if channels is not None:
        last = channels.stop - 1 if isinstance(channels, slice) else max(channels)
        if last >= seen[0]:
            yield (
                f"{at}.channels has {last}, but an example has the channels (or columns) 0 to "
                f"{seen[0] - 1}"
            )
    crop = view.get("crop")
    if (crop or view.get("size")) and len(seen) != 3:
        yield (
            f"{at}.crop and {at}.size are of images, an example here is {seen}; "
            f"type {at}.channels=[0,1] for columns of a table"
        )
    elif crop and (crop[0] > seen[1] or crop[1] > seen[2]):
        yield (
            f"{at}.crop={[*crop]} is larger than the example, {seen[1:]}; "
            f"try {at}.crop=[{seen[1]},{seen[2]}]"
        )


def unseen_problems(teacher: Any, student: Any, dataset: Mapping[str, Any]) -> Iterator[str]:
    """Of a transfer set, what the student sees and its teacher, of whom it is made, does not.

    Args:
        teacher: its view, as it is stated; of views that are wrong nothing is said.
        student: likewise.
        dataset: of the configuration.
    """
    views, shape = {"teacher": teacher, "student": student}, dataset.get("input_shape")
    wrong = (text for who, view in views.items() for text in view_problems(who, view, dataset))
    if not (isinstance(shape, list) and shape and is_whole(shape[0])) or next(wrong, None):
        return
    seen = {}
    for who, view in views.items():
        names, every = (view or {}).get("columns"), range(shape[0])
        stated = (view or {}).get("channels") if names is None else channels_of(names, dataset)
        channels = numbers_of(stated)
        picked = every[channels] if isinstance(channels, slice) else channels
        seen[who] = {*(every if picked is None else picked)}
    if unseen := sorted(seen["student"] - seen["teacher"]):
        yield (
            "transfer: what is made of the teacher is noise where the teacher sees nothing: the "
            f"student sees {len(unseen)} channels (or columns) that teacher.view leaves out, "
            f"{unseen[0]} the first; type teacher.view=null, or transfer=none"
        )


def numbers_of(stated: Any) -> slice | list[int] | None:
    """What picks the channels; None where it is not such a thing."""
    if isinstance(stated, str):
        found = re.fullmatch(r"(\d*):(\d+)", stated)
        first, end = (int(found[1] or 0), int(found[2])) if found else (0, 0)
        return slice(first, end) if first < end else None
    if isinstance(stated, Sequence) and stated and all(is_whole(x) and x >= 0 for x in stated):
        return list(stated)
    return None


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


def _is_size(pair: Any) -> bool:
    right = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
    return right and all(is_whole(each) and each >= 1 for each in pair)
