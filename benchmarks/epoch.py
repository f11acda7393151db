"""An epoch through kd_research against a bare PyTorch loop over tensors in memory.

    python benchmarks/epoch.py [--cifar10 DIR] [--mnist DIR] [--repeats 7] [--only resnet mlp ...]

Prints, for each setting, the median over alternating repeats of (our epoch / the bare loop's),
with the smallest and the largest ratio. One thread; both train the same students on the same
examples with the same optimizer. The teacher has random weights: its time is what counts. Without
a folder of real data the images are synthetic. Times are of the processor, which for one thread is
the wall's on an idle machine and depends less on what else a busy one does; the load average is
printed, and the spread says how much to believe. Teachers and decoded data stay in
outputs/benchmarks.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asked
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers
from kd_research.teacher.checkpoint import save_weights
from kd_research.training.cost import EpochTimes
from kd_research.training.fit import fit
from kd_research.trial.assembly import Parts

SGD = ["optimizer=sgd", "scheduler=constant"]
PLAIN = ["channels_last=false", "soft_targets.cache=false", "augment@dataset.augment=none"]
FAST = ["augment@dataset.augment=crop_flip"]  # the defaults are channels_last and cached outputs
BF16 = [*FAST, "trainer.precision=bf16-mixed"]

# name -> (teacher, student, data, batch size, {our variant: overrides}, bare loop keeps outputs)
IMAGE_VARIANTS = {"equal arithmetic": PLAIN, "defaults": FAST, "defaults, bf16": BF16}
SETTINGS: dict[str, tuple[str, str, str, int, dict[str, list[str]], bool]] = {}
for batch in (64, 128):
    SETTINGS[f"resnet56-resnet20-{batch}"] = (
        "resnet56", "resnet20", "cifar10", batch, IMAGE_VARIANTS, False,
    )  # fmt: skip
    SETTINGS[f"wrn_40_2-wrn_16_2-{batch}"] = (
        "wrn_40_2", "wrn_16_2", "cifar10", batch, IMAGE_VARIANTS, False,
    )  # fmt: skip
SETTINGS["mlp-2x1200-2x800-128"] = (
    "mlp 1200", "mlp 800", "mnist", 128, {"equal arithmetic": PLAIN}, False,
)  # fmt: skip
SETTINGS["mlp-2x1200-2x100-128-kept"] = (
    "mlp 1200", "mlp 100", "mnist", 128, {"cached outputs, as the loop": []}, True,
)  # fmt: skip


def compose_run(setting: str, overrides: list[str], folder: Path, roots: dict[str, str]) -> Any:
    teacher, student, data, batch, _, _ = SETTINGS[setting]
    real = data in roots
    steps = 6 if data == "cifar10" else 200
    arguments = [
        *SGD,
        f"dataset={data if real else 'synthetic'}",
        f"dataset.batch_size={batch}",
        f"dataset.subset={steps * batch}",
        "tracking=disabled",
        "trainer.max_epochs=2",
        "+trainer.limit_val_batches=1",
        f"output_dir={folder}",
    ]
    if real:
        arguments.append(f"dataset.root={Path(roots[data]).resolve()}")
    else:
        channels, side = (3, 32) if data == "cifar10" else (1, 28)
        arguments += [
            f"dataset.input_shape=[{channels},{side},{side}]",
            f"dataset.source.num_train={2 * steps * batch}",
            f"dataset.mean={[0.0] * channels}",
            f"dataset.std={[1.0] * channels}",
        ]
    for who, name in (("teacher", teacher), ("student", student)):
        model, *width = name.split()
        arguments += [f"{who}={model}", *(f"{who}.model.width={value}" for value in width)]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [*arguments, *overrides])
    plain = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(plain, resolve=True)


def random_teacher(config: Any, folder: Path) -> None:
    """A checkpoint of random weights, so that nothing is trained before the clock starts."""
    from hydra.utils import instantiate

    path = folder / f"{config['teacher']['model']['_target_']}.pt"
    if not path.exists():
        torch.manual_seed(0)
        save_weights(instantiate(config["teacher"]["model"]), path)
    config["teacher"]["checkpoint"] = str(path)


def ours(config: Any, folder: Path) -> Callable[[], float]:
    """A function that runs two epochs and gives the seconds of the second."""
    parts = Parts(config)

    module: Any = parts.module
    start_epoch, clock = module.on_train_epoch_start, {}

    def start() -> None:
        clock["start"] = time.process_time()
        start_epoch()

    def stop() -> None:
        clock["seconds"] = time.process_time() - clock["start"]

    module.on_train_epoch_start, module.on_validation_start = start, stop

    def epoch() -> float:
        fit(module, parts.data, config["trainer"], folder, id, "an epoch", [EpochTimes()])
        return clock["seconds"]

    return epoch


def bare(config: Any, keeps: bool) -> Callable[[], float]:
    """The loop that a person would write, over normalised float32 tensors in memory."""
    parts = Parts({**config, "soft_targets": {**config["soft_targets"], "cache": False}})
    whole = parts.example(len(parts.data.train))
    inputs, labels = whole.inputs, whole.labels
    student, teacher = parts.student.train(), parts.teacher.module
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    batch, temperature, weight = parts.data.batch_size, 4.0, 0.9
    kept = None
    if keeps:
        with torch.no_grad():
            kept = torch.cat([teacher(part) for part in inputs.split(batch)])

    def epoch() -> float:
        start = time.process_time()
        for index in torch.randperm(len(labels)).split(batch):
            images = inputs[index]
            if kept is None:
                with torch.no_grad():
                    soft = teacher(images)
            else:
                soft = kept[index]
            logits = student(images)
            loss = (1 - weight) * F.cross_entropy(logits, labels[index])
            loss = loss + weight * temperature**2 * F.kl_div(
                F.log_softmax(logits / temperature, 1),
                F.log_softmax(soft / temperature, 1),
                reduction="batchmean",
                log_target=True,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.process_time() - start

    return epoch


def measure(setting: str, roots: dict[str, str], repeats: int) -> None:
    *_, variants, keeps = SETTINGS[setting]
    with tempfile.TemporaryDirectory() as name:
        folder = ROOT / "outputs" / "benchmarks"
        clocks = {}
        for variant, overrides in variants.items():
            config = compose_run(setting, overrides, folder, roots)
            random_teacher(config, folder)
            clocks[variant] = ours(config, Path(name))
        config = compose_run(setting, PLAIN, folder, roots)
        random_teacher(config, folder)
        loop = bare(config, keeps)
        for clock in (loop, *clocks.values()):
            clock()  # warm, and the cached outputs filled
        ratios: dict[str, list[float]] = {variant: [] for variant in clocks}
        seconds = []
        for _ in range(repeats):
            for variant, clock in clocks.items():
                seconds.append(loop())
                ratios[variant].append(clock() / seconds[-1])
    size = 1000 * statistics.median(seconds) / len_steps(config)
    for variant, values in ratios.items():
        print(
            f"{setting:28} {variant:26} {statistics.median(values):.3f} "
            f"({min(values):.3f} to {max(values):.3f}, n={repeats}; "
            f"bare loop {size:.2f} ms a step; load {os.getloadavg()[0]:.1f})",
            flush=True,
        )


def len_steps(config: Any) -> int:
    return int(config["dataset"]["subset"] // config["dataset"]["batch_size"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cifar10", type=asked.there)
    parser.add_argument("--mnist", type=asked.there)
    parser.add_argument("--repeats", type=asked.count, default=7)
    parser.add_argument("--only", nargs="*", default=[""], help="settings whose name has this")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    register_resolvers()
    hydra_plugin.register()
    roots = {key: value for key in ("cifar10", "mnist") if (value := getattr(given, key))}
    for setting in SETTINGS:
        if any(part in setting for part in given.only):
            measure(setting, roots, given.repeats)


if __name__ == "__main__":
    sys.exit(main())
