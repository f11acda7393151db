"""What names the content of prepared data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from kd_research.data.sources import Split


def digest_of(content: object, splits: Iterable[Split], prepared: str) -> str:
    """SHA-256 over the splits' labels and rows, and over their inputs where nothing names these.

    Args:
        content: names the inputs; None: nothing does.
        splits: in memory.
        prepared: how the inputs are prepared.
    """
    digest = hashlib.sha256(repr(content).encode())
    for split in splits:
        rows = split.rows if split.rows is not None else torch.arange(len(split))
        for tensor in [split.labels, rows, *([] if content is not None else split.tensors)]:
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
    digest.update(prepared.encode())
    return digest.hexdigest()
