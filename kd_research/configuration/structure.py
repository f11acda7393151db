"""Whether the parts of a configuration have the form that the rest counts on.

They come from files that people write: one may be empty, or have a key at another place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# What makes a part, and a file of ours that states one.
MADE = {
    "student.model": "model/mlp.yaml",
    "teacher.model": "model/mlp.yaml",
    "dataset": "dataset/digits.yaml",
    "optimizer": "optimizer/sgd.yaml",
    "scheduler": "scheduler/cosine.yaml",
}
OPTIONAL = ("teacher.model", "scheduler")
# What else has settings below it, or is null.
SECTIONS = (
    *("dataset.source", "dataset.augment", "dataset.splits", "dataset.words", "teacher.dataset"),
    *("teacher.optimizer", "teacher.scheduler", "teacher.loss", "teacher.trainer", "teacher.view"),
    *("student.view", "student.adapter", "student.pretraining", "optimizer.groups"),
    *("teacher.optimizer.groups", "teacher.members", "teacher.assistants"),
    *(f"student.pretraining.{part}" for part in ("optimizer", "scheduler", "trainer", "dataset")),
    *("loss.stages", "loss.text", "trainer", "soft_targets", "efficiency", "text_evaluation"),
    *("transfer", "tracking", "pool", "sampler", "sweep"),
)
# What every configuration has, and the code reads without a look.
NEVER_NULL = (
    *("dataset", "teacher", "soft_targets", "efficiency"),
    *("tracking", "pool", "sampler", "sweep"),
)


# What has no setting until it is chosen, and how that is done.
CHOSEN = {
    "transfer": "transfer=class_impressions",
    "student.adapter": "adapter@student.adapter=lora",
}


def what_adds(key: str) -> str:
    """What adds a key to a section that is empty."""
    return CHOSEN.get(key.rpartition(".")[0], f"+{key}=...")


def structure_problems(whole: Mapping[str, Any]) -> Iterator[str]:
    """What is no part, a line each; where there is any, nothing else can be checked.

    Args:
        whole: a configuration, resolved.
    """
    for key, file in MADE.items():
        part_of = key.split(".")[0]
        part = whole.get(part_of)
        if part is not None and not isinstance(part, Mapping):
            yield f"{part_of} must be a mapping of settings, got {part!r}"
            continue
        made = value_at(whole, key)
        if not (isinstance(made, Mapping) and "_target_" in made) and (made or key not in OPTIONAL):
            yield (
                f"{key} must be a mapping with a _target_, the class that makes it, got {made!r}; "
                f"conf/{file} is one"
                + (f"; in a file {part_of}/NAME.yaml it is below model:" if "." in key else "")
            )
    for key in SECTIONS:
        section = value_at(whole, key)
        if section is not None and not isinstance(section, Mapping):
            group = {"adapter", "loss", "optimizer", "scheduler"} & {key.rpartition(".")[2]}
            typed = f"{group.pop()}@{key}=NAME" if group else f"{key}.SETTING=VALUE"
            yield f"{key} is a mapping of settings, got {section!r}; type {typed}"
    for key, typed in CHOSEN.items():
        section = value_at(whole, key)
        if section and isinstance(section, Mapping) and "_target_" not in section:
            names = ", ".join(f"{key}.{name}" for name in section)
            yield f"{names}: nothing reads it, as {key} is none; type {typed}, or another, with it"
    loss = whole.get("loss")
    if not isinstance(loss, Mapping) or "ce_weight" not in loss:
        yield f"loss must have a ce_weight, that of the labels' cross-entropy, got {loss!r}"
    terms = loss.get("terms") if isinstance(loss, Mapping) else {}
    if not isinstance(terms, Mapping):
        yield f"loss.terms must be a mapping of names to terms, got {terms!r}; try loss=kd"
        return
    for name, term in terms.items():
        if not (isinstance(term, Mapping) and isinstance(term.get("loss"), Mapping)):
            yield f"loss.terms.{name} must have a loss and a weight, got {term!r}"
        elif "_target_" not in term["loss"] or "weight" not in term:
            yield f"loss.terms.{name} needs loss._target_ and weight, got {term!r}"


def null_problems(config: DictConfig) -> list[str]:
    """Whole parts that a file made null, a line each; what refers to them cannot be resolved."""
    stated: Any = OmegaConf.to_container(config)
    return [
        f"{key} is null; leave it out of the file, or state its settings"
        for key in NEVER_NULL
        if key in stated and stated[key] is None
    ]


def malformed(config: DictConfig) -> list[str]:
    """`structure_problems` of what is not resolved; none where that fails, which `check` tells."""
    try:
        whole: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        return []
    return list(structure_problems(whole))


def value_at(whole: Mapping[str, Any], key: str) -> Any:
    """What stands at a key of dots; None where there is none."""
    node: Any = whole
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
