"""What of a configuration decides its teacher, before anything is built.

The rule: a teacher inherits `dataset.*` and `trainer.*` from its student, less what
`teacher.dataset` and `teacher.trainer` say, and nothing else.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

INHERITED = ("dataset", "trainer")
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
        return {"model": teacher["model"], "checkpoint": teacher["checkpoint"]}
    found: dict[str, Any] = {"teacher": teacher, "channels_last": config.get("channels_last")}
    for part in INHERITED:
        given: Any = OmegaConf.to_container(config[part], resolve=True)
        own = teacher.pop(part, None) or {}
        content = {**given, **own}
        found[part] = {k: v for k, v in content.items() if k not in NO_CONTENT[part]}
    if teacher.get("assistants"):  # distilled by the run's own loss
        found["loss"] = OmegaConf.to_container(config.loss, resolve=True)
    return found
