"""What of a run's folder cannot be read: the report names it, and shows the rest.

A file may be missing, cut off, of another type, in another encoding, or not ours to read. None of
that may take another file, another seed or another trial along.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kd_research.records.record import (
    EVALUATION_NAME,
    EXPORT_NAME,
    METRICS_NAME,
    PREDICTIONS_NAME,
    PROPOSAL_NAME,
    SAMPLES_NAME,
    read_json,
    read_text,
)

IMAGE = "data:image/png;base64,"


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a metrics.jsonl, and what is wrong with it, a line each.

    A row has an epoch, and numbers or nulls besides; what is otherwise is left out. A last line
    that is half written is no damage: a run was killed, or is still writing it.
    """
    try:
        lines = read_text(path).splitlines(keepends=True)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path} cannot be read ({error.strerror})"]
    rows: list[dict[str, Any]] = []
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and is_number(row.get("epoch")):
            known = {k: v for k, v in row.items() if v is None or is_number(v)}
            rows.append(known)
            wrong += [f"line {number} has no number {key}" for key in row if key not in known]
        elif number < len(lines) or line.endswith("\n"):
            wrong.append(f"line {number} is no row")
    more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
    return rows, [f"{path} is damaged: {'; '.join(wrong[:2])}{more}"] if wrong else []


def read_evaluation(directory: Path) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Split -> what was evaluated -> lists by name, of an evaluation.json; {} without one.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    path = directory / EVALUATION_NAME
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    for split in found.values():
        for name in ("reliability", "teacher_reliability", "intervals"):
            part = split.get(name) if isinstance(split, dict) else []
            if part is not None and not _is_lists_of_numbers(part):
                raise ValueError(f"{path} is damaged: it holds no evaluation")
    return found


def read_samples(directory: Path) -> list[dict[str, str | None]]:
    """What a language model's student and teacher wrote; [] without a samples.json.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    path = directory / SAMPLES_NAME
    try:
        found = read_json(path).get("samples", [])
    except FileNotFoundError:
        return []
    names = ("prompt", "text", "student", "teacher")
    if not isinstance(found, list) or not all(
        isinstance(each, dict) and all(isinstance(each.get(n), str | None) for n in names)
        for each in found
    ):
        raise ValueError(f"{path} is damaged: it holds no samples")
    return found


def read_disagreements(directory: Path) -> list[dict[str, str | None]]:
    """Examples on which student and teacher disagree; [] without any.

    Raises:
        ValueError: samples.json cannot be read, or holds something else.
    """
    path = directory / SAMPLES_NAME
    try:
        found = read_json(path).get("disagreements", [])
    except FileNotFoundError:
        return []
    names = ("image", "text", "label", "student", "teacher")
    if not isinstance(found, list) or not all(
        isinstance(each, dict)
        and all(isinstance(each.get(n), str | None) for n in names)
        and str(each.get("image") or IMAGE).startswith(IMAGE)
        for each in found
    ):
        raise ValueError(f"{path} is damaged: it holds no disagreements")
    return found


def _is_lists_of_numbers(part: Any) -> bool:
    return isinstance(part, dict) and all(
        isinstance(values, list) and all(map(is_number, values)) for values in part.values()
    )


def read_exported(directory: Path) -> dict[str, dict[str, Any]]:
    """The metrics and costs of the exported files; {} without any.

    Raises:
        ValueError: export.json cannot be read, or holds something else.
    """
    path = directory / EXPORT_NAME
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    for part in (found.get("metrics", {}), found.get("costs", {})):
        if not isinstance(part, dict) or not all(v is None or is_number(v) for v in part.values()):
            raise ValueError(f"{path} is damaged: it holds no metrics and costs")
    return found


def read_proposal(directory: Path) -> dict[str, Any]:
    """What a trial is: its number, label and settings.

    Raises:
        FileNotFoundError: it has no proposal.json.
        ValueError: that cannot be read, or holds something else.
    """
    found = read_json(directory / PROPOSAL_NAME)
    number, params = found.get("number"), found.get("params") or {}
    if not isinstance(number, int) or not isinstance(params, Mapping):
        raise ValueError(f"{directory / PROPOSAL_NAME} is damaged: it holds no proposal")
    return {**found, "params": params}


def damage(directory: Path) -> Iterator[str]:
    """What cannot be read in a run's folder besides its record, a line each."""
    yield from read_rows(directory / METRICS_NAME)[1]
    reads: tuple[Callable[[Path], Any], ...]
    reads = (read_evaluation, read_samples, read_disagreements, read_exported, _check_predictions)
    told: dict[str, None] = {}
    for read in reads:
        try:
            read(directory)
        except ValueError as error:
            told[str(error)] = None  # once, though two read the file
    yield from told


def _check_predictions(directory: Path) -> None:
    path = directory / PREDICTIONS_NAME
    with suppress(FileNotFoundError):
        try:
            with zipfile.ZipFile(path) as content:
                bad = content.testzip()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror})") from None
        except zipfile.BadZipFile:
            bad = "all"
        if bad:
            raise ValueError(f"{path} is damaged: it holds no predictions")


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
