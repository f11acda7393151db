"""What the README advises on layout, precision, compilation, threads and trials at once.

    python benchmarks/advice.py [--repeats 5] [--seconds 5] [--only threads]

Trains a resnet20 on random 32x32 images, batch 64, towards cached logits, in a bare loop. First the
options, each against plain float32 NCHW with one thread, in seconds a step of the processor; then
how many steps a second several processes do at once with one or two threads each, against one
process with one, by the clock: on a busy machine that says nothing, so the load is printed. Medians
of alternating repeats, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import asked
import torch
import torch.nn.functional as F

from kd_research.models.resnet import ResNet

BATCH, CLASSES = 64, 10
OPTIONS = (
    "plain",
    "channels_last",
    "bf16",
    "channels_last bf16",
    "compile",
    "channels_last compile",
)
AT_ONCE = {  # processes, threads of each
    "one process, 1 thread": (1, 1),
    "two processes, 1 thread each": (2, 1),
    "one process, 2 threads": (1, 2),
    "two processes, 2 threads each": (2, 2),
}


def stepper(options: str, threads: int = 1) -> Callable[[], None]:
    """A function that trains for one step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layout = torch.channels_last if "channels_last" in options else torch.contiguous_format
    student = ResNet(CLASSES, [3, 32, 32], depth=20, width=16).to(memory_format=layout)
    run = torch.compile(student) if "compile" in options else student
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=layout)
    soft = torch.randn(BATCH, CLASSES).softmax(1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in options):
            logits = run(images)
        loss = F.cross_entropy(logits.float(), soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    return step


def work(threads: int, start, seconds: float, rates) -> None:
    step, count = stepper("channels_last", threads), 0
    start.wait()
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds:
        step()
        count += 1
    rates.put(count / (time.perf_counter() - begin))


def rate(processes: int, threads: int, seconds: float) -> float:
    """Steps a second of all processes together."""
    spawn = multiprocessing.get_context("spawn")
    start, rates = spawn.Barrier(processes), spawn.Queue()
    workers = [
        spawn.Process(target=work, args=(threads, start, seconds, rates)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    total = sum(rates.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def report(title: str, ratios: list[float]) -> None:
    print(
        f"{title:32} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, "
        f"n={len(ratios)}; load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def options(repeats: int) -> None:
    steps, times = {}, {name: [] for name in OPTIONS}
    for name in OPTIONS:
        begin = time.perf_counter()
        steps[name] = stepper(name)
        print(f"{name:32} {time.perf_counter() - begin:.0f} s to its third step", flush=True)
    for _ in range(repeats):
        for name, step in steps.items():
            begin = time.process_time()
            for _ in range(3):
                step()
            times[name].append(time.process_time() - begin)
    for name, found in times.items():
        report(name, [own / plain for own, plain in zip(found, times["plain"], strict=True)])


def at_once(repeats: int, seconds: float) -> None:
    ratios = {name: [] for name in AT_ONCE}
    for _ in range(repeats):
        one = None
        for name, (processes, threads) in AT_ONCE.items():
            found = rate(processes, threads, seconds)
            one = one or found
            ratios[name].append(found / one)
    for name, found in ratios.items():
        report(name, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=asked.count, default=5)
    parser.add_argument("--seconds", type=asked.seconds, default=5.0)
    parser.add_argument("--only", choices=["options", "threads"])
    given = parser.parse_args()
    if given.only != "threads":
        options(given.repeats)
    if given.only != "options":
        at_once(given.repeats, given.seconds)


if __name__ == "__main__":
    main()
