"""The whole batch on every process, for losses that compare examples with each other.

With several processes each has a part of the batch; a loss over pairs of examples would otherwise
depend on their number (the peers' results do). Losses over single examples need none of this.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_batch(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; `rows` itself in a lone process.

    The gradient is the lone process's once it is averaged over the processes with weights in
    proportion to their rows, as `Distiller` and DistributedDataParallel do for means over
    examples: each process computes the same loss from all rows and differentiates it by its own
    alone, times (all rows / own rows). It is exact for a function of gathered rows whose trained
    parts come before the gathering, and the backward pass communicates nothing more.

    Args:
        rows: (B, ...); B may differ between processes.

    Returns:
        (sum of B, ...).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    own = rows.detach()
    count = torch.tensor([len(own)], device=own.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(each) for each in counts]
    padded = own.new_zeros((max(sizes), *own.shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    if rows.requires_grad and len(own):
        factor = sum(sizes) / len(own)
        parts[dist.get_rank()] = rows + (factor - 1) * (rows - own)  # rows, its gradient x factor
    return torch.cat(parts)
