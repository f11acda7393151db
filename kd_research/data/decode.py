"""Images, sentences and tables into memory-mapped arrays, once per machine.

A decoded set is a folder: `SPLIT-inputs.npy` (images uint8 (N, C, H, W); token ids int32 (N, L),
0 is padding; a table's float32 (N, F)), `SPLIT-labels.npy` (N,) int64, `tokenizer.json` for text,
and `meta.json` with the class names, the training images' mean and deviation per channel, and a
digest of every array.
Imports no torch.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from kd_research.data.columns import find_columns, find_images, find_label
from kd_research.data.hub import Source, fingerprint, open_splits
from kd_research.data.labels import read_labels
from kd_research.data.pixels import WrongSizeError, read_image
from kd_research.data.store import (
    META_NAME,
    array_digest,
    build_once,
    content_key,
    create_array,
)
from kd_research.data.table import Table, encode_table
from kd_research.data.text import Tokens, encode_splits
from kd_research.records.record import write_json

if TYPE_CHECKING:
    import datasets

VERSION = 3  # of what is in a decoded folder; a change makes every set anew
_CHUNK = 512


class Part(Protocol):
    """What of the training split is learnt from: `cuts.TrainingPart`, which stands above."""

    def rows(self, labels: NDArray[np.int64], published: Container[str]) -> list[int]:
        """Where its examples are, of the labels of the training split and the splits' names."""


def decoded(
    source: Source,
    num_classes: int,
    store: Path,
    input_shape: Sequence[int] | None = None,
    resize: bool = False,
    tokens: Tokens | None = None,
    table: Table | None = None,
    part: Part | None = None,
) -> Path:
    """The folder of the decoded set, made first if it is not there.

    Args:
        source: where the set is.
        num_classes: C, checked.
        store: the folder of all decoded sets.
        input_shape: (channels, height, width) of an image, checked; colours are converted; (F,) of
            a table.
        resize: bring images of other sizes to `input_shape` (shorter side, then the centre).
        tokens: how text is cut into tokens.
        table: which columns are the inputs, where it is a table.
        part: what of the training split makes the tokens, and the values of a table's categories;
            None is all of it.

    Raises:
        FileNotFoundError, ValueError, OSError: with what was found and what to type.
    """
    shape = list(input_shape) if input_shape is not None else None
    cutting = [repr(tokens), tokens.content if tokens else None]
    cutting += [repr(table)] if table else []
    made = part is not None and (tokens is None or tokens.pretrained is None)
    cutting += [repr(part)] if made else []
    key = content_key([VERSION, fingerprint(source), num_classes, shape, resize, *cutting])

    def build(folder: Path) -> None:
        splits = open_splits(source, folder / "cache")
        features = splits["train"].features
        if table is not None:
            column, kind, label_column = "", "table", find_label(source, features)
        elif several := find_images(source, features):
            column, kind, label_column = "", "image", find_label(source, features)
        else:
            column, kind, label_column = find_columns(source, features)
        labels, names = read_labels(source, splits, label_column, num_classes)
        rows = part.rows(labels["train"], splits) if made and part else None
        if table is not None:
            assert shape is not None
            meta = encode_table(source, splits, table, shape[0], folder, rows)
        elif kind == "image":
            if shape is None:
                raise ValueError(
                    f"{source} has images in column {column!r}, this data set is configured for "
                    "text; type dataset=hub, or dataset.input_column=NAME of a text column"
                )
            columns = several or {column: shape[0]}
            meta = _decode_images(source, splits, columns, shape, resize, folder)
        else:
            if tokens is None:
                raise ValueError(
                    f"{source} has text in column {column!r}, this data set is configured for "
                    "images; type dataset=hub_text, dataset=table for numbers and categories, or "
                    "dataset.input_column=NAME of an image column"
                )
            meta = encode_splits(splits, column, tokens, folder, rows)
        for split, array in labels.items():
            np.save(folder / f"{split}-labels.npy", array)
            meta["splits"][split]["labels"] = array_digest(array)
        del splits
        _remove(folder / "cache")
        write_json(folder / META_NAME, {**meta, "class_names": names, "source": str(source)})

    return build_once(store / key, build, f"decoding {source}")


