"""Ready batches from tensors in memory, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from kd_research.data.sources import Split
from kd_research.data.stream import EncodedImages
from kd_research.interfaces import Batch
from kd_research.pools.child import hidden_main
from kd_research.pools.local import cores

PREFETCH = 2  # batches that a worker process decodes ahead of use


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
        self._summed: tuple[int, torch.Tensor] | None = None  # of an epoch: num_labels before each
        self.batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __len__(self) -> int:
        """Number of global batches."""
        full, rest = divmod(len(self.split), self.batch_size)
        least = 1 if self.sampler.seed is None else self.world_size
        return full + (rest >= least)

    def num_labels(self, first: int, end: int) -> int:
        """How many labels to learn the epoch's global batches `first` to `end` - 1 have together.

        One an example, or as many as it has valid positions.
        """
        start, stop = first * self.batch_size, min(end * self.batch_size, len(self.split))
        if self.split.labels.ndim == 1:
            return stop - start
        if self._summed is None or self._summed[0] != self.sampler.epoch:
            counts = self.split.num_valid[self.sampler.permutation()]
            self._summed = (self.sampler.epoch, F.pad(counts.cumsum(0), (1, 0)))
        return int(self._summed[1][stop] - self._summed[1][start])

    def __iter__(self) -> Iterator[Batch]:
        """This process's share of every batch of the epoch."""
        if not isinstance(self.split.inputs, EncodedImages):
            yield from map(self._take, self._indices())
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["datasets", __name__])
        loader: DataLoader[Batch | ValueError] = DataLoader(
            _Decoder(self.split),  # type: ignore[arg-type]
            batch_size=None,
            sampler=(index.tolist() for index in self._indices()),
            num_workers=min(self.split.inputs.workers, cores()),
            prefetch_factor=PREFETCH,
            multiprocessing_context=context,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # the global one decides dropout, which it must not move
        )
        with hidden_main():
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, ValueError):
                raise batch
            yield batch

    def _take(self, index: torch.Tensor) -> Batch:
        examples = self.split.take(index)
        return Batch(examples.inputs, examples.labels, index)

    def numbered(self, first: int, end: int) -> Iterator[Batch]:
        """This process's share of the epoch's batches `first` to `end` - 1, in memory."""
        return map(self._take, self._indices(first, end))

    def _indices(self, first: int = 0, end: int | None = None) -> Iterator[torch.Tensor]:
        order = self.sampler.permutation().to(self.split.labels.device)
        for number in range(first, len(self) if end is None else end):
            start = number * self.batch_size
            index = order[start : start + self.batch_size]
            if self.world_size > 1:
                index = index[self.rank :: self.world_size]
            yield index


class _Decoder:
    """What a worker process of a stream does: takes whole batches."""

    def __init__(self, split: Split):
        self.split = split

    def __getitem__(self, positions: list[int]) -> Batch | ValueError:
        """The batch, or what is wrong with it: DataLoader would tell that with a traceback."""
        index = torch.tensor(positions, dtype=torch.int64)
        try:
            examples = self.split.take(index)
        except ValueError as error:
            return error
        return Batch(examples.inputs, examples.labels, index)


def _end_with_parent(worker: int) -> None:
    """Have this worker process end with the run's, however that ends.

    DataLoader's own watch looks at the parent, which here is the fork server: that lives as long as
    any process that it forked.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
