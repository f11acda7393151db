"""How many small students at once make the most of one GPU, with and without MPS.

Each process trains a resnet20 in a bare loop towards cached outputs, all from the same moment for
the same seconds; a row is the sum of their images a second.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from gpu import Bench
from gpu_meter import Meter, mean_or_none

BATCH, CLASSES, EXAMPLES = 64, 100, 6400
DAEMON = "nvidia-cuda-mps-control"
READY_SECONDS = 60.0


def work(device: str, pipe: Connection) -> None:
    """In a process of its own: says "ready", then trains for so many seconds whenever asked to."""
    from kd_research.models.resnet import ResNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layout, depth = torch.channels_last, 8 if device == "cpu" else 20
    student = ResNet(CLASSES, [3, 32, 32], depth=depth, width=16)
    student.to(device, memory_format=layout)
    images = torch.randn(EXAMPLES, 3, 32, 32, device=device).contiguous(memory_format=layout)
    soft = torch.randn(EXAMPLES, CLASSES, device=device).softmax(1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)

    def step(start: int) -> None:
        place = start % (EXAMPLES - BATCH)
        loss = F.cross_entropy(student(images[place : place + BATCH]), soft[place : place + BATCH])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    for place in range(3):
        step(place)
    wait()
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        begin, seconds = asked
        time.sleep(max(0.0, begin - time.time()))
        start, count = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            for _ in range(1 if device == "cpu" else 10):
                step(count)
                count += BATCH
            wait()
        pipe.send(count / (time.perf_counter() - start))


@contextmanager
def mps() -> Iterator[dict[str, str] | None]:
    """The daemon under folders of its own, ended again; None where there is none."""
    if shutil.which(DAEMON) is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **variables}
        os.mkdir(f"{folder}/pipe")
        try:
            subprocess.run([DAEMON, "-d"], env=environment, check=True, timeout=10)
            yield variables
        finally:
            subprocess.run([DAEMON], input=b"quit\n", env=environment, timeout=20)


def measure(bench: Bench, name: str, variables: dict[str, str], until: float, meter: Meter) -> None:
    """Rows for 1, 2, 4, ... processes, of which as many as are asked for work at a time."""
    counts = (1, 2) if bench.cpu else (1, 2, 4, 8, 16)
    seconds = 0.1 if bench.cpu else 1.5
    context: Any = multiprocessing.get_context("fork" if bench.cpu else "spawn")
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)  # what is spawned inherits it
    pipes: list[Connection] = []
    processes: list[Any] = []
    try:
        for _ in range(counts[-1]):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(bench.device, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        ready = [pipe for pipe in pipes if said(pipe, until) == "ready"]
        if len(ready) < counts[-1]:
            note = f"{len(ready)} of {counts[-1]} processes came up"
            bench.tell(f"{name}: processes", len(ready), ok=False, note=note)
        one = None
        for count in (count for count in counts if count <= len(ready)):
            begin = time.time() + 0.2
            for pipe in ready[:count]:
                pipe.send((begin, seconds))
            with meter.watched() as busy:
                found = [said(pipe, until) for pipe in ready[:count]]
            total = sum(rate for rate in found if isinstance(rate, float))
            one, share = one or total, mean_or_none(busy)
            note = f"{total / one:.2f} of one" + ("" if share is None else f"; busy {share:.0f} %")
            bench.tell(f"{name}: {count} at once", total, "images/s", note=note)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def said(pipe: Connection, until: float) -> Any:
    """What the process at the other end says; None if it dies or is too late."""
    try:
        return pipe.recv() if pipe.poll(max(1.0, until - time.monotonic())) else None
    except (EOFError, ConnectionError):
        return None


def at_once(bench: Bench) -> None:
    """Without MPS, then with it."""
    meter, started = Meter(not bench.cpu), time.monotonic()
    measure(bench, "no MPS", {}, started + bench.seconds / 2, meter)
    if bench.cpu:
        return
    with mps() as variables:
        if variables is None:
            bench.tell("with MPS", None, note=f"there is no {DAEMON}")
        else:
            measure(bench, "with MPS", variables, started + bench.seconds - 3, meter)
