"""Images a second of a distillation step: ours, a bare loop's, RepDistiller's way, and the limit.

Alternating: every round times each variant once, and a row is the median of the rounds that the
part's limit allowed. All train the same student towards the same teacher with the same loss.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gpu import Bench
from gpu_ceiling import Traffic, rates
from gpu_meter import Meter, mean_or_none
from gpu_setting import BATCH, composed, images, quiet, random_teacher
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_research.evaluation.costs import macs, synchronize
from kd_research.losses.logits import soft_target_loss
from kd_research.training.cost import EpochTimes
from kd_research.training.fit import fit
from kd_research.trial.assembly import Parts

LIVE, NCHW, BF16 = "soft_targets.cache=false", "channels_last=false", "trainer.precision=bf16-mixed"
OURS = {  # the slow to start last
    "ours, defaults (cached outputs, channels_last)": [],
    "ours, NCHW": [NCHW],
    "ours, live teacher": [LIVE],
    "ours, bf16": [BF16],
    "ours, bf16, cudnn.benchmark": [BF16],
    "ours, live teacher, bf16": [LIVE, BF16],
    "ours, bf16, compiled": [BF16, "compile=true"],
}
BASE = "a bare loop, data on the device"
WEIGHT, TEMPERATURE = 0.9, 4.0
Timed = Callable[[], float]  # images a second of one go


def ours(bench: Bench, overrides: list[str], count: int) -> Timed:
    """The second of two epochs through `fit`, validation left out; the clock waits for the GPU."""
    config = composed(bench, *images(bench, count), *overrides)
    random_teacher(bench, config)
    options = {**config["trainer"], "max_epochs": 2, "limit_val_batches": 1}
    parts = Parts({**config, "trainer": options}, torch.device(bench.device))

    def timed() -> float:
        times = EpochTimes()
        directory = bench.outputs / "fits" / "speed"
        fit(parts.module, parts.data, options, directory, lambda _: None, callbacks=[times])
        return count / float(times.costs()["train_epoch_seconds"] or 0)

    timed()  # compiles, chooses kernels, fills the cached outputs of both epochs
    return timed


class Loop:
    """A training step that a person would write, on tensors that live on the device."""

    def __init__(self, parts: Parts, device: str, layout: torch.memory_format, bf16: bool):
        torch.manual_seed(0)
        self.device, self.bf16 = device, bf16
        assert parts.teacher is not None
        self.student = parts.student.to(device, memory_format=layout).train()
        self.teacher = parts.teacher.module.to(device, memory_format=layout)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
        )

    def step(self, inputs: Tensor, labels: Tensor, soft: Tensor | None = None) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            if soft is None:
                with torch.no_grad():
                    soft = self.teacher(inputs)
            logits = self.student(inputs)
        logits, soft = logits.float(), soft.float()
        loss = (1 - WEIGHT) * F.cross_entropy(logits, labels)
        loss = loss + WEIGHT * soft_target_loss(logits, soft, TEMPERATURE)
        self.optimizer.zero_grad(set_to_none=False)  # the graph's gradients stay where they are
        loss.backward()
        self.optimizer.step()
        return loss


def graphed(loop: Loop, inputs: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], None]:
    """The whole step as one CUDA graph, which is replayed on whatever is copied into its inputs."""
    held = inputs.clone(), labels.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            loop.step(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loop.step(*held)

    def step(inputs: Tensor, labels: Tensor) -> None:
        held[0].copy_(inputs)
        held[1].copy_(labels)
        graph.replay()

    return step


def bare(
    bench: Bench, overrides: list[str], count: int, last: bool, bf16: bool, graph: bool = False
) -> Timed:
    """A bare loop with a live teacher: random batches, no augmentation, data on the device."""
    loop, inputs, labels = resident(bench, overrides, count, last, bf16)
    step: Callable[[Tensor, Tensor], Any] = loop.step
    if graph:
        step = graphed(loop, inputs[:BATCH], labels[:BATCH])
    device = torch.device(bench.device)
    layout = torch.channels_last if last else torch.contiguous_format

    def timed() -> float:
        synchronize(device)
        start = time.perf_counter()
        for index in torch.randperm(count, device=device).split(BATCH):
            if len(index) == BATCH:
                step(inputs[index].contiguous(memory_format=layout), labels[index])
        synchronize(device)
        return count / (time.perf_counter() - start)

    timed()
    return timed


def resident(
    bench: Bench, overrides: list[str], count: int, last: bool, bf16: bool
) -> tuple[Loop, Tensor, Tensor]:
    config = composed(bench, *images(bench, count), *overrides, LIVE, NCHW)
    random_teacher(bench, config)
    parts = Parts(config)
    layout = torch.channels_last if last else torch.contiguous_format
    whole = parts.example(count)
    assert isinstance(whole.inputs, Tensor)
    inputs = whole.inputs.to(bench.device).contiguous(memory_format=layout)
    loop = Loop(parts, bench.device, layout, bf16)
    return loop, inputs, whole.labels.to(bench.device)


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images, one at a time: crop, flip, to a tensor, normalised, as torchvision does it."""

    def __init__(self, pixels: Tensor, labels: Tensor):
        self.pixels, self.labels = pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.mean = torch.tensor([0.5071, 0.4867, 0.4408]).view(3, 1, 1)
        self.std = torch.tensor([0.2675, 0.2565, 0.2761]).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        image = ImageOps.expand(Image.fromarray(self.pixels[place]), 4)
        left, top = random.randrange(9), random.randrange(9)
        image = image.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return tensor.sub_(self.mean).div_(self.std), self.labels[place]


