"""A sweep here against a peer's script once per setting, and against the machine's limit.

    python benchmarks/sweep.py --cifar100 DIR [--precision bf16-mixed] [--repeats 3]

Settings of temperature and lambda, resnet56 -> resnet20 on CIFAR-100, the teacher given (random
weights: its time is what counts), equal images, epochs and batches:

- `ours`: `python -m kd_research.run -m`, as many workers as there are cores, from the start of
  Python to the report, into an empty folder;
- `peer`: what RepDistiller and mdistiller do for one setting: a plain PyTorch script with a live
  teacher, a DataLoader over PIL transforms, an evaluation each epoch; with one thread, and with one
  for every core. `--peers` settings are run, the rest is multiplied;
- `limit`: the bare steps and evaluations of all settings and the teacher's outputs once, on all
  cores: by what these take in processes beside each other, on images that lie ready in memory,
  timed before and after our sweep.

Prints seconds of wall and of processor, and the ratios, with n and range; limit / ours of 32
settings, where each further one takes what the trials took that found every output there. Times
vary with what else runs: the load is printed.
"""

from __future__ import annotations

import argparse
import ctypes
import io
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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image, ImageOps

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers
from kd_research.teacher.checkpoint import load_weights, save_weights

BATCH, CORES = 64, os.cpu_count() or 1
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
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
        table = pa.concat_tables([pq.read_table(path) for path in paths])
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(0, count), folder / f"{split}-00000-of-00001.parquet")


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """As torchvision's CIFAR100 with RandomCrop(32, padding=4), flip, ToTensor and Normalize."""

    def __init__(self, path: Path, start: int, stop: int, is_train: bool):
        rows = pq.read_table(path).slice(start, stop - start).to_pydict()
        pictures = [Image.open(io.BytesIO(each["bytes"])).convert("RGB") for each in rows["img"]]
        self.pictures = [np.asarray(picture) for picture in pictures]
        self.labels, self.is_train = rows["fine_label"], is_train
        self.mean = torch.tensor(MEAN).view(3, 1, 1)
        self.std = torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self.pictures[index])
        if self.is_train:
            x, y = torch.randint(0, 9, (2,)).tolist()
            picture = ImageOps.expand(picture, 4).crop((x, y, x + 32, y + 32))
            if torch.rand(1) < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255).sub(self.mean).div(self.std), self.labels[index]


def cast(precision: str) -> Any:
    bf16 = precision == "bf16-mixed"
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def loss_of(logits: Any, soft: Any, labels: Any, temperature: float, weight: float) -> Any:
    hard = F.cross_entropy(logits, labels)
    student, teacher = F.log_softmax(logits / temperature, 1), F.softmax(soft / temperature, 1)
    kl = F.kl_div(student, teacher, reduction="batchmean")
    return (1 - weight) * hard + weight * temperature**2 * kl


