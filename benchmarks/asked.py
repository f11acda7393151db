"""What the benchmarks' command lines may be given: a wrong value is refused in a line."""

from __future__ import annotations

import argparse
from pathlib import Path


def count(text: str) -> int:
    """A whole number from 1."""
    found = from_zero(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text}")
    return found


def from_zero(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, got {text}")
    return int(text)


def seconds(text: str) -> float:
    """A number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text}")
    return found


def share(text: str) -> float:
    """A number between 0 and 1."""
    found = seconds(text)
    if found >= 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text}")
    return found


def sweep(text: str) -> Path:
    """A sweep's folder."""
    if not (Path(text) / "sweep.yaml").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no sweep's folder: it has no sweep.yaml")
    return Path(text)


def run(text: str) -> Path:
    """A run's folder."""
    if not (Path(text) / "record.json").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no run's folder: it has no record.json")
    return Path(text)


def there(text: str) -> str:
    """A file or folder that is there."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return text
