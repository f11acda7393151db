"""The seconds spent before a sweep's trials, by all its commands: teacher, transfer set, data."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kd_research.records.record import read_json, write_json

NAME = "prepare/spent.json"  # in the sweep's folder


def spent(sweep: Path) -> float:
    """By the clock; 0 where nothing readable was noted."""
    try:
        return float(read_json(sweep / NAME)["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def note_spent(sweep: Path, seconds: float) -> None:
    """Note the sum of all commands; a full disk, or a removed folder, is for others to tell."""
    with suppress(OSError):
        write_json(sweep / NAME, {"seconds": seconds})
