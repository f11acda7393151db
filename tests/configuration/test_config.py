"""Every shipped YAML composes, and a wrong value is told with the others, before anything."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict
from tiny import composed

from kd_research.configuration.config import (
    ROOT,
    ConfigError,
    check,
    check_sweep,
    load,
    save,
    settle,
)
from kd_research.configuration.overrides import explain
from kd_research.teacher.stated import optimizer_of

SINGLE_GROUPS = ("loss", "dataset", "optimizer", "scheduler", "trainer", "tracking", "sampler")


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def targets(node: object) -> list[str]:
    if isinstance(node, dict):
        here = [str(node["_target_"])] if "_target_" in node else []
        return here + [target for value in node.values() for target in targets(value)]
    return [t for item in node for t in targets(item)] if isinstance(node, list) else []


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in SINGLE_GROUPS for name in names(group)]
)
def test_every_file_composes_and_its_targets_exist(group: str, name: str) -> None:
    config = composed(f"{group}={name}")
    found = targets(OmegaConf.to_container(config[group], resolve=group != "dataset"))
    for target in found:
        try:
            assert get_object(target) is not None
        except (ImportError, InstantiationException) as error:
            if "kd_research" in target:
                raise
            pytest.skip(f"an extra is not installed: {error}")


def test_a_composition_copies_what_it_needs_of_the_store_alone() -> None:
    composed("student=cnn")
    store = ConfigStore.instance()
    assert deepcopy(store) is store, "a third of every composition was the copy of all models"
    first, second = (store.load("student/cnn.yaml").node for _ in range(2))
    first.view = 1
    assert second.view is None


def test_every_model_is_a_teacher_and_a_student() -> None:
    for name in names("model"):
        config = composed(f"teacher={name}", f"student={name}")
        for who in ("teacher", "student"):
            target = config[who].model._target_
            assert target.startswith(("kd_research.models", "timm.", "transformers.")), name


@pytest.mark.parametrize("name", names("sweep"))
def test_every_kind_of_sweep_has_what_a_sweep_reads(name: str) -> None:
    found = set(composed(f"sweep={name}").sweep)
    lacking = set(composed().sweep) - found
    of_a_search = {"constraints", "start_from", "space", "n_trials"}  # rows and methods have none
    assert lacking <= (of_a_search if name in ("rows", "methods") else set())


def test_the_default_is_right() -> None:
    config = composed()
    check(config)
    check_sweep(config)
    assert config.sweep.n_trials >= 24
    assert config.sweep.objectives == {"val_accuracy": "maximize", "num_params": "minimize"}
    for name in names("optimizer"):
        assert callable(optimizer_of(composed(f"optimizer={name}").optimizer)[0])


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (["loss.temperature=0"], ["loss.temperature must be > 0, got 0; try loss.temperature=4"]),
        (["loss.temperature=nan"], ["loss.temperature must be > 0, got nan"]),
        (["loss.temperature=inf"], ["loss.temperature must be > 0, got inf"]),
        (["loss.temperature=hot"], ["loss.temperature must be > 0, got 'hot'"]),
        (["loss.lambda=-0.1"], ["loss.lambda must be from 0 to 1, got -0.1"]),
        (["loss=logit_mse", "loss.lambda=7"], []),
        (["dataset.name=../../x"], ["dataset.name must be a name of letters, digits, . _ and -"]),
        (["loss=logit_mse", "loss.lambda=-7"], ["loss.lambda must be >= 0, got -7"]),
        (["loss=prob_mse", "loss.lambda=-7"], ["loss.lambda must be >= 0, got -7"]),
        (["loss.ce_weight=-1"], ["loss.ce_weight must be >= 0, got -1"]),
        (
            ["teacher.model.num_classes=7", "student.model.input_shape=[3,8,8]"],
            ["teacher.model.num_classes is 7, but", "student.model.input_shape is [3, 8, 8], but"],
        ),
        (["teacher.checkpoint=/nowhere"], ["teacher.checkpoint=/nowhere does not exist"]),
        (["student.checkpoint=/"], ["student.checkpoint=/ is a folder without weights"]),
        (["student.checkpoint=/nowhere"], ["student.checkpoint=/nowhere does not exist"]),
        (
            [f"student.checkpoint={__file__}", "student.pretraining={seed: 1}"],
            ["student.checkpoint and student.pretraining both say what the student starts from"],
        ),
        (
            ["student.model.width=0", "trainer.max_epochs=2.5", "optimizer.lr=-1"],
            [
                "student.model.width must be a whole number >= 1, got 0",
                "trainer.max_epochs must be a whole number >= 0, got 2.5",
                "optimizer.lr must be > 0, got -1",
            ],
        ),
        (["dataset.val_fraction=1"], ["dataset.val_fraction must be above 0 and below 1, got 1"]),
        (["student.model.dropout=1"], ["student.model.dropout must be at least 0 and below 1"]),
        (
            ["scheduler.warmup=-1", "optimizer.weight_decay=-1", "+student.model.dropot=3"]
            + ["teacher.scheduler.final=2", "+optimizer.momentum=0.9"],
            [
                "scheduler.warmup must be a number of epochs >= 0, got -1; try scheduler.warmup=0",
                "teacher.scheduler.final must be a share of the rate in [0, 1], got 2",
                "optimizer.weight_decay must be at least 0, got -1; try optimizer.weight_decay=0",
                "student.model.dropot is no argument of MLP; did you mean student.model.dropout?",
                "optimizer.momentum is no argument of AdamW; there are: params, lr, betas, ",
            ],
        ),
        (
            ["trainer.max_epochs=4", "scheduler.warmup=4", "scheduler.per=step"],
            ["scheduler.warmup=4 epochs leave none of the 4 of trainer.max_epochs; try "],
        ),
        (["tracking.mode=of"], ["tracking.mode must be one of offline, online, disabled"]),
        (
            ["dataset=hub"],
            [
                "dataset.input_shape has no value; type dataset.input_shape=",
                "dataset.num_classes has no value; type dataset.num_classes=",
            ],
        ),
        (
            [f"soft_targets.{value}" for value in ("views=0", "top_k=abc", "max_gb=null")],
            [
                "soft_targets.views must be a whole number >= 1, or null, got 0; try",
                "soft_targets.top_k must be a whole number >= 1, auto, or null, got 'abc'; try",
                "soft_targets.max_gb must be a number > 0, got None; try soft_targets.max_gb=8",
            ],
        ),
        (
            [f"soft_targets.{value}" for value in ("cache=abc", "fill=never", "dtype=int8")],
            [
                "soft_targets.cache must be true or false, got 'abc'; try soft_targets.cache=true",
                "soft_targets.fill must be lazy or ahead, got 'never'; try soft_targets.fill=lazy",
                "soft_targets.dtype must be float32 or float16, got 'int8'; try",
            ],
        ),
        (["soft_targets.views=2.5"], ["soft_targets.views must be a whole number >= 1, or null"]),
        (["soft_targets.top_k=10"], ["soft_targets.top_k must be below the 10 classes, got 10"]),
        (["soft_targets.top_k=9", "soft_targets.views=2", "soft_targets.max_gb=0.5"], []),
        (
            ["seed=-1", "teacher.seed=abc"],
            ["seed must be a whole number from 0 to", "teacher.seed must be a whole number from"],
        ),
        (
            ["trainer.precision=bf16-true", "+teacher.trainer.precision=64"],
            [
                "trainer.precision must leave the inputs float32, got 'bf16-true'; try",
                "teacher.trainer.precision must leave the inputs float32, got 64; try",
            ],
        ),
        (["trainer.precision=bf16-mixed", "paper_rule=best_epoch", "shift_classes=[3]"], []),
        (["paper_rule=first_epoch"], ["paper_rule must be null, last_epoch or best_epoch, got"]),
        (["shift_classes=[12]"], ["shift_classes must be a list of some, not all, of the classes"]),
        (["shift_classes=[0.5]"], ["shift_classes must be a list of some, not all, of the class"]),
        (["shift_classes=3"], ["shift_classes must be a list of some, not all, of the classes 0"]),
        (
            ["shift_classes=[0,1,2,3,4,5,6,7,8,9]"],
            ["shift_classes must be a list of some, not all, of the classes 0 to 9, got [0, 1, 2"],
        ),
        (
            ["dataset=sst2", "teacher=bilstm", "student=bilstm", "student.model.vocab_size=7"],
            ["student.model.vocab_size is 7, but the dataset's is 12000"],
        ),
        (["seed=${nothing}"], ["seed: Interpolation key 'nothing' not found"]),
    ],
)
def test_wrong_values_are_told_together(overrides: list[str], problems: list[str]) -> None:
    config = composed(*overrides)
    if not problems:
        check(config)
        return
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert len(caught.value.problems) == len(problems), caught.value.problems
    for expected, found in zip(problems, sorted_as(problems, caught.value.problems), strict=True):
        assert found.startswith(expected)


def sorted_as(order: list[str], found: list[str]) -> list[str]:
    return [next((line for line in found if line.startswith(start)), str(found)) for start in order]


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (["+sweep.objectives.val_acc=maximize"], ["unknown objective val_acc; did you mean"]),
        (["+sweep.objectives.test_accuracy=maximize"], ["the test split never reaches"]),
        (["sweep.objectives.num_params=less"], ["must be maximize or minimize, got 'less'"]),
        (["sweep.objectives=null"], ["sweep.objectives is empty", "is no objective"]),
        (["sweep.name=../../elsewhere"], ["sweep.name must be a folder's name"]),
        (["sweep.name="], ["sweep.name must be a folder's name", "got ''"]),
        (["sweep.workers=0"], ["sweep.workers must be a whole number >= 1, or null"]),
        (["+sweep.reference_point.macs=3"], ["sweep.reference_point.macs is no objective"]),
    ],
)
def test_wrong_sweeps_are_told(overrides: list[str], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_sweep(composed(*overrides))
    for problem in problems:
        assert problem in str(caught.value)


def test_a_checkpoint_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        if name == "o/none":
            raise OSError("no network")
        (tmp_path / file).touch()
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    config = composed("teacher.checkpoint=${hub_weights:o/net,best.pt}")
    settle(config)
    check(config)
    assert config.teacher.checkpoint == str(tmp_path / "best.pt")
    assert asked[0] == ("o/net", "best.pt")
    with pytest.raises(ConfigError, match=r"no weights.pt of o/none from the Hub: no network"):
        check(composed("teacher.checkpoint=${hub_weights:o/none}"))


def test_a_saved_configuration_is_complete(tmp_path: Path) -> None:
    config = composed("teacher.checkpoint=null", "loss.lambda=0.25")
    save(config, tmp_path / "config.yaml")
    again = load(tmp_path / "config.yaml")
    assert isinstance(again, DictConfig)
    assert again.loss.ce_weight == 0.75
    assert "${" not in (tmp_path / "config.yaml").read_text()
    assert again == OmegaConf.create(OmegaConf.to_container(config, resolve=True))


def test_a_key_of_another_name_is_told_the_new_one(tiny):
    assert explain(["soft_targets.keep=false"]) == [
        "soft_targets.keep is called soft_targets.cache today; type soft_targets.cache=False"
    ]
    config = tiny()
    with open_dict(config):
        config.soft_targets.keep = True
    with pytest.raises(ConfigError, match="soft_targets.keep is called soft_targets.cache today"):
        check(config)