def peer(chosen: argparse.Namespace) -> None:
    """One setting by a script of its own."""
    torch.set_num_threads(chosen.threads)
    data = chosen.folder / "data" / "train-00000-of-00001.parquet"
    train = Pictures(data, 0, chosen.train, True)
    held = Pictures(data, chosen.train, chosen.train + chosen.val, False)
    loader = torch.utils.data.DataLoader(train, BATCH, shuffle=True, drop_last=False)
    tests = torch.utils.data.DataLoader(held, BATCH)
    student, teacher = model(chosen.student).train(), model(chosen.teacher).eval()
    load_weights(teacher, chosen.folder / "teacher.pt")
    optimizer = torch.optim.SGD(student.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for _ in range(chosen.epochs):
        student.train()
        for images, labels in loader:
            with cast(chosen.precision):
                with torch.no_grad():
                    soft = teacher(images)
                loss = loss_of(student(images).float(), soft.float(), labels, 4.0, 0.9)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        student.eval()
        with torch.no_grad(), cast(chosen.precision):
            print(sum(int((student(x).argmax(1) == y).sum()) for x, y in tests) / chosen.val)


def bare(chosen: argparse.Namespace, times: Any, barrier: Any) -> None:
    """Seconds an image of a step, an evaluation and a teacher's pass, beside the other cores."""
    torch.set_num_threads(1)
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
    def judge(batch: torch.Tensor) -> None:
        student(batch)

    @torch.no_grad()
    def teach(batch: torch.Tensor) -> None:
        teacher(batch)

    found = []
    for run in (step, judge, teach):
        student.train(run is step)
        for batch in images[:4]:
            run(batch)
        barrier.wait()
        start = time.perf_counter()
        for batch in images:
            run(batch)
        found.append((time.perf_counter() - start) / len(images) / BATCH)
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
    step, judge, teach = map(statistics.fmean, zip(*found, strict=True))
    trained, judged = chosen.epochs * chosen.train, (chosen.epochs + 2) * chosen.val
    text = f"step {1000 * step:.2f} ms, evaluation {1000 * judge:.2f}, teacher {1000 * teach:.2f}"
    print(f"  an image: {text}", flush=True)
    return (trained + 2 * chosen.val) * teach / CORES, (trained * step + judged * judge) / CORES


def timed(command: list[str], threads: int) -> tuple[float, float]:
    """Seconds of wall and of processor."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, cwd=ROOT)
    wall = time.perf_counter() - start
    with suppress(ChildProcessError):  # its servers, which are this process's once it has ended
        while time.perf_counter() - start < wall + 3:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:  # one that is left is multiprocessing's own
                time.sleep(0.1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, used


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
    parser.add_argument("--cifar100", help="folder of the data set's Parquet files")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--settings", type=int, default=8, help="at most 8")
    parser.add_argument("--peers", type=int, default=1, help="settings that the peer's way runs")
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--val", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "sweep")
    parser.add_argument("--threads", type=int, help="be the peer's script, with so many threads")
    chosen = parser.parse_args()
    chosen.folder = chosen.folder.resolve()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what they use counts as ours
    if chosen.threads:
        peer(chosen)
        return
    smaller(chosen.cifar100, chosen.folder / "data", chosen.train, chosen.val)
    torch.manual_seed(0)
    save_weights(model(chosen.teacher), chosen.folder / "teacher.pt")
    again = [sys.executable, __file__, *sys.argv[1:]]
    walls: dict[str, list[float]] = {"limit": [], "ours": []}
    many = []
    for _ in range(chosen.repeats):
        print(f"[{CORES} cores, load {os.getloadavg()[0]:.1f}, {chosen.precision}]", flush=True)
        before = limit(chosen)
        with tempfile.TemporaryDirectory() as output:
            wall, used = ours(chosen, output)
            each = later(output) / CORES
        once, one = map(statistics.fmean, zip(before, limit(chosen), strict=True))
        walls["limit"].append(once + chosen.settings * one)
        walls["ours"].append(wall)
        many.append((once + MANY * one) / (wall + (MANY - chosen.settings) * each))
        print(f"  ours, {chosen.settings} settings: {wall:.0f} s (processor {used:.0f} s)")
        for threads in sorted({1, CORES}):
            command, who = [*again, "--threads", str(threads)], f"peer, {threads} threads"
            runs = [timed(command, threads) for _ in range(chosen.peers)]
            wall, used = map(statistics.fmean, zip(*runs, strict=True))
            walls.setdefault(who, []).append(wall * chosen.settings)
            print(f"  {who}, a setting: {wall:.0f} s (processor {used:.0f} s)", flush=True)
    peers = min((walls[name] for name in walls if "peer" in name), key=statistics.median)
    for name, found in walls.items():
        said(f"{name}, {chosen.settings} settings", found, " s")
    said("of the limit we reach", list(map(truediv, walls["limit"], walls["ours"])), "")
    said(f"of the limit with {MANY} settings, extrapolated", many, "")
    said("times as fast as the peer's way", list(map(truediv, peers, walls["ours"])), "")


if __name__ == "__main__":
    main()
