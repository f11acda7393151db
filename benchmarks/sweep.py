"""A sweep here against a peer's script once per setting, and against the machine's limit.

    python benchmarks/sweep.py --cifar100 DIR [--precision bf16-mixed] [--repeats 3]

Settings of temperature and lambda, resnet56 -> resnet20 on CIFAR-100, the teacher given (random
weights: its time is what counts), equal images, epochs and batches:

- `ours`: `python -m kd_research.run -m`, as many workers as there are cores, from the start of
  Python to the report, into an empty folder;
- `peer`: what RepDistiller and mdistiller do for one setting, `peer.py`: with one thread, as many
  such scripts at once as there are cores, and one with a thread for every core. `--peers` settings
  are run, the rest is multiplied;
- `limit`: the bare steps, the validations in the fit's precision, the final evaluations and the
  teacher's outputs once, in float32, on all cores: by the median step in processes beside each
  other, on images that lie ready in memory, timed before and after our sweep.

Prints seconds of wall and of processor, and the ratios, with n and range; limit / ours of 32
settings, where each further one takes what the trials took that found every output there. Times
vary with what else runs: the load is printed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from operator import truediv
from pathlib import Path
from typing import Any

import asked
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers
from kd_research.pools.local import cores
from kd_research.teacher.checkpoint import save_weights
from kd_research.training.memory import keep_freed

BATCH, CORES = 64, cores()
TEMPERATURES, LAMBDAS = (1.0, 2.0, 4.0, 8.0), (0.5, 0.9)
MANY = 32  # settings of the extrapolation


def model(name: str) -> torch.nn.Module:
    register_resolvers()
    hydra_plugin.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["dataset=cifar100", f"student={name}"])
    net: torch.nn.Module = instantiate(config.student.model)
    return net


def smaller(source: str, folder: Path, num_train: int, num_val: int) -> None:
    """So many rows of the data set's own files; validation is cut from the training rows."""
    for split, count in (("train", num_train + num_val), ("test", num_val)):
        paths = sorted(Path(source).rglob(f"{split}-*.parquet"))
        if not paths:
            sys.exit(f"there is no {split}-*.parquet in {source}; type --cifar100 FOLDER")
        table = pa.concat_tables([pq.read_table(path) for path in paths])
        if len(table) < count:
            sys.exit(f"{source} has {len(table)} rows for {split}, {count} are asked for")
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(0, count), folder / f"{split}-00000-of-00001.parquet")


def cast(precision: str) -> Any:
    bf16 = precision == "bf16-mixed"
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def loss_of(logits: Any, soft: Any, labels: Any, temperature: float, weight: float) -> Any:
    hard = F.cross_entropy(logits, labels)
    student, teacher = F.log_softmax(logits / temperature, 1), F.softmax(soft / temperature, 1)
    kl = F.kl_div(student, teacher, reduction="batchmean")
    return (1 - weight) * hard + weight * temperature**2 * kl


