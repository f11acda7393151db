"""Files of torch.save that are read back, every byte of them as it was written."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def read_saved(path: Path) -> dict[str, Any]:
    """A dictionary that torch.save wrote: torch itself compares no checksum.

    Raises:
        ValueError: it is not as it was saved, or not there.
    """
    try:
        with zipfile.ZipFile(path) as content:
            if content.testzip() is not None:
                raise ValueError("a checksum differs")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # absent, cut off, or of another version: torch raises many types
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged (it holds no checkpoint)")
    return found
