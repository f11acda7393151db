"""Checks of an optimizer and its rates over a fit, without torch: the student's, the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd_research.configuration.signatures import parameters
from kd_research.configuration.structure import value_at
from kd_research.configuration.values import is_count, is_number

FITS = ("", "teacher.", "student.pretraining.")  # what has an optimizer and a schedule of its own
WHICH = ("paths", "vectors")  # what says whom a group of parameters takes; the rest are settings
EVERY = ("epoch", "step")
OURS = "kd_research.training.schedules."


def rate_problems(whole: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the schedules and optimizers of a configuration, a line a problem.

    Args:
        whole: the configuration, resolved.
    """
    for at in FITS:
        part = value_at(whole, at[:-1]) if at else whole
        if not isinstance(part, Mapping):
            continue
        schedule, optimizer = part.get("scheduler") or {}, part.get("optimizer") or {}
        epochs: Any = (part.get("trainer") or {}).get("max_epochs")
        if str(schedule.get("_target_")).startswith(OURS):
            found = list(schedule_problems(schedule, f"{at}scheduler"))
            warmup = schedule.get("warmup", 0)
            yield from found
            if not found and is_count(epochs) and warmup >= epochs:
                yield too_long(warmup, epochs, at)
        yield from _optimizer_problems(optimizer, f"{at}optimizer")


def _optimizer_problems(optimizer: Mapping[str, Any], at: str) -> Iterator[str]:
    """Of an optimizer and of each group's own settings; what is told of all is not told again."""
    own = {key: value for key, value in optimizer.items() if key != "groups"}
    told = dict(_setting_problems(own, at))
    yield from told.values()
    groups = optimizer.get("groups") or {}
    taken = parameters(str(own.get("_target_")))
    yield from group_problems(groups, f"{at}.groups", taken)
    for name, group in groups.items():
        if isinstance(group, Mapping):
            for key, text in _setting_problems({**own, **group}, f"{at}.groups.{name}"):
                if key in group or key not in told:
                    yield text


def group_problems(
    groups: Mapping[Any, Any], at: str = "optimizer.groups", taken: Sequence[str] | None = None
) -> Iterator[str]:
    """What is wrong with groups of parameters, whoever they take, a line a problem.

    Args:
        groups: as they are stated.
        at: their key.
        taken: the arguments of the optimizer; None: any.
    """
    for name, group in groups.items():
        key = f"{at}.{name}"
        if not isinstance(group, Mapping):
            example = f"'{key}={{paths: [head.*], lr: 0.01}}'"
            yield f"{key} must be a mapping, got {group!r}; try {example}"
            continue
        paths, vectors = group.get("paths", []), group.get("vectors", False)
        listed = isinstance(paths, Sequence) and not isinstance(paths, str)
        if not listed or not all(isinstance(path, str) for path in paths):
            meant = f"{key}.paths=[{paths if isinstance(paths, str) else 'head.*'}]"
            yield f"{key}.paths must be a list of patterns, got {paths!r}; try {meant}"
        if not isinstance(vectors, bool):
            yield f"{key}.vectors must be true or false, got {vectors!r}; try {key}.vectors=true"
        if not paths and not vectors:
            plus = ["" if each in group else "+" for each in ("paths", "vectors")]
            yield (
                f"{key} does not say whom it takes; type {plus[0]}{key}.paths=[head.*], or "
                f"{plus[1]}{key}.vectors=true for norms and biases"
            )
        known = None if taken is None else [*WHICH, *(each for each in taken if each != "params")]
        if known and (unknown := [str(each) for each in group if each not in known]):
            yield (
                f"{key} has {', '.join(unknown)}, which the optimizer has not; there are: "
                f"{', '.join(known)}"
            )


def _setting_problems(optimizer: Mapping[str, Any], at: str) -> Iterator[tuple[str, str]]:
    """Of numbers that any optimizer may have, and what torch's own refuse: the setting, a line."""
    for name, most in (("weight_decay", None), ("momentum", 1)):
        value = optimizer.get(name, 0)
        if not is_number(value) or value < 0 or (most is not None and value >= most):
            within = "at least 0" if most is None else f"at least 0 and below {most}"
            key = f"{at}.{name}"
            yield name, f"{key} must be {within}, got {value!r}; try {key}=0"
    if not str(optimizer.get("_target_")).startswith("torch.optim."):
        return
    betas = optimizer.get("betas")
    if "betas" in optimizer and not (
        isinstance(betas, list | tuple)
        and len(betas) == 2
        and all(is_number(beta) and 0 <= beta < 1 for beta in betas)
    ):
        yield (
            "betas",
            f"{at}.betas must be two numbers, at least 0 and below 1, got {betas!r}; "
            f"try {at}.betas=[0.9,0.999]",
        )
    for name, example in (("eps", "1e-8"), ("dampening", "0")):
        value = optimizer.get(name, 0)  # Adafactor's eps are two
        if value is None or isinstance(value, str) or (is_number(value) and value < 0):
            key = f"{at}.{name}"
            yield name, f"{key} must be at least 0, got {value!r}; try {key}={example}"
    if optimizer.get("nesterov") and not (
        optimizer.get("momentum") and not optimizer.get("dampening")
    ):
        yield (
            "nesterov",
            f"{at}.nesterov needs a momentum and no dampening, got {at}.momentum="
            f"{optimizer.get('momentum')} and {at}.dampening={optimizer.get('dampening')}; type "
            f"{at}.momentum=0.9 {at}.dampening=0, or {at}.nesterov=false",
        )


def too_long(warmup: float, epochs: int, at: str = "", whose: str | None = None) -> str:
    """Said where the warm-up is as long as the fit, whose epochs are those of a trainer."""
    return (
        f"{at}scheduler.warmup={warmup:g} epochs leave none of the {epochs} "
        f"{whose or f'of {at}trainer.max_epochs'}; try {at}scheduler.warmup={epochs // 10}"
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