def read_meta(folder: Path) -> dict[str, Any]:
    """The `meta.json` of a decoded set."""
    meta: dict[str, Any] = json.loads((folder / META_NAME).read_text(encoding="utf-8"))
    return meta


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _decode_images(
    source: Source,
    splits: Mapping[str, datasets.Dataset],
    columns: Mapping[str, int],
    shape: list[int],
    resize: bool,
    folder: Path,
) -> dict[str, Any]:
    """Write `SPLIT-inputs.npy` of every split, of each column so many channels; the meta data."""
    meta: dict[str, Any] = {"kind": "image", "splits": {}}
    total = len(columns) * sum(len(rows) for rows in splits.values())
    # Threads, not processes: image libraries let go of the interpreter while they decode.
    with (
        Progress(console=Console(stderr=True), transient=True) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        task = progress.add_task(f"decoding {source}", total=total)
        for split, rows in splits.items():
            array = create_array(folder / f"{split}-inputs.npy", (len(rows), *shape), "uint8")
            first = 0
            for column, channels in columns.items():
                part = array[:, first : first + channels]
                problems = _decode_split(rows, column, part, resize, pool, progress, task)
                _report(source, split, part.shape[1:], len(rows), problems)
                first += channels
            meta["splits"][split] = {"num": len(rows), "inputs": array_digest(array)}
            if split == "train":
                _refuse_one_example(source, array)
                meta["mean"], meta["std"] = _statistics(array)
            array.flush()  # type: ignore[attr-defined]
    return meta


def _decode_split(
    rows: datasets.Dataset,
    column: str,
    array: NDArray[Any],
    resize: bool,
    pool: ThreadPoolExecutor,
    progress: Progress,
    task: Any,
) -> dict[int, str | tuple[int, int]]:
    """Fill `array`; example -> its error, or its (width, height) where that does not fit."""
    import datasets

    encoded = rows.with_format(None).cast_column(column, datasets.Image(decode=False))
    problems: dict[int, str | tuple[int, int]] = {}

    def decode(start: int) -> None:
        cells = encoded[start : start + _CHUNK][column]
        for position, cell in enumerate(cells, start=start):
            try:
                array[position] = read_image(cell, array.shape[1:], resize)
            except WrongSizeError as error:
                problems[position] = error.size
            except (OSError, ValueError, SyntaxError) as error:
                problems[position] = str(error) or type(error).__name__
        progress.advance(task, len(cells))

    list(pool.map(decode, range(0, len(rows), _CHUNK)))
    return problems


def _refuse_one_example(source: Source, array: NDArray[Any]) -> None:
    """Refuse a training split whose examples are all the same: nothing can be learned from it.

    Raises:
        ValueError: they are.
    """
    for start in range(0, len(array), _CHUNK):
        if (array[start : start + _CHUNK] != array[0]).any():
            return
    if len(array) > 1:
        values = np.unique(array[0])
        shown = f"all pixels are {values[0]}" if len(values) == 1 else "the same picture each time"
        raise ValueError(
            f"{source}: all {len(array)} training images are equal ({shown}); "
            "look at the files: is the picture in a channel that is not read?"
        )


def _report(
    source: Source,
    split: str,
    shape: Sequence[int],
    num: int,
    problems: Mapping[int, str | tuple[int, int]],
) -> None:
    broken = {at: problem for at, problem in problems.items() if isinstance(problem, str)}
    if broken:
        shown = "; ".join(f"example {at}: {broken[at]}" for at in sorted(broken)[:3])
        raise ValueError(
            f"{source}: {len(broken)} of the {num} images of the split {split!r} cannot be read: "
            f"{shown}; repair or remove them"
        )
    sizes = Counter(problem for problem in problems.values() if isinstance(problem, tuple))
    if not sizes:
        return
    height, width = shape[1:]
    found = ", ".join(f"{w}x{h} ({count} images)" for (w, h), count in sizes.most_common(4))
    fitting = num - sum(sizes.values())
    hint = "type dataset.resize=true to bring all to that size"
    if len(sizes) == 1 and not fitting:
        w, h = next(iter(sizes))
        hint += f", or dataset.input_shape=[{shape[0]},{h},{w}]"
    raise ValueError(
        f"{source}: dataset.input_shape says {width}x{height}; of the {num} images of the split "
        f"{split!r} {fitting} have that size, the others are {found}; {hint}"
    )


def _statistics(images: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of pixels in [0, 1], exactly."""
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 4096):
            counts += np.bincount(images[start : start + 4096, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean.append(float(share @ values))
        std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)))
    return mean, std