def repdistiller(bench: Bench, overrides: list[str], count: int) -> Timed:
    """DataLoader with 8 workers and PIL, a copy a batch, a live teacher, float32, NCHW."""
    loop, _, _ = resident(bench, overrides, count, False, False)
    config = composed(bench, *images(bench, count), *overrides, LIVE)
    random_teacher(bench, config)
    split = Parts(config).data.train.take(torch.arange(count))
    assert isinstance(split.inputs, Tensor)
    pixels = split.inputs
    if pixels.dtype != torch.uint8:
        pixels = pixels.clamp(0, 1).mul(255).to(torch.uint8)
    loader = DataLoader(
        Pictures(pixels, split.labels), BATCH, shuffle=True, num_workers=1 if bench.cpu else 8
    )
    device = torch.device(bench.device)

    def timed() -> float:
        start, seen = 0.0, 0
        for place, (inputs, labels) in enumerate(loader):
            if place == 1:  # the start of the workers is not counted
                synchronize(device)
                start = time.perf_counter()
            loop.step(inputs.to(device), labels.to(device))
            seen += len(labels) if place else 0
        synchronize(device)
        return seen / (time.perf_counter() - start)

    return timed


def limit(bench: Bench, pair: str, overrides: list[str], best: dict[str, float]) -> None:
    """The images a second that arithmetic and memory allow, of a step with a live teacher."""
    loop, inputs, labels = resident(bench, overrides, BATCH, True, False)
    one = inputs[:1]
    flops = 2 * (macs(loop.teacher, one) + 3 * macs(loop.student, one))
    with Traffic() as traffic:
        loop.step(inputs, labels)
    moved = traffic.bytes / BATCH
    for name, share in (("TF32", 1.0), ("bf16", 0.5)):
        by_flops, by_bytes = best[name] / flops, best["copy"] / (moved * share)
        note = f"arithmetic {by_flops:,.0f}, bytes {by_bytes:,.0f} (every operator by itself)"
        bench.tell(
            f"{pair}: limit, live teacher, {name}", min(by_flops, by_bytes), "images/s", note=note
        )


def speed(bench: Bench) -> None:
    """Both pairs."""
    quiet()
    started, meter = time.monotonic(), Meter(not bench.cpu)
    best = rates(bench)
    if bench.cpu:
        pairs, count, rounds = {"resnet8 -> resnet8": ("resnet8", "resnet8")}, 2 * BATCH, 1
    else:
        pairs = {
            "resnet32x4 -> resnet8x4": ("resnet32x4", "resnet8x4"),
            "resnet56 -> resnet20": ("resnet56", "resnet20"),
        }
        count, rounds = 100 * BATCH, 5
    for place, (pair, (teacher, student)) in enumerate(pairs.items()):
        overrides = [f"teacher={teacher}", f"student={student}"]
        until = started + bench.seconds * (place + 1) / len(pairs) - 3
        limit(bench, pair, overrides, best)
        makers = makers_of(bench, overrides, count)
        one_pair(bench, pair, makers, rounds, until, meter)


def makers_of(bench: Bench, overrides: list[str], count: int) -> dict[str, Callable[[], Timed]]:
    """What makes each variant, the baselines first: `speed` may run out of time."""
    makers: dict[str, Callable[[], Timed]] = {
        BASE: lambda: bare(bench, overrides, count, False, False),
        "RepDistiller's way (cudnn.benchmark)": lambda: repdistiller(bench, overrides, count),
    }
    for name, more in OURS.items():
        if not (bench.cpu and "compile=true" in more):  # half a minute of C++
            makers[name] = lambda more=more: ours(bench, [*overrides, *more], count)
        if name == "ours, live teacher, bf16":
            makers["a bare loop, channels_last, bf16"] = lambda: bare(
                bench, overrides, count, True, True
            )
            if not bench.cpu:
                makers["a bare loop as a CUDA graph"] = lambda: bare(
                    bench, overrides, count, False, False, graph=True
                )
                makers["a bare loop as a CUDA graph, channels_last, bf16"] = lambda: bare(
                    bench, overrides, count, True, True, graph=True
                )
    return makers


def one_pair(
    bench: Bench,
    pair: str,
    makers: dict[str, Callable[[], Timed]],
    rounds: int,
    until: float,
    meter: Meter,
) -> None:
    """Make every variant, then time them in turn until `until`."""
    found: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    clocks: dict[str, Timed] = {}
    for name, make in makers.items():
        if found and time.monotonic() > until - (35 if "compiled" in name else 8):
            bench.tell(f"{pair}: {name}", None, note="no time was left for it")
            continue
        begin = time.monotonic()
        torch.backends.cudnn.benchmark = "cudnn.benchmark" in name
        try:
            clocks[name] = make()
        except Exception as error:  # what this GPU or torch cannot do costs itself alone
            text = (str(error).strip().splitlines() or [""])[0][:160]
            note = f"{type(error).__name__}: {text}"
            bench.tell(f"{pair}: {name}", None, ok=False, note=note)
            continue
        found[name], busy[name] = [], []
        print(f"{pair}: {name} is ready after {time.monotonic() - begin:.1f} s", flush=True)
    for _ in range(rounds):
        for name, timed in clocks.items():
            if found[name] and time.monotonic() > until:
                continue
            torch.backends.cudnn.benchmark = "cudnn.benchmark" in name
            with meter.watched() as seen:
                found[name].append(timed())
            busy[name] += seen
    base = statistics.median(found.get(BASE, [float("nan")]))
    for name, values in found.items():
        middle, share = statistics.median(values), mean_or_none(busy[name])
        note = f"{middle / base:.2f} of the bare loop"
        note += "" if share is None else f"; GPU busy {share:.0f} %"
        more = {"n": len(values), "low": min(values), "high": max(values), "note": note}
        bench.tell(f"{pair}: {name}", middle, "images/s", **more)
