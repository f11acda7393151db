"""Checks of an optimizer's rates over a fit, without torch: the student's and the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kd_research.configuration.values import is_count, is_number

EVERY = ("epoch", "step")
OURS = "kd_research.training.schedules."


def rate_problems(whole: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the schedules and optimizers of a configuration, a line a problem.

    Args:
        whole: the configuration, resolved.
    """
    teacher = whole.get("teacher") or {}
    for at, part in (("", whole), ("teacher.", teacher)):
        schedule, optimizer = part.get("scheduler") or {}, part.get("optimizer") or {}
        epochs: Any = (part.get("trainer") or {}).get("max_epochs")
        if str(schedule.get("_target_")).startswith(OURS):
            found = list(schedule_problems(schedule, f"{at}scheduler"))
            warmup = schedule.get("warmup", 0)
            yield from found
            if not found and is_count(epochs) and warmup >= epochs:
                yield too_long(warmup, epochs, at)
        for name, most in (("weight_decay", None), ("momentum", 1)):
            value = optimizer.get(name, 0)
            if not is_number(value) or value < 0 or (most is not None and value >= most):
                within = "at least 0" if most is None else f"at least 0 and below {most}"
                key = f"{at}optimizer.{name}"
                yield f"{key} must be {within}, got {value!r}; try {key}=0"
        yield from _step_problems(optimizer, f"{at}optimizer")


def _step_problems(optimizer: Mapping[str, Any], at: str) -> Iterator[str]:
    """Of what torch's own optimizers take, what they refuse."""
    if not str(optimizer.get("_target_")).startswith("torch.optim."):
        return
    betas = optimizer.get("betas")
    if "betas" in optimizer and not (
        isinstance(betas, list | tuple)
        and len(betas) == 2
        and all(is_number(beta) and 0 <= beta < 1 for beta in betas)
    ):
        yield (
            f"{at}.betas must be two numbers, at least 0 and below 1, got {betas!r}; "
            f"try {at}.betas=[0.9,0.999]"
        )
    for name, example in (("eps", "1e-8"), ("dampening", "0")):
        value = optimizer.get(name, 0)
        if isinstance(value, str) or (is_number(value) and value < 0):
            yield f"{at}.{name} must be at least 0, got {value!r}; try {at}.{name}={example}"
    if optimizer.get("nesterov") and not (
        optimizer.get("momentum") and not optimizer.get("dampening")
    ):
        yield (
            f"{at}.nesterov needs a momentum and no dampening, got {at}.momentum="
            f"{optimizer.get('momentum')} and {at}.dampening={optimizer.get('dampening')}; type "
            f"{at}.momentum=0.9 {at}.dampening=0, or {at}.nesterov=false"
        )


def too_long(warmup: float, epochs: int, at: str = "") -> str:
    """Said where the warm-up is as long as the fit."""
    return (
        f"{at}scheduler.warmup={warmup:g} epochs leave none of the {epochs} of "
        f"{at}trainer.max_epochs; try {at}scheduler.warmup={epochs // 10}"
    )


def schedule_problems(stated: Mapping[str, Any], at: str = "scheduler") -> Iterator[str]:
    """What is wrong with the settings of one schedule, a line a problem.

    Args:
        stated: those of its settings that there are.
        at: its key.
    """
    per, warmup = stated.get("per", "epoch"), stated.get("warmup", 0)
    if per not in EVERY:
        yield f"{at}.per must be epoch or step, got {per!r}; try {at}.per=epoch"
    if not is_number(warmup) or warmup < 0:
        yield (f"{at}.warmup must be a number of epochs >= 0, got {warmup!r}; try {at}.warmup=0")
    elif per == "epoch" and warmup != int(warmup):
        yield (
            f"{at}.warmup={warmup} epochs end within an epoch; "
            f"type {at}.per=step too, or a whole number"
        )
    final = stated.get("final", 0)
    if not is_number(final) or not 0 <= final <= 1:
        yield (f"{at}.final must be a share of the rate in [0, 1], got {final!r}; try {at}.final=0")
    for name, example in (("power", "1"), ("gamma", "0.1")):
        if not is_number(stated.get(name, 1), above=0):
            yield f"{at}.{name} must be > 0, got {stated[name]!r}; try {at}.{name}={example}"
    given = stated.get("milestones", [])
    rising = not isinstance(given, str | int | float) and given is not None
    if not rising or not all(map(is_number, given)) or list(given) != sorted(given):
        yield (
            f"{at}.milestones must be a list of epochs, increasing, got {given!r}; "
            f"try {at}.milestones=[150,180,210]"
        )
