"""Filling a view of a store together: no output is computed by two processes.

Processes that want the same view at the same time, trials or ranks or sweepers, share the work:
each claims a chunk of rows, computes what is missing of it, claims the next, and waits at the end
for the chunks that others hold. A claim is a file lock, which the system drops when its holder
dies: whoever waits for it finds the rows missing, and computes them.

Shapes: N rows of the store, M of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from kd_research.interfaces import Output
from kd_research.soft_targets.store import SoftTargets

log = logging.getLogger(__name__)

NUM_CHUNKS = 64  # of a view, at most: the work that one process may wait for is so small a part
MIN_ROWS = 128  # of a chunk; the same for all who share a view, whatever their batch size is
PATIENCE = 60.0  # seconds at least for a chunk that another holds; a stopped process holds it on


@torch.no_grad()
def fill_view(cached: SoftTargets, compute: Callable[[Tensor], Output], at_once: int) -> None:
    """Compute what is missing of the view that `cached` is at, beside whoever else does.

    Args:
        cached: the store, at a view.
        compute: positions in the split, (M,) int64 -> the teacher's outputs for those M.
        at_once: the most positions that `compute` is given.
    """
    missing = cached.missing()
    if not len(missing):
        return
    start, cpu = time.monotonic(), time.process_time()
    size = max(MIN_ROWS, -(-cached.num_examples // NUM_CHUNKS))
    owed = []  # chunks that another process holds
    for number in sorted(set((missing // size).tolist())):
        rows = missing[missing // size == number]
        if not _claimed(cached, number, rows, compute, at_once, timeout=0.0):
            owed.append((number, rows))
    patience = max(PATIENCE, 2 * (time.monotonic() - start))
    for number, rows in owed:
        if not _claimed(cached, number, rows, compute, at_once, timeout=patience):
            log.warning("another process has held teacher outputs for %.0f s", patience)
            _compute(cached, rows, compute, at_once)  # two may write a row: it is whole either way
    cached.filling_seconds = time.process_time() - cpu
    cached.start_epoch(cached.view)  # whole now


def _claimed(
    cached: SoftTargets,
    number: int,
    rows: Tensor,
    compute: Callable[[Tensor], Output],
    at_once: int,
    timeout: float,
) -> bool:
    """Compute what is still missing of a chunk; False where another has held it for so long."""
    try:
        with FileLock(cached.directory / f"chunk-{number:02d}.lock", timeout=timeout):
            _compute(cached, rows, compute, at_once)
    except Timeout:
        return False
    return True


def _compute(
    cached: SoftTargets, rows: Tensor, compute: Callable[[Tensor], Output], at_once: int
) -> None:
    """Ask for those of `rows`, (M,), that are not there now, in the order of the split."""
    for index in torch.split(cached.missing(rows), at_once):
        cached.rows(index, lambda _, index=index: compute(index))  # type: ignore[misc]
