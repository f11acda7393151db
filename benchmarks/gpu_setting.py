"""What the parts of `gpu.py` compose, and what they compose in miniature."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from gpu import Bench
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers, settle
from kd_research.trial.run import quiet as quiet_trial

BATCH = 64
MLPS = ["teacher=mlp", "student=mlp", "teacher.model.width=64", "student.model.width=32"]


def quiet() -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    quiet_trial()


def has_images(bench: Bench) -> bool:
    return bench.data is not None and (bench.data / "cifar100").is_dir()


def images(bench: Bench, count: int | None) -> list[str]:
    """Overrides for CIFAR-100, or synthetic images of its shape; `count` of the training split."""
    if has_images(bench):
        found = ["dataset=cifar100", f"dataset.root={bench.data}/cifar100"]
    else:
        size = max(2 * (count or 512), 4 * BATCH)
        found = [
            "dataset=synthetic",
            "dataset.input_shape=[3,32,32]",
            f"dataset.source.num_train={size}",
            "augment@dataset.augment=crop_flip",
        ]
    return [*found, *([f"dataset.subset={count}"] if count else [])]


def pair_of(bench: Bench) -> list[str]:
    """A convolutional teacher and student with BatchNorm, small enough for the checks."""
    return ["teacher=resnet8" if bench.cpu else "teacher=resnet20", "student=resnet8"]


def common(bench: Bench) -> list[str]:
    return [
        f"output_dir={bench.outputs}",
        "tracking=disabled",
        "optimizer=sgd",
        "trainer.enable_progress_bar=false",
        f"trainer.accelerator={'cpu' if bench.cpu else 'gpu'}",
        f"num_threads={1 if bench.cpu else 4}",
    ]


def composed(bench: Bench, *overrides: str) -> dict[str, Any]:
    """A run's configuration, plain and resolved, as the command line would compose it."""
    register_resolvers()
    hydra_plugin.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [*common(bench), *overrides])
    config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    settle(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def random_teacher(bench: Bench, config: dict[str, Any]) -> None:
    """Give the teacher random weights from a file, so that none is trained."""
    import torch
    from hydra.utils import instantiate

    from kd_research.teacher.train import save_weights

    torch.manual_seed(0)
    model = config["teacher"]["model"]
    name = f"{model['_target_']}-{model.get('depth')}-{model.get('width')}-{model['num_classes']}"
    path = Path(bench.outputs) / "random_teachers" / f"{name}.pt"
    if not path.exists():
        save_weights(instantiate(model), path)
    config["teacher"]["checkpoint"] = str(path)
