"""Who computes a teacher's outputs: all that want them, by claims, or one ahead of the others.

    python benchmarks/teacher_once.py --cifar100 DIR [--workers 2 4] [--images 1000] [--repeats 3]

W processes of one thread each start together. Each trains a student on one setting of temperature
and lambda, from the same data in the same order and with the same cached views, in two ways:

- `claims`: what the product does: at the start of an epoch each claims chunks of its view, and
  waits at the end for those of the others (`soft_targets/together.py`);
- `filler`: one process computes view after view in the order in which training will want the rows,
  then trains its own setting; the others train on what is there, and wait for the rows of their
  next batch alone.

--settings above W are taken by whoever is free, as a sweep's are. The teacher's weights are random:
its time is what counts. Without --cifar100 it runs on the digits. Prints seconds of wall, from the
common start to the last process's end, and of processor, filler / claims pair by pair, with n and
range, and how many outputs were computed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asked
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sweep import BATCH, CORES, LAMBDAS, TEMPERATURES, loss_of, said, smaller
from torch import Tensor, nn

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers
from kd_research.data.batches import Batches
from kd_research.data.module import DataModule
from kd_research.interfaces import Batch, Output, some
from kd_research.soft_targets.fill import fill
from kd_research.soft_targets.store import LOGITS, SoftTargets

CPU = torch.device("cpu")
SETTINGS = [(temperature, weight) for temperature in TEMPERATURES for weight in LAMBDAS]
POLL = 0.002  # seconds between two looks at rows that are not there yet


@dataclass(frozen=True)
class Work:
    """What is to be done, whoever computes the teacher's outputs."""

    data: DataModule
    teacher: nn.Module
    make_student: Callable[[], nn.Module]
    epochs: int
    settings: int
    workers: int

    @property
    def views(self) -> int:
        return self.data.num_views or self.epochs

    def store(self, folder: Path) -> SoftTargets:
        shapes = {LOGITS: (self.data.num_classes,)}
        return SoftTargets(folder, "teacher_once", len(self.data.train), shapes, self.views)

    def order(self, epoch: int) -> Batches:
        """The batches of an epoch: those of every trial of a sweep, whose seed is one."""
        batches = Batches(self.data.train, self.data.batch_size, self.data.seed)
        batches.sampler.set_epoch(epoch)
        return batches

    @torch.no_grad()
    def teach(self, inputs: Any) -> Output:
        return Output(self.teacher(inputs), {})


