"""What of a configuration decides its teacher, before anything is built.

The rule: a teacher is trained by `dataset.*` and `trainer.*` as they stand without what a sweep
varies, less what `teacher.dataset` and `teacher.trainer` say.

Of the data set that is how it is learnt from (`LEARNT_FROM`); what the examples are, and how they
are cut, a student shares with its teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd_research.configuration.trainer_checks import option_defaults

INHERITED = ("dataset", "trainer")
LEARNT_FROM = (
    "augment",
    "batch_size",
    "subset",
    "exclude_classes",
    "only_classes",
    "random_windows",
)
# Where the data are and how they are read; where and how visibly the trainer works.
NO_CONTENT = {
    "dataset": ("root", "store", "stream_workers"),
    "trainer": ("accelerator", "devices", "strategy", "num_nodes", "enable_progress_bar"),
}


def teacher_content(config: DictConfig) -> dict[str, Any]:
    """The teacher's own settings, and those that it inherits; {} where there is no teacher."""
    teacher: Any = OmegaConf.to_container(config.teacher, resolve=True)
    if not teacher.get("model"):
        return {}
    teacher.pop("min_accuracy", None)
    if teacher.get("checkpoint") is not None:
        return {key: teacher.get(key) for key in ("model", "view", "checkpoint")}
    found: dict[str, Any] = {"teacher": teacher, "channels_last": config.get("channels_last")}
    for part in INHERITED:
        given: Any = OmegaConf.to_container(config[part], resolve=True)
        own = teacher.pop(part, None) or {}
        content: Any = OmegaConf.to_container(OmegaConf.merge(given, own))
        found[part] = {k: v for k, v in content.items() if k not in NO_CONTENT[part]}
    if teacher.get("assistants"):  # distilled by the run's own loss
        found["loss"] = OmegaConf.to_container(config.loss, resolve=True)
    return found


def held(config: DictConfig, before: DictConfig, varied: Iterable[str]) -> dict[str, Any]:
    """What keeps the teacher of a sweep's run as it is without what the sweep varies.

    Args:
        config: of the run.
        before: the same without what is varied.
        varied: keys and config groups (`augment@dataset.augment`) that the sweep searches, or that
            its rows or methods state.

    Returns:
        `+teacher.trainer.KEY` or `+teacher.dataset.KEY` -> value, of all that the configuration's
        teacher does not state itself; nothing where no teacher is trained.
    """
    teacher = config.teacher
    if not teacher.get("model") or teacher.get("checkpoint") is not None:
        return {}
    found: dict[str, Any] = {}
    names = [key.lstrip("+").rpartition("@")[2].split(".") for key in varied]
    if ["dataset"] in names:  # another data set, which has a teacher of its own
        names = [parts for parts in names if parts[0] != "dataset"]
    for part, *rest in names:
        if part not in INHERITED or (part == "dataset" and rest[0] not in LEARNT_FROM):
            continue
        whole = [*before[part], *config[part]]  # a group: all that it sets
        for name in rest[:1] or dict.fromkeys(map(str, whole)):
            is_own = name in (teacher.get(part) or {}) or name in NO_CONTENT[part]
            if not is_own and name in config[part]:
                found[f"+teacher.{part}.{name}"] = _without(config, before, part, name)
    return found


def _without(config: DictConfig, before: DictConfig, part: str, name: str) -> Any:
    """The value that a key has without what is varied: its default, where it is not there."""
    if name not in before[part]:
        return option_defaults().get(name) if part == "trainer" else None
    value, now = OmegaConf.select(before, f"{part}.{name}"), config[part][name]
    if not OmegaConf.is_config(value):
        return value
    plain = OmegaConf.to_container(value, resolve=True)
    if isinstance(plain, dict) and isinstance(now, Mapping):
        plain |= {str(key): None for key in now if key not in plain}  # as augment.resized_crop
    return plain
