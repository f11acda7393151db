"""Tokens a second of a language model's training against a bare PyTorch loop, nanoGPT's way.

    python benchmarks/language.py --root DIR [--repeats 5] [--steps 40] [--only cached]

Two settings on Tiny Shakespeare, one thread: the 0.8M model of nanoGPT's recipe for a CPU, on
labels (equal arithmetic); and a 0.8M student with cached outputs against the loop that asks a live
teacher of 10M parameters at each step. Prints the median over alternating repeats of (our tokens a
second / the loop's), with the smallest and largest. Times are of the processor, which for one
thread is the wall's on an idle machine; the load is printed. The teacher has random weights: its
time counts.
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
from epoch import ours, random_teacher
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers
from kd_research.trial.assembly import Parts

RECIPE = ["dataset=tinyshakespeare", "student=gpt", "optimizer=nanogpt", "scheduler=constant"]
SETTINGS = {
    "labels, equal arithmetic": ["teacher=none", "loss=ce"],
    "cached outputs, live 10M teacher in the loop": [
        "teacher=gpt_10m", "loss=fkl", "loss.lambda=1.0",
    ],
}  # fmt: skip


def composed(overrides: list[str], root: str, steps: int) -> Any:
    arguments = [
        *RECIPE,
        *overrides,
        f"dataset.root={Path(root).resolve()}",
        f"dataset.subset={steps * 12}",
        f"output_dir={ROOT / 'outputs' / 'benchmarks'}",
        "tracking=disabled",
        "trainer.max_epochs=2",
        "trainer.gradient_clip_val=1.0",
        "+trainer.limit_val_batches=1",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", arguments)
    plain = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(plain, resolve=True)


def bare(config: Any, steps: int) -> Callable[[], float]:
    """nanoGPT's loop: random windows of the ids in memory, AdamW, gradients clipped."""
    parts = Parts({**config, "soft_targets": {**config["soft_targets"], "cache": False}})
    student = parts.student.train()
    teacher = parts.teacher.module if parts.teacher else None
    ids = parts.data.train.inputs["input_ids"].flatten().long()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1
    )

    def epoch() -> float:
        start = time.process_time()
        for _ in range(steps):
            places = torch.randint(len(ids) - 65, (12,)).tolist()
            text = torch.stack([ids[place : place + 64] for place in places])
            labels = torch.stack([ids[place + 1 : place + 65] for place in places])
            logits = student(text).flatten(0, 1)
            if teacher is None:
                loss = F.cross_entropy(logits, labels.flatten())
            else:
                with torch.no_grad():
                    taught = teacher(text).flatten(0, 1).log_softmax(1)
                loss = F.kl_div(
                    logits.log_softmax(1), taught, reduction="batchmean", log_target=True
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
        return time.process_time() - start

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=asked.there, required=True)
    parser.add_argument("--repeats", type=asked.count, default=5)
    parser.add_argument("--steps", type=asked.count, default=40)
    parser.add_argument("--only", default="", help="settings whose name has this")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    register_resolvers()
    hydra_plugin.register()
    for name, overrides in SETTINGS.items():
        if given.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            config = composed(overrides, given.root, given.steps)
            if config["teacher"]["model"]:
                random_teacher(config, ROOT / "outputs" / "benchmarks")
            clock, loop = ours(config, Path(folder)), bare(config, given.steps)
            clock(), loop()  # warm, and the cached outputs filled
            ratios, seconds = [], []
            for _ in range(given.repeats):
                seconds.append(loop())
                ratios.append(seconds[-1] / clock())
        tokens = given.steps * 12 * 64 / statistics.median(seconds)
        print(
            f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, "
            f"n={given.repeats}; the loop {tokens:,.0f} tokens a second of the processor; "
            f"load {os.getloadavg()[0]:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
