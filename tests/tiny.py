"""The real configuration, shrunk to a tiny size: for tests that run the whole path."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers

TINY = (
    "tracking=disabled",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "teacher=cnn",
    "teacher.trainer.max_epochs=2",
    "teacher.model.width=4",
    "teacher.model.depth=2",
    "student.model.width=8",
    "student.model.depth=1",
)
Compose = Callable[..., DictConfig]

register_resolvers()
hydra_plugin.register()


def composed(*overrides: str) -> DictConfig:
    """The real configuration with overrides, as `run.py` would compose it; the caller's own."""
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolved, plain containers."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    return container
