"""What of a transfer set is made already: whoever is cut off while making it goes on from there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from kd_research.data.store import refuse_files
from kd_research.records.outside import OutsideError
from kd_research.records.record import temporary_path
from kd_research.records.saved import read_saved

SECONDS = 30.0  # what is lost at most


class Kept:
    """Dictionaries of tensors and numbers by name, until the set is whole.

    Args:
        folder: theirs alone, made when it is needed; nobody else makes this set meanwhile. It has
            a name of its own for each set.

    Raises:
        ValueError: a file is in its place.
    """

    def __init__(self, folder: Path):
        refuse_files(folder)
        self.folder, self._put_at = folder, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether more would be lost than is worth the writing."""
        return time.monotonic() - self._put_at >= SECONDS

    def get(self, name: str) -> dict[str, Any] | None:
        """What was put there; None where nothing was, where it is damaged, or another's."""
        try:
            found = read_saved(self._path(name))
        except ValueError:
            return None
        return found if found.pop("of", None) == self.folder.name else None

    def put(self, name: str, **content: Any) -> None:
        """Keep it in place of what was there.

        Raises:
            OutsideError: the folder in which the set shall be was removed.
            RuntimeError: the disk is full, in torch's words.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except FileNotFoundError:  # made anew, it would hide for hours that the set has no place
            raise OutsideError(f"{self.folder.parent} was removed") from None
        temporary = temporary_path(self._path(name))
        try:
            torch.save({**content, "of": self.folder.name}, temporary)
            os.replace(temporary, self._path(name))
        finally:
            temporary.unlink(missing_ok=True)
        self._put_at = time.monotonic()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pt"
