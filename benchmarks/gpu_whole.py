"""Whole runs, by the commands that a person types: a pair of the benchmark, energy, language."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gpu import Bench
from gpu_meter import Meter
from gpu_setting import BATCH, common, composed, images, quiet, random_teacher
from gpu_speed import LIVE, resident

from kd_research.evaluation.costs import synchronize
from kd_research.evaluation.energy import joules_per_1000
from kd_research.records.record import METRICS_NAME, RECORD_NAME
from kd_research.trial.assembly import Parts


def command(bench: Bench, folder: Path, *overrides: str) -> list[str]:
    line = [sys.executable, "-m", "kd_research.run", *common(bench), f"hydra.run.dir={folder}"]
    return [*line, "efficiency.num_runs=5", *overrides]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / METRICS_NAME
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["epoch"] >= 0]


def pair(bench: Bench) -> None:
    """resnet32x4 -> resnet8x4 on all of CIFAR-100, thirty epochs; the teacher in fewer."""
    epochs, teacher_epochs, batch = (1, 1, BATCH) if bench.cpu else (30, 15, 256)
    models = ("resnet8", "resnet8") if bench.cpu else ("resnet32x4", "resnet8x4")
    folder = bench.outputs / "runs" / f"pair-{os.getpid()}"
    line = command(
        bench,
        folder,
        *images(bench, BATCH if bench.cpu else None),
        f"dataset.batch_size={batch}",
        f"teacher={models[0]}",
        f"student={models[1]}",
        "loss=kd",
        "optimizer.lr=0.1",
        "optimizer@teacher.optimizer=sgd",
        "teacher.optimizer.lr=0.1",
        "trainer.precision=bf16-mixed",
        f"trainer.max_epochs={epochs}",
        f"teacher.trainer.max_epochs={teacher_epochs}",
    )
    started = time.monotonic()
    code, printed = bench.run(line, bench.seconds - 4)
    minutes, rows = (time.monotonic() - started) / 60, rows_of(folder)
    whole = f"{models[0]}, {teacher_epochs} epochs -> {models[1]}, {len(rows)} of {epochs} epochs"
    if code == 0:
        record = json.loads((folder / RECORD_NAME).read_text())
        for name in ("teacher_test_accuracy", "test_accuracy", "val_accuracy"):
            bench.tell(f"{whole}: {name}", record["metrics"][name])
        bench.tell("seconds an epoch", record["costs"]["train_epoch_seconds"], "s")
        bench.tell("the whole command", minutes, "min", ok=True)
    else:
        if rows:
            bench.tell(f"{whole}: val_accuracy so far", rows[-1]["val_accuracy"])
        note = "ended at the part's limit" if code < 0 else last_line(printed)
        bench.tell("the whole command", minutes, "min", ok=False, note=note)


def last_line(printed: str) -> str:
    return (printed.strip().splitlines() or ["it printed nothing"])[-1][:200]


def energy(bench: Bench) -> None:
    """Joules of training by NVML's counter, beside Zeus's; of inference by our own costs."""
    quiet()
    meter, seconds = Meter(not bench.cpu), 0.1 if bench.cpu else 4.0
    names = ["teacher=resnet8", "student=resnet8"]
    names = names if bench.cpu else ["teacher=resnet56", "student=resnet20"]
    size = (1 if bench.cpu else 8) * BATCH
    loop, inputs, labels = resident(bench, names, size, True, not bench.cpu)
    device, count = torch.device(bench.device), 0
    monitor = None
    if not bench.cpu and importlib.util.find_spec("zeus"):
        from zeus.monitor import ZeusMonitor

        monitor = ZeusMonitor(gpu_indices=[0], cpu_indices=[])
    for _ in range(3):
        loop.step(inputs[:BATCH], labels[:BATCH])
    synchronize(device)
    if monitor:
        monitor.begin_window("steps")
    before, start = meter.joules(), time.perf_counter()
    while time.perf_counter() < start + seconds:
        for place in range(0, len(inputs), BATCH):
            loop.step(inputs[place : place + BATCH], labels[place : place + BATCH])
        synchronize(device)
        count += len(inputs)
    taken, after = time.perf_counter() - start, meter.joules()
    zeus = sum(monitor.end_window("steps").gpu_energy.values()) if monitor else None
    note = f"{count} images in {taken:.1f} s"
    if before is None or after is None:
        bench.tell("training, NVML", None, note="there is no counter; " + note)
    else:
        nvml = after - before
        bench.tell("training, NVML", 1000 * nvml / count, "J/1000 images", note=note)
        bench.tell("mean power, NVML", nvml / taken, "W")
        if zeus is not None:
            apart = zeus / nvml - 1
            bench.tell("training, Zeus against NVML", 100 * apart, "%", ok=abs(apart) < 0.1)
    config = composed(bench, *images(bench, 8 * BATCH), *names, LIVE)
    random_teacher(bench, config)
    parts = Parts(config)
    student, one = parts.student.to(device).eval(), parts.examples_on(device)(1)
    with torch.no_grad():
        joules, source = joules_per_1000(lambda: student(one), device)
    bench.tell("1,000 inferences, energy_joules of a record", joules, "J", note=source)


def language(bench: Bench) -> None:
    """gpt on tinyshakespeare: tokens a second, and the validation loss after two minutes."""
    if bench.data is None or not (bench.data / "tinyshakespeare").is_dir():
        bench.tell("gpt on tinyshakespeare", None, note="--data has no tinyshakespeare")
        return
    folder = bench.outputs / "runs" / f"gpt-{os.getpid()}"
    if bench.cpu:
        size = [
            "student=gpt",
            "student.model.width=32",
            "student.model.depth=1",
            "dataset.subset=64",
        ]
        size += ["trainer.max_epochs=3", "dataset.val_fraction=0.01"]
    else:  # nanoGPT's settings for characters, 4,900 steps
        size = ["student=gpt_10m", "dataset.context=256", "dataset.batch_size=64"]
        size += ["trainer.max_epochs=80", "trainer.precision=bf16-mixed", "optimizer.lr=0.001"]
    line = command(
        bench,
        folder,
        "dataset=tinyshakespeare",
        f"dataset.root={bench.data}/tinyshakespeare",
        "teacher=none",
        "loss=ce",
        "optimizer=adamw",
        *size,
    )
    started, ending = time.time(), bench.seconds - 6
    code, printed = bench.run(line, ending)
    rows = rows_of(folder)
    if not rows:
        bench.tell("gpt on tinyshakespeare", None, ok=False, note=last_line(printed))
        return
    config = composed(bench, *[part for part in line[3:] if "hydra.run" not in part])
    best = min(rows, key=lambda row: row["val_nll"])
    minutes = (os.stat(folder / METRICS_NAME).st_mtime - started) / 60
    note = (
        f"epoch {best['epoch']}, after {minutes:.1f} min in all, start included; exit code {code}"
    )
    bench.tell("validation loss", best["val_nll"], "nats/token", note=note)
    tokens = tokens_a_step(config) * rows[-1]["step"]
    bench.tell("tokens a second, start and validation included", tokens / 60 / minutes, "tokens/s")


def tokens_a_step(config: dict[str, Any]) -> int:
    dataset = config["dataset"]
    return int(dataset["batch_size"]) * int(dataset["context"])
