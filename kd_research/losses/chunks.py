"""The objective of many positions in chunks, so that all their logits are never there at once.

Shapes: N valid positions, W width of the hidden state before the head, C classes (V tokens).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kd_research.interfaces import Batch, Output
from kd_research.losses.objective import Objective

Teach = Callable[[slice], Tensor]  # positions -> the teacher's logits for these, (n, C)


def chunked(
    objective: Objective,
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    teach: Teach | None,
    batch: Batch,
    size: int,
    before: Callable[[], None] = lambda: None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `objective` gives for all positions, a chunk at a time.

    The head and the losses are computed within each chunk, and again in the backward pass. Each
    chunk counts by its number of positions, so that the mean is over the positions, not over the
    chunks. It holds for losses that are means over positions, each looked at alone.

    Args:
        objective: whose terms want logits alone (`can_be_chunked`).
        hidden: (N, W), the student's states before its head.
        head: (n, W) -> (n, C).
        teach: gives the teacher's logits; None where no term wants them.
        batch: labels (N,) and index (N,).
        size: positions of a chunk, >= 1.
        before: called before each chunk, in the forward and in the backward pass.

    Returns:
        The objective, (), and its parts by name, unweighted and detached.
    """
    num = len(hidden)
    names: list[str] = []

    def part(states: Tensor, rows: slice) -> Tensor:
        before()
        teacher = None if teach is None else Output(teach(rows), {})
        own = batch._replace(labels=batch.labels[rows], index=batch.index[rows])
        total, parts = objective(Output(head(states), {}), teacher, own)
        names[:] = list(parts)
        return torch.stack([total, *parts.values()])

    sums = None
    for start in range(0, num, size):
        rows = slice(start, min(start + size, num))
        values = checkpoint(part, hidden[rows], rows, use_reentrant=False)
        weighted = values * ((rows.stop - rows.start) / num)
        sums = weighted if sums is None else sums + weighted
    assert sums is not None
    return sums[0], dict(zip(names, sums[1:].detach(), strict=True))


def can_be_chunked(objective: Objective) -> bool:
    """Whether every term is a mean over positions, each looked at alone, of logits alone."""
    return not any(objective.layers(who) for who in ("student", "teacher")) and not any(
        getattr(loss, "compares_examples", False) or getattr(loss, "reads_texts", False)
        for loss in objective.terms.values()
    )
