"""Windows that begin anywhere in the text, as a function of (seed, view, index), for training.

The packed windows of a single text lie end to end. In each view a window begins up to `context` - 1
positions after its own place, so that all places are equally likely, as where windows are drawn at
random (nanoGPT's loader). Not for packed documents, which would have to be cut anew.

Shapes: B batch, N windows, T positions.
"""

from __future__ import annotations

import torch

from kd_research.data.augment import hash_bits
from kd_research.data.sources import Split
from kd_research.interfaces import Batch


def problem(split: Split) -> str | None:
    """Why a training split cannot be read so; None where it can."""
    if not isinstance(split.inputs, dict) or "position_ids" in split.inputs:
        return (
            "dataset.random_windows is for a single running text, and these are documents; "
            "type dataset.random_windows=false, or dataset.rows=lines where each row is a line"
        )
    if split.rows is not None:
        return (
            "dataset.random_windows reads all of the text, also between the windows of "
            "dataset.subset; type dataset.random_windows=false, or dataset.subset=null"
        )
    return None


def read(split: Split, batch: Batch, view: int, seed: int) -> Batch:
    """The batch's windows from where they begin in the view; the last one stays in its place.

    Args:
        split: the whole training split.
        batch: inputs {"input_ids": (B, T)}, labels (B, T).
        view: of the augmentation.
        seed: of all draws.
    """
    assert isinstance(split.inputs, dict)
    tokens, device = split.inputs["input_ids"], batch.labels.device
    num, context = tokens.shape
    known = (num - 1) * context + int(split.num_valid[-1])  # what follows is filled up
    index = batch.index.cpu()
    start = index * context + (hash_bits(seed, view, index, 1)[:, 0] >> 1) % context
    is_last = index == num - 1
    start = torch.where(is_last, index * context, start.clamp(max=known - 1 - context))
    places = start.unsqueeze(1) + torch.arange(context)
    text = tokens.reshape(-1)
    labels = text[(places + 1).clamp(max=num * context - 1)].long().to(device)
    labels = torch.where(is_last.to(device).unsqueeze(1), batch.labels, labels)
    return batch._replace(inputs={"input_ids": text[places].long().to(device)}, labels=labels)
