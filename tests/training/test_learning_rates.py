"""Learning rates by name: closed forms, torch's own, nanoGPT's numbers, per epoch and per step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from tiny import Compose, composed, plain

from kd_research.configuration.config import ConfigError
from kd_research.records.record import METRICS_NAME
from kd_research.training.schedules import Cosine, MultiStep, Polynomial, Schedule
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

TORCH: list[tuple[Schedule, Callable[..., torch.optim.lr_scheduler.LRScheduler]]] = [
    (Cosine(), lambda it: torch.optim.lr_scheduler.CosineAnnealingLR(it, T_max=20)),
    (Cosine(final=0.1), lambda it: torch.optim.lr_scheduler.CosineAnnealingLR(it, 20, 0.05)),
    (Polynomial(), lambda it: torch.optim.lr_scheduler.LinearLR(it, 1.0, 0.0, 20)),
    (Polynomial(power=2), lambda it: torch.optim.lr_scheduler.PolynomialLR(it, 20, power=2)),
    (MultiStep([10, 15]), lambda it: torch.optim.lr_scheduler.MultiStepLR(it, [10, 15])),
    (Schedule(), lambda it: torch.optim.lr_scheduler.ConstantLR(it, factor=1.0)),
]


@pytest.mark.parametrize(("ours", "theirs"), TORCH)
def test_without_warm_up_they_are_torch_s(
    ours: Schedule, theirs: Callable[..., torch.optim.lr_scheduler.LRScheduler]
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, share = theirs(optimizer), ours.over(20, 7)
    for epoch in range(20):
        assert 0.5 * share(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


def nanogpt(it: int) -> float:
    """`get_lr` of nanoGPT's train.py, with the numbers of its small models."""
    learning_rate, min_lr, warmup_iters, lr_decay_iters = 1e-3, 1e-4, 100, 2000
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    decay_ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * decay_ratio)) * (learning_rate - min_lr)


def test_scheduler_nanogpt_has_nanogpt_s_rate_at_each_of_its_steps() -> None:
    config = plain(composed("scheduler=nanogpt", "optimizer=nanogpt", "trainer=nanogpt"))
    trainer = config["trainer"]
    share = instantiate(config["scheduler"]).over(
        trainer["max_epochs"], trainer["limit_train_batches"]
    )
    rates = [config["optimizer"]["lr"] * share(step) for step in range(2001)]
    assert rates == pytest.approx([nanogpt(step) for step in range(2001)], abs=1e-15)


def test_any_schedule_follows_its_warm_up() -> None:
    share = MultiStep([4], warmup=3).over(6, 9)
    assert [share(epoch) for epoch in range(6)] == pytest.approx([1 / 4, 1 / 2, 3 / 4, 1, 0.1, 0.1])
    share = Polynomial(per="step", warmup=0.5, final=0.2).over(2, 4)  # 2 of 8 steps
    expected = [1 / 3, 2 / 3, *(1 - 0.8 * step / 6 for step in range(6))]
    assert [share(step) for step in range(8)] == pytest.approx(expected)
    assert share(8) == pytest.approx(0.2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_changes_the_rate_at_each_step(
    tiny: Compose, tmp_path: Path, accumulate: int
) -> None:
    keys = ["loss=ce", "teacher.model=null", "scheduler=linear", "scheduler.per=step"]
    keys += [f"+trainer.accumulate_grad_batches={accumulate}", "optimizer=sgd", "optimizer.lr=0.1"]
    config = tiny(*keys, "scheduler.warmup=0.5", "+trainer.limit_train_batches=8")
    seen: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, closure: Callable[[], float] | None = None) -> float | None:
        seen.append(self.param_groups[0]["lr"])
        return step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", watched)
        assert run(config, tmp_path).status == "completed"
    steps = 8 // accumulate
    share = Polynomial(per="step", warmup=0.5).over(2, steps)
    assert seen == pytest.approx([0.1 * share(each) for each in range(2 * steps)])
    rows = [json.loads(line) for line in (tmp_path / METRICS_NAME).read_text().splitlines()]
    assert rows[-1]["lr"] == pytest.approx(0.1 * share(2 * steps), abs=1e-12)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["scheduler.per=batch"], "scheduler.per must be epoch or step, got 'batch'; try"),
        (["scheduler.final=2"], r"scheduler.final must be a share of the rate in \[0, 1\], got 2"),
        (["scheduler.warmup=0.5"], "type scheduler.per=step too"),
        (["scheduler.warmup=2"], "leave none of the 2 of trainer.max_epochs"),
        (["scheduler=polynomial", "scheduler.power=0"], "scheduler.power must be > 0, got 0"),
        (["scheduler=multistep", "scheduler.milestones=[9,3]"], r"increasing, got \[9, 3\]"),
    ],
)
def test_a_wrong_schedule_is_told_before_the_teacher_is_trained(
    tiny: Compose, overrides: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_research.teacher.chain.obtain", None)
    with pytest.raises(ConfigError, match=f"^scheduler: .*{told}"):
        Parts(plain(tiny(*overrides)))