def train(
    work: Work, cached: SoftTargets, number: int, ready: Callable[[int, Tensor], None]
) -> None:
    """One setting; `ready(epoch, index)` returns when the rows of a batch are there."""
    torch.manual_seed(0)
    student, (temperature, weight) = work.make_student().train(), SETTINGS[number % len(SETTINGS)]
    optimizer = torch.optim.SGD(student.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for epoch in range(work.epochs):
        cached.start_epoch(epoch)
        for raw in work.order(epoch):
            ready(epoch, raw.index)
            batch = work.data.prepare(raw, work.data.view(epoch))
            soft = cached.outputs(batch.index, missing).logits
            loss = loss_of(student(batch.inputs), soft, batch.labels, temperature, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def missing(index: Tensor) -> Output:
    raise AssertionError(f"{len(index)} outputs are not there")


def fill_ahead(work: Work, cached: SoftTargets) -> None:
    """All views, in the order in which they are trained on."""
    for view in range(work.views):
        cached.start_epoch(view)
        for raw in work.order(view):

            def compute(places: Tensor, raw: Batch = raw, view: int = view) -> Output:
                batch = work.data.prepare(raw, work.data.view(view))
                return work.teach(some(batch.inputs, places))

            cached.rows(raw.index, compute)


def process(way: str, rank: int, work: Work, folder: Path, shared: Any) -> None:
    """One of the workers: takes settings until none is left."""
    barrier, taken, found = shared
    torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
    cached, filled = work.store(folder), -1

    def by_claims(epoch: int, _: Tensor) -> None:
        nonlocal filled
        if epoch != filled:  # at the epoch's start
            fill(cached, work.data, work.teach, CPU, [epoch])
            filled = epoch

    def by_filler(_: int, index: Tensor) -> None:
        while len(cached.missing(index)):
            time.sleep(POLL)

    barrier.wait()
    start, used = time.monotonic(), time.process_time()
    if way == "filler" and rank == 0:
        fill_ahead(work, cached)
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= work.settings:
            break
        filled = -1
        train(work, cached, number, by_claims if way == "claims" else by_filler)
    used = time.process_time() - used
    found.put((start, time.monotonic(), used, cached.computed))


def run(way: str, work: Work) -> tuple[float, float, int]:
    """Seconds of wall and of processor, and the outputs that were computed, from an empty store."""
    context = multiprocessing.get_context("fork")  # which has the data and the nets
    shared = context.Barrier(work.workers), context.Value("i", 0), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(
                target=process, args=(way, rank, work, Path(folder), shared), daemon=True
            )
            for rank in range(work.workers)
        ]
        for each in processes:
            each.start()
        found = [shared[2].get(timeout=3600) for _ in processes]
        for each in processes:
            each.join()
    starts, ends, used, computed = zip(*found, strict=True)
    return max(ends) - min(starts), sum(used), sum(computed)


def compare(work: Work, repeats: int) -> None:
    """The two ways in turn, each time the other first."""
    walls: dict[str, list[float]] = {"claims": [], "filler": []}
    processor: dict[str, list[float]] = {"claims": [], "filler": []}
    expected = len(work.data.train) * work.views
    print(f"{work.workers} workers, {work.settings} settings, {CORES} cores", flush=True)
    for repeat in range(repeats):
        for way in sorted(walls, reverse=bool(repeat % 2)):
            wall, used, computed = run(way, work)
            walls[way].append(wall)
            processor[way].append(used)
            load = os.getloadavg()[0]
            print(
                f"  {way}: {wall:.2f} s, processor {used:.2f} s, {computed} outputs computed of "
                f"{expected}, load {load:.1f}",
                flush=True,
            )
            if computed != expected:
                raise SystemExit(f"{way}: {computed} outputs were computed, not {expected}")
    for way in walls:
        said(f"  {way}, wall", walls[way], " s")
        said(f"  {way}, processor", processor[way], " s")
    for what, found in (("wall", walls), ("processor", processor)):
        pairs = zip(found["filler"], found["claims"], strict=True)
        said(f"  filler / claims, {what}", [one / other for one, other in pairs], "")


def nets(chosen: argparse.Namespace, folder: Path) -> tuple[DataModule, nn.Module, Any]:
    """The data, the frozen teacher, and what makes a student."""
    register_resolvers()
    hydra_plugin.register()
    typed = [f"teacher={chosen.teacher}", f"student={chosen.student}", f"output_dir={folder}"]
    typed += [f"dataset.batch_size={BATCH}"]
    if chosen.cifar100:
        smaller(chosen.cifar100, folder / "cut", 2 * chosen.images, 1000)
        typed += ["dataset=cifar100", f"dataset.root={folder / 'cut'}", "dataset.val_fraction=0.2"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [*typed, f"dataset.subset={chosen.images}"])
    data = instantiate(config.dataset, seed=config.seed)
    data.channels_last = config.channels_last
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    torch.manual_seed(1)
    teacher = (
        instantiate(config.teacher.model).eval().requires_grad_(False).to(memory_format=layout)
    )
    return data, teacher, lambda: instantiate(config.student.model).to(memory_format=layout)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cifar100", type=asked.there, help="folder of the data set's Parquet files"
    )
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--images", type=asked.count, default=1000)
    parser.add_argument("--epochs", type=asked.count, default=2)
    parser.add_argument("--workers", type=asked.count, nargs="+", default=[2, 4])
    parser.add_argument("--settings", type=asked.count, help="as many as workers")
    parser.add_argument("--repeats", type=asked.count, default=3)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        data, teacher, make_student = nets(chosen, Path(folder))
        print(
            f"{chosen.teacher} -> {chosen.student}, {len(data.train)} images, {chosen.epochs} "
            f"epochs, torch {torch.__version__}, {platform.machine()}"
        )
        for workers in chosen.workers:
            settings = chosen.settings or workers
            work = Work(data, teacher, make_student, chosen.epochs, settings, workers)
            compare(work, chosen.repeats)


if __name__ == "__main__":
    main()
