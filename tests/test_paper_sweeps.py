"""The shipped papers: every row composes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from sweep_commands import make_plan

from kd_research.config import ROOT
from kd_research.plan import Plan


@pytest.fixture(scope="module")
def cifar() -> Plan:
    return make_plan("+sweeps=papers/crd_cifar100", "dataset.root=data")


@pytest.mark.slow  # Hydra reads the long file once for each of 42 choices of groups
def test_every_row_of_the_cifar_table_composes(cifar: Plan) -> None:
    pairs = set()
    for label in cifar.rows:
        config = cifar.compose({"row": label})
        OmegaConf.to_container(config, resolve=True)
        assert config.trainer.max_epochs == 240
        assert list(config.sweep.rows) == [label]
        assert 0.5 < config.sweep.rows[label].expected.test_accuracy < 0.8
        small = config.student.model._target_.split(".")[-1] in ("MobileNetV2", "ShuffleNet")
        assert (config.optimizer.lr == 0.01) == any(w in label for w in ("mobilenet", "shuffle"))
        assert small or "mobilenet" not in label
        if config.teacher.model:
            assert config.teacher.optimizer._target_ == "torch.optim.SGD"
            pairs.add(label.split("_", 1)[1])
    assert len(pairs) == 13


def test_hinton_composes() -> None:
    plan = make_plan("+sweeps=papers/hinton2015_mnist", "dataset.root=data")
    config = plan.compose({"row": "without_3"})
    assert config.dataset.exclude_classes == [3]
    assert config.teacher.dataset.exclude_classes == []
    assert config.teacher.dataset.augment == {"crop": 2}
    assert config.trainer.check_val_every_n_epoch == config.trainer.max_epochs == 8
    assert plan.compose({"row": "plain_2x800"}).loss.terms == {}
    assert (ROOT / "sweeps" / "papers" / "hinton2015_mnist.yaml").is_file()


def test_what_distillation_buys_composes() -> None:
    plan = make_plan("+sweeps=what_distillation_buys", "pretraining.dataset.root=data", "seed=3")
    assert len(plan.rows) == 15
    start: Any = plan.compose({"row": "pretrained_16"}).student.pretraining
    assert start.dataset.root == str(Path("data").resolve())
    assert (start.dataset.name, list(start.dataset.input_shape), start.seed) == (
        "mnist",
        [1, 8, 8],
        3,
    )
    assert plan.compose({"row": "labels_16"}).student.pretraining is None
