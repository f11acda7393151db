"""Checks of `loss.stages`, what comes before the training itself, and how long each stage is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kd_research.configuration.schedule_checks import schedule_problems, too_long
from kd_research.configuration.values import is_count, is_number

KEYS = ("epochs", "of", "within", "weights", "ce_weight", "learns", "lr", "scheduler")
NAME = re.compile(r"[a-z]\w{0,39}")  # of a folder, and part of a cost's name
TRY = "'+loss.stages.first={epochs: 5, weights: {TERM: 1}}'"


def stage_epochs(stage: Mapping[str, Any], max_epochs: int) -> int:
    """How many epochs a stage has.

    Args:
        stage: `epochs`, and `of`: the number of epochs of a training that these are counted by, so
            that they keep their share of any other; null: as they are. One at least; of those that
            are `within` the training rounded down, and one of it is left, so that there may be
            none.
        max_epochs: of the training.
    """
    of = stage.get("of")
    epochs = float(stage["epochs"] if of is None else stage["epochs"] * max_epochs / of)
    if stage.get("within"):
        return max(0, min(int(epochs), max_epochs - 1))
    return max(1, round(epochs))


def epochs_left(stages: Iterable[Mapping[str, Any]], max_epochs: int) -> int:
    """What the stages `within` a training leave of its epochs."""
    return max_epochs - sum(
        stage_epochs(stage, max_epochs) for stage in stages if stage.get("within")
    )


def stage_problems(whole: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the stages of a configuration's loss, a line a problem.

    Args:
        whole: the configuration, resolved.
    """
    loss = whole["loss"]
    stages = loss.get("stages")
    if not stages:
        return
    if not isinstance(stages, Mapping):
        yield f"loss.stages must be a mapping of names to stages, got {stages!r}; try {TRY}"
        return
    trainer = whole.get("trainer") or {}
    epochs: Any = trainer.get("max_epochs")
    found = [text for name, each in stages.items() for text in _problems(str(name), each, loss)]
    yield from found
    if not found and is_count(epochs):
        for name, stage in stages.items():
            warmup = (stage.get("scheduler") or {}).get("warmup", 0)
            if 0 < (length := stage_epochs(stage, epochs)) <= warmup:
                yield too_long(warmup, length, f"loss.stages.{name}.", "of the stage")
    if loss.get("text"):
        yield (
            f"loss.stages ({', '.join(map(str, stages))}) and loss.text do not go together: text "
            "is drawn for one training; type '~loss.stages', or leave loss.text out"
        )
    if trainer.get("strategy") == "fsdp":
        yield (
            "loss.stages needs weights that each process has whole, got trainer.strategy=fsdp; "
            "type trainer.strategy=ddp"
        )
    if (
        not found
        and isinstance(epochs, int)
        and epochs > 0
        and epochs_left(stages.values(), epochs) < 1
    ):
        yield (
            f"loss.stages leave none of the {epochs} epochs of trainer.max_epochs; try "
            f"trainer.max_epochs={2 * epochs + 2}, or fewer loss.stages.NAME.epochs"
        )


def _problems(name: str, stage: Any, loss: Mapping[str, Any]) -> Iterator[str]:
    at = f"loss.stages.{name}"
    if not NAME.fullmatch(name):
        yield f"{at}: a stage's name has letters, digits and _, a small letter first; try first"
    if not isinstance(stage, Mapping):
        yield f"{at} must be a mapping with {', '.join(KEYS)}, got {stage!r}; try {TRY}"
        return
    for key in stage:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            yield f"{at}.{key} is no setting of a stage; {hint}there are: {', '.join(KEYS)}"
    numbers = {"epochs": stage.get("epochs"), "of": stage.get("of", 1), "lr": stage.get("lr", 1)}
    if "epochs" not in stage:
        yield f"{at} does not say for how long; type +{at}.epochs=1"
        del numbers["epochs"]
    for key, value in numbers.items():
        if not is_number(value, above=0) and not (value is None and key != "epochs"):
            or_null = "" if key == "epochs" else ", or null"
            yield f"{at}.{key} must be > 0{or_null}, got {value!r}; try {at}.{key}=1"
    if not isinstance(stage.get("within", False), bool):
        yield f"{at}.within must be true or false, got {stage['within']!r}; try {at}.within=true"
    yield from _weight_problems(at, stage, loss)
    learns = stage.get("learns", ["*"])
    if not isinstance(learns, list) or not learns or not all(isinstance(p, str) for p in learns):
        yield (
            f"{at}.learns must be a list of patterns, got {learns!r}; try {at}.learns=[objective.*]"
        )
    if schedule := stage.get("scheduler"):
        if not isinstance(schedule, Mapping) or "_target_" not in schedule:
            yield (
                f"{at}.scheduler must be null or a schedule with its _target_, got {schedule!r}; "
                f"try '{at}.scheduler=${{scheduler}}', the training's own"
            )
        else:
            yield from schedule_problems(schedule, f"{at}.scheduler")


def _weight_problems(at: str, stage: Mapping[str, Any], loss: Mapping[str, Any]) -> Iterator[str]:
    weights, terms = stage.get("weights"), list(loss.get("terms") or {})
    if not isinstance(weights, Mapping) or not weights:
        yield (
            f"{at}.weights must give a weight to one term or more, got {weights!r}; try "
            f"{at}.weights={{{terms[0] if terms else 'TERM'}: 1}}"
        )
        weights = {}
    for term, value in {**weights, "ce_weight": stage.get("ce_weight", 0)}.items():
        key = f"{at}.{term}" if term == "ce_weight" else f"{at}.weights.{term}"
        if term not in terms and term != "ce_weight":
            close = difflib.get_close_matches(str(term), terms, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            yield f"{key}: the loss has no such term; {hint}there are: {', '.join(terms)}"
        elif not isinstance(value, Mapping) and (not is_number(value) or value < 0):
            yield f"{key} must be >= 0, or a schedule, got {value!r}; try {key}=1"
