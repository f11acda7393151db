"""Ready batches from tensors in memory, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from kd_research.data.sources import Split
from kd_research.interfaces import Batch

PREFETCH = 2  # batches decoded ahead of use


class EpochOrder:
    """The order of a split's examples in the current epoch: a permutation, or as they are.

    Lightning calls `set_epoch` before each epoch on a loader's `sampler`, which this is.
    """

    def __init__(self, size: int, seed: int | None):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves."""
        self.epoch = epoch

    def permutation(self) -> torch.Tensor:
        """(size,) int64; the identity where `seed` is None."""
        if self.seed is None:
            return torch.arange(self.size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.size, generator=generator)


class Batches:
    """One split in batches, of which each process serves its share.

    The order and the membership of every global batch are the same for any number of processes:
    process `rank` of `world_size` serves every `world_size`-th example of each global batch. Its
    share may be empty in a short last batch of an evaluation; in training (`seed` given) a last
    batch with fewer examples than processes is left out, by all of them.

    Args:
        split: the examples.
        batch_size: of the global batch, over all processes together.
        seed: of the shuffling; None keeps the order, for evaluation.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.split, self.batch_size = split, batch_size
        self.rank, self.world_size = rank, world_size
        self.sampler = EpochOrder(len(split), seed)
        self.batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __len__(self) -> int:
        """Number of global batches."""
        full, rest = divmod(len(self.split), self.batch_size)
        least = 1 if self.sampler.seed is None else self.world_size
        return full + (rest >= least)

    def global_size(self, batch_index: int) -> int:
        """How many examples the global batch has, over all processes."""
        return min(self.batch_size, len(self.split) - batch_index * self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """This process's share of every batch of the epoch."""
        if not self.split.is_streamed:
            yield from map(self._take, self._indices())
            return
        with ThreadPoolExecutor(1) as ahead:  # the next batch is decoded while this one is used
            coming: deque[Future[Batch]] = deque()
            for index in self._indices():
                coming.append(ahead.submit(self._take, index))
                if len(coming) > PREFETCH:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def _take(self, index: torch.Tensor) -> Batch:
        examples = self.split.take(index)
        return Batch(examples.inputs, examples.labels, index)

    def _indices(self) -> Iterator[torch.Tensor]:
        order = self.sampler.permutation().to(self.split.labels.device)
        for batch_index in range(len(self)):
            start = batch_index * self.batch_size
            index = order[start : start + self.batch_size]
            if self.world_size > 1:
                index = index[self.rank :: self.world_size]
            yield index
