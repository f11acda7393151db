"""Checks of one configuration's values: numbers, losses, models, teacher outputs.

Imports neither torch nor lightning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kd_research.configuration.parts_checks import parts_problems
from kd_research.configuration.schedule_checks import rate_problems
from kd_research.configuration.signatures import argument_problems
from kd_research.configuration.structure import value_at
from kd_research.configuration.trainer_checks import trainer_problems
from kd_research.configuration.values import is_count, is_number, is_whole

PAPER_RULES = ("last_epoch", "best_epoch")
FILLS = ("lazy", "ahead")
DTYPES = ("float32", "float16")
WEIGHTS = ("weights.pt", "model.safetensors", "pytorch_model.bin")  # as teacher/checkpoint.py
NAME = re.compile(r"\w[\w.-]{0,99}")  # of a folder
MAX_SEED = 2**32 - 1
# Keys that bear another name today: a folder or a command of before is told the new one.
RENAMED = {
    "soft_targets.keep": "soft_targets.cache",
    "sweep.hopeless": "sweep.prune_dominated",
}
# Who must be trained; a student may be taken as it is.
TRAINED = ("teacher.trainer.max_epochs", "pretraining.trainer.max_epochs")
# Keys that hold counts, wherever they stand.
COUNTS = (
    "width",
    "depth",
    "max_epochs",
    "batch_size",
    "n_trials",
    "seeds",
    "num_threads",
    "num_runs",
)


def value_problems(
    stated: Mapping[str, Any], whole: Mapping[str, Any], open_parts: Collection[str] = ()
) -> Iterator[str]:
    """What is wrong with the values of a configuration that resolves, a line a problem.

    Args:
        stated: the configuration of one run, its references not resolved.
        whole: the same, resolved.
        open_parts: as "loss", whose choice is not made yet; nothing is said of what it goes with.
    """
    for before, now in RENAMED.items():
        *parents, last = before.split(".")
        node = value_at(whole, ".".join(parents))
        if isinstance(node, Mapping) and last in node:
            yield f"{before} is called {now} today; type {now}={node[last]}"
    yield from _number_problems(whole)
    yield from _loss_problems(stated["loss"], whole["loss"])
    yield from _model_problems(whole)
    yield from _soft_targets_problems(whole.get("soft_targets") or {})
    yield from _text_problems(whole)
    yield from _class_problems(whole)
    yield from _name_problems(whole)
    yield from trainer_problems(whole)
    yield from rate_problems(whole)
    for part in ("student", "teacher", "loss", "optimizer", "scheduler", "transfer"):
        yield from argument_problems(whole.get(part), part)
    yield from (text for parts, text in parts_problems(whole) if not parts & set(open_parts))
    rule = whole.get("paper_rule")
    if rule is not None and rule not in PAPER_RULES:
        yield (
            f"paper_rule must be null, {' or '.join(PAPER_RULES)}, got {rule!r}; "
            "try paper_rule=last_epoch"
        )


def _number_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in _leaves(config):
        name = key.rsplit(".", 1)[-1]
        as_it_is = name == "max_epochs" and not key.endswith(TRAINED)
        least = 0 if name == "depth" or as_it_is else 1
        if name in COUNTS and (not is_whole(value) or value < least):
            near = int(value) if is_number(value, above=least) else least + 1
            yield f"{key} must be a whole number >= {least}, got {value!r}; try {key}={near}"
        elif name in ("lr",) and not is_number(value, above=0):
            yield f"{key} must be > 0, got {value!r}; try {key}=0.001"
        elif name in ("val_fraction", "test_fraction") and not (
            is_number(value, above=0) and value < 1
        ):
            yield f"{key} must be above 0 and below 1, got {value!r}; try {key}=0.2"
        elif name in ("dropout", "input_dropout") and not (is_number(value) and 0 <= value < 1):
            yield f"{key} must be at least 0 and below 1, got {value!r}; try {key}=0.5"
        elif name == "subset" and value is not None and not _is_subset(value):
            yield f"{key} must be a share in (0, 1], a count >= 1, or null, got {value!r}; try 0.1"
        elif _is_seed(key) and not (is_whole(value) and 0 <= value <= MAX_SEED):
            yield f"{key} must be a whole number from 0 to {MAX_SEED}, got {value!r}; try {key}=0"


def _is_seed(key: str) -> bool:
    parts = key.split(".")
    return (
        parts[-1] == "split_seed"
        or parts[-1] == "seed"
        and (len(parts) == 1 or parts[0] in ("teacher", "student", "sweep"))
    )


def _is_subset(value: Any) -> bool:
    return is_count(value) or (isinstance(value, float) and 0 < value <= 1)


def _loss_problems(stated: Any, loss: Mapping[str, Any]) -> Iterator[str]:
    temperature, weight = loss.get("temperature", 1.0), loss.get("lambda", 0.0)
    if not is_number(temperature, above=0):
        yield f"loss.temperature must be > 0, got {temperature!r}; try loss.temperature=4"
    # Where the labels' weight is 1 - lambda, lambda is a share.
    ce_text = str((stated if isinstance(stated, Mapping) else loss)["ce_weight"])
    is_share = "one_minus" in ce_text
    if not is_number(weight) or weight < 0 or (is_share and weight > 1):
        allowed = "from 0 to 1" if is_share else ">= 0"
        yield f"loss.lambda must be {allowed}, got {weight!r}; try loss.lambda=0.9"
    elif "_target_" not in ce_text and (not is_number(ce := loss["ce_weight"]) or ce < 0):
        yield f"loss.ce_weight must be >= 0, got {ce!r}; try loss.ce_weight=1"
    for name, term in loss["terms"].items():
        if is_number(term["weight"]) and term["weight"] < 0 and term["weight"] != weight:
            yield f"loss.terms.{name}.weight must be >= 0, got {term['weight']!r}"


def _model_problems(config: Mapping[str, Any]) -> Iterator[str]:
    dataset, student = config["dataset"], config["student"]
    for who in ("teacher", "student"):
        model = config[who].get("model")
        if not model:
            continue
        for key in ("num_classes", "input_shape", "vocab_size"):
            given, expected = model.get(key), dataset.get(key)
            if who == "teacher" and key != "input_shape":  # it may have a tokenizer of its own
                own = config["teacher"].get("dataset") or {}
                expected = own.get("vocab_size", own.get(key, expected))
            if given is not None and expected is not None and given != expected:
                if who == "teacher" and expected != dataset.get(key):
                    yield (
                        f"teacher.model.{key} is {given!s}, but teacher.dataset has {expected!s} "
                        f"tokens; type teacher.model.{key}={expected!s}"
                    )
                    continue
                yield (
                    f"{who}.model.{key} is {given!s}, but the dataset's is {expected!s}: teacher, "
                    f"student and data must agree; leave {who}.model.{key} out"
                )
    for who in ("teacher", "student"):
        path = config[who].get("checkpoint")
        if path is None:
            continue
        if not Path(str(path)).exists():
            yield (
                f"{who}.checkpoint={path} does not exist; give a file written by torch.save or "
                f"Lightning, a run's folder, or null to train the {who} from random weights"
            )
        elif Path(path).is_dir() and not any((Path(path) / name).exists() for name in WEIGHTS):
            yield (
                f"{who}.checkpoint={path} is a folder without weights ({', '.join(WEIGHTS)}); "
                "give the file itself, or the folder of a run that was completed"
            )
    starts = [
        f"student.{name}"
        for name in ("checkpoint", "pretraining", "from_teacher")
        if student.get(name)
    ]
    if len(starts) > 1:
        yield (
            f"{' and '.join(starts)} both say what the student starts from; "
            f"type {'=null or '.join(starts)}=null"
        )
    again = student.get("gradient_checkpointing", False)
    if not isinstance(again, bool):
        yield (
            f"student.gradient_checkpointing must be true or false, got {again!r}; "
            "try student.gradient_checkpointing=true"
        )
    adapter = student.get("adapter") or {}
    if str(adapter.get("_target_", "")).endswith(".FewShot") and (
        epochs := config["trainer"].get("max_epochs")
    ):
        yield (
            "student.adapter: few-shot prompting trains nothing, got trainer.max_epochs="
            f"{epochs}; type trainer.max_epochs=0"
        )
    asked = student.get("from_teacher")
    if asked and not (isinstance(asked, Mapping) and set(asked) <= {"layers", "width"}):
        yield (
            f"student.from_teacher must be layers, width, or both, got {asked}; "
            "try 'student.from_teacher={layers: [0,2,4], width: 64}'"
        )


def _soft_targets_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    allowed: dict[str, tuple[Callable[[Any], bool], str, str]] = {
        "cache": (lambda v: isinstance(v, bool), "true or false", "true"),
        "views": (_is_count_or_null, "a whole number >= 1, or null", "null"),
        "fill": (lambda v: v in FILLS, " or ".join(FILLS), "lazy"),
        "dtype": (lambda v: v is None or v in DTYPES, " or ".join(DTYPES), "float32"),
        "top_k": (
            lambda v: v == "auto" or _is_count_or_null(v),
            "a whole number >= 1, auto, or null",
            "null",
        ),
        "draws": (_is_count_or_null, "a whole number >= 1, or null", "null"),
        "max_gb": (lambda v: is_number(v, above=0), "a number > 0", "8"),
    }
    for name, (is_right, what, example) in allowed.items():
        if name in settings and not is_right(settings[name]):
            key = f"soft_targets.{name}"
            yield f"{key} must be {what}, got {settings[name]!r}; try {key}={example}"
    if is_count(settings.get("draws")) and is_count(settings.get("top_k")):
        yield (
            "soft_targets.top_k and soft_targets.draws are two ways to cache few classes; type "
            "soft_targets.top_k=auto or soft_targets.draws=null"
        )


def _text_problems(config: Mapping[str, Any]) -> Iterator[str]:
    settings = config.get("text_evaluation") or {}
    allowed: dict[str, tuple[Callable[[Any], bool], str, str]] = {
        "num_prompts": (
            lambda v: v is None or (is_whole(v) and v >= 0),
            "a whole number >= 0, or null for all",
            "100",
        ),
        "max_new_tokens": (_is_count_or_null, "a whole number >= 1, or null", "null"),
        "temperature": (lambda v: is_number(v) and v >= 0, "a number >= 0", "0"),
        "top_k": (_is_count_or_null, "a whole number >= 1, or null", "null"),
        "top_p": (lambda v: is_number(v, above=0) and v <= 1, "above 0 and at most 1", "1"),
    }
    for name, (is_right, what, example) in allowed.items():
        if name in settings and not is_right(settings[name]):
            key = f"text_evaluation.{name}"
            yield f"{key} must be {what}, got {settings[name]!r}; try {key}={example}"
    new, context = settings.get("max_new_tokens"), config["dataset"].get("context")
    if is_count(new) and is_count(context) and new > context:
        yield (
            f"text_evaluation.max_new_tokens={new} are more than dataset.context={context}; "
            f"try text_evaluation.max_new_tokens={context // 2}"
        )
    if settings.get("num_prompts", 0) != 0 and find_spec("rouge_score") is None:
        yield (
            "text_evaluation needs rouge-score, which is not installed; type pip install "
            "'kd_research[text]', or text_evaluation.num_prompts=0"
        )


def _name_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is part of a folder's name must not lead out of its folder."""
    for key in ("dataset.name", "student.pretraining.dataset.name", "teacher.dataset.name"):
        name = value_at(config, key)
        if name is not None and not NAME.fullmatch(str(name)):
            yield (
                f"{key} must be a name of letters, digits, . _ and -, got {str(name)!r}; "
                f"try {key}=mine"
            )


def _class_problems(config: Mapping[str, Any]) -> Iterator[str]:
    num_classes = config["dataset"].get("num_classes")
    top_k = value_at(config, "soft_targets.top_k")
    if is_count(num_classes) and is_count(top_k) and top_k >= num_classes:
        yield (
            f"soft_targets.top_k must be below the {num_classes} classes, got {top_k}; "
            "type soft_targets.top_k=null to keep all logits"
        )
    given = config.get("shift_classes")
    if given is None or not is_count(num_classes):
        return
    classes = given if isinstance(given, list) else [given]
    whole = all(is_whole(each) and 0 <= each < num_classes for each in classes)
    if not isinstance(given, list) or not whole or len(set(classes)) == num_classes:
        yield (
            f"shift_classes must be a list of some, not all, of the classes 0 to "
            f"{num_classes - 1}, got {given}; try shift_classes=[0], or [] for no shift"
        )


def _leaves(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        key = str(name)
        if (prefix, key) == ("sweep.", "space"):
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_count_or_null(value: Any) -> bool:
    return value is None or is_count(value)