def bare(chosen: argparse.Namespace, times: Any, barrier: Any) -> None:
    """Seconds an image of a step, an evaluation and a teacher's pass, beside the other cores."""
    torch.set_num_threads(1)
    keep_freed()  # as a run does
    student, teacher = model(chosen.student).train(), model(chosen.teacher).eval()
    for net in (student, teacher):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(student.parameters(), 0.05, 0.9, weight_decay=5e-4)
    images = [torch.randn(BATCH, 3, 32, 32) for _ in range(16)]
    images = [each.contiguous(memory_format=torch.channels_last) for each in images]
    labels, soft = torch.randint(0, 100, (BATCH,)), torch.randn(BATCH, 100)

    def step(batch: torch.Tensor) -> None:
        with cast(chosen.precision):
            loss = loss_of(student(batch).float(), soft, labels, 4.0, 0.9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def validate(batch: torch.Tensor) -> None:
        with cast(chosen.precision):
            student(batch)

    @torch.no_grad()
    def judge(batch: torch.Tensor) -> None:
        student(batch)

    @torch.no_grad()
    def teach(batch: torch.Tensor) -> None:
        teacher(batch)

    found = []
    for run in (step, validate, judge, teach):
        student.train(run is step)
        for batch in images:
            run(batch)
        barrier.wait()
        seconds = []
        for batch in images * 3:
            start = time.perf_counter()
            run(batch)
            seconds.append((time.perf_counter() - start) / BATCH)
        found.append(statistics.median(seconds))
    times.put(found)


def limit(chosen: argparse.Namespace) -> tuple[float, float]:
    """Seconds that the arithmetic takes on all cores: what is done once, and each setting."""
    context = multiprocessing.get_context("spawn")
    times = context.Queue()
    given = chosen, times, context.Barrier(CORES)
    processes = [context.Process(target=bare, args=given) for _ in range(CORES)]
    for process in processes:
        process.start()
    found = [times.get() for _ in processes]
    for process in processes:
        process.join()
    step, validate, judge, teach = map(statistics.fmean, zip(*found, strict=True))
    text = f"step {1000 * step:.2f} ms, validation {1000 * validate:.2f}, evaluation "
    print(f"  an image: {text}{1000 * judge:.2f}, teacher {1000 * teach:.2f}", flush=True)
    trained, val = chosen.epochs * chosen.train, chosen.val
    each = trained * step + chosen.epochs * val * validate + 2 * val * judge
    return (trained + 2 * val) * teach / CORES, each / CORES


def timed(command: list[str], threads: int, at_once: int = 1) -> tuple[float, float]:
    """Seconds of wall and of processor, of each of so many that run at once."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    options: Any = {"env": env, "stdout": subprocess.DEVNULL, "cwd": ROOT}
    started = [subprocess.Popen(command, **options) for _ in range(at_once)]
    codes = [process.wait() for process in started]
    if any(codes):
        sys.exit(f"{' '.join(command)} failed: what it said is above")
    wall = time.perf_counter() - start
    with suppress(ChildProcessError):  # its servers, which are this process's once it has ended
        while time.perf_counter() - start < wall + 3:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:  # one that is left is multiprocessing's own
                time.sleep(0.1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall / at_once, used / at_once


def ours(chosen: argparse.Namespace, output: str) -> tuple[float, float]:
    temperatures, lambdas = (",".join(map(str, each)) for each in (TEMPERATURES, LAMBDAS))
    return timed(
        [
            *(sys.executable, "-m", "kd_research.run", "-m", "dataset=cifar100"),
            *(f"teacher={chosen.teacher}", f"student={chosen.student}", "optimizer=sgd"),
            f"teacher.checkpoint={chosen.folder / 'teacher.pt'}",
            f"dataset.root={chosen.folder / 'data'}",
            f"dataset.val_fraction={chosen.val / (chosen.train + chosen.val)}",
            *(f"dataset.batch_size={BATCH}", f"trainer.max_epochs={chosen.epochs}"),
            f"trainer.precision={chosen.precision}",
            *(f"loss.temperature=choice({temperatures})", f"loss.lambda=choice({lambdas})"),
            "student.model.width=16",  # resnet20's own: the default sweep would vary it
            *("sampler=brute_force", f"sweep.n_trials={chosen.settings}", "sweep.baseline=false"),
            *(f"sweep.workers={CORES}", "tracking=disabled", f"output_dir={output}"),
        ],
        1,
    )


def later(output: str) -> float:
    """Seconds of a trial that found every output of the teacher there."""
    texts = [path.read_text() for path in Path(output).rglob("trials/*/record.json")]
    found = [json.loads(text)["provenance"] for text in texts]
    seconds = [each["seconds"] for each in found if not each["soft_targets"]["computed"]]
    return statistics.fmean(seconds) if seconds else math.nan


def said(what: str, found: list[float], unit: str) -> None:
    middle = statistics.median(found)
    print(f"{what}: {middle:.3g}{unit} (n = {len(found)}, {min(found):.3g} to {max(found):.3g})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cifar100", type=asked.there, required=True, help="folder of the data set's Parquet files"
    )
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--settings", type=int, default=8, choices=range(1, 9))
    parser.add_argument(
        "--peers",
        type=int,
        default=1,
        choices=range(1, 9),
        help="settings that the peer's way runs",
    )
    parser.add_argument("--train", type=asked.count, default=5000)
    parser.add_argument("--val", type=asked.count, default=1000)
    parser.add_argument("--epochs", type=asked.count, default=2)
    parser.add_argument("--repeats", type=asked.count, default=1)
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "sweep")
    chosen = parser.parse_args()
    chosen.folder = chosen.folder.resolve()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what they use counts as ours
    smaller(chosen.cifar100, chosen.folder / "data", chosen.train, chosen.val)
    torch.manual_seed(0)
    save_weights(model(chosen.teacher), chosen.folder / "teacher.pt")
    script = [sys.executable, str(Path(__file__).with_name("peer.py")), str(chosen.folder)]
    for name in ("train", "val", "epochs", "precision", "teacher", "student"):
        script.append(f"--{name}={getattr(chosen, name)}")
    walls: dict[str, list[float]] = {"limit": [], "ours": []}
    strict, many, strict_many = [], [], []
    for _ in range(chosen.repeats):
        print(f"[{CORES} cores, load {os.getloadavg()[0]:.1f}, {chosen.precision}]", flush=True)
        before = limit(chosen)
        with tempfile.TemporaryDirectory() as output:
            wall, used = ours(chosen, output)
            each = later(output) / CORES
        after = limit(chosen)
        longer = wall + (MANY - chosen.settings) * each
        limits, limits_many = (
            [once + count * one for once, one in (before, after)]
            for count in (chosen.settings, MANY)
        )
        walls["limit"].append(statistics.fmean(limits))
        walls["ours"].append(wall)
        strict.append(min(limits) / wall)
        strict_many.append(min(limits_many) / longer)
        many.append(statistics.fmean(limits_many) / longer)
        print(f"  ours, {chosen.settings} settings: {wall:.0f} s (processor {used:.0f} s)")
        for threads, at_once in sorted({(1, 1), (1, CORES), (CORES, 1)}):
            who = f"peer, {threads} threads, {at_once} at once"
            command = [*script, f"--threads={threads}"]
            runs = [timed(command, threads, at_once) for _ in range(chosen.peers)]
            wall, used = map(statistics.fmean, zip(*runs, strict=True))
            walls.setdefault(who, []).append(wall * chosen.settings)
            print(f"  {who}, a setting: {wall:.0f} s (processor {used:.0f} s)", flush=True)
    peers = min((walls[name] for name in walls if "peer" in name), key=statistics.median)
    for name, found in walls.items():
        said(f"{name}, {chosen.settings} settings", found, " s")
    said("of the limit we reach, by its faster timing", strict, "")
    said("by the mean of both", list(map(truediv, walls["limit"], walls["ours"])), "")
    said(f"of the limit with {MANY} settings, extrapolated, by its faster timing", strict_many, "")
    said("by the mean of both", many, "")
    said("times as fast as the peer's way", list(map(truediv, peers, walls["ours"])), "")


if __name__ == "__main__":
    main()
