"""The shipped papers: every row composes, is instantiated, and trains.

A row whose loss reads logits alone is trained with one pair; a loss on features with pairs that
have each family as teacher and as student, and with every pair by `-m long`.
The nets are the rows' own, in float32, with random weights (teachers too), a batch of two and
small images: half of CIFAR's side (all of it for MobileNetV2, which would have maps of one
pixel), 64 pixels for ImageNet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from sweep_commands import make_plan
from tiny import plain
from torch import Tensor, nn

from kd_research.configuration.config import ROOT
from kd_research.configuration.statements import SELECTIONS
from kd_research.interfaces import Batch, Output
from kd_research.models.view import View
from kd_research.sweep.plan import Plan
from kd_research.teacher.stated import model_of, objective_of, optimizer_of, stages_of
from kd_research.training.distill import Distiller
from kd_research.training.fit import make_trainer

PAPERS = {
    path.stem: yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for path in sorted((ROOT / "sweeps" / "papers").glob("*.yaml"))
    if path.stem != "crd_ranking"  # whose rows are crd_cifar100's
}
SIZES = {224: 64, 32: 16}  # of an image's side there and here
NUM_EXAMPLES = 32  # of the training split that CRD's memory is made for


class Nets:
    """Each net is made once, and every row that has it starts from the same weights."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {}

    def get(self, who: str, row: dict[str, Any], images: Tensor) -> nn.Module:
        key = who + json.dumps([row[who]["model"], row[who].get("view")], sort_keys=True)
        if key not in self._made:
            net = model_of(row[who], row["dataset"])
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0  # a deep net's eval mode needs statistics that fit it
            with torch.no_grad():
                net.train()(images)
            state = {name: value.clone() for name, value in net.state_dict().items()}
            self._made[key] = net, state if who == "student" else {}
        net, state = self._made[key]
        if state:
            net.load_state_dict(state)
            net.zero_grad()
        return net


@cache
def plan_of(paper: str) -> Plan:
    return make_plan(f"+sweeps=papers/{paper}")


def pair_of(overrides: dict[str, Any]) -> str:
    """The nets that a row names: those of a test are made once."""
    return "-".join(str(overrides[who]) for who in ("teacher", "student") if who in overrides)


PAIRS = [
    (paper, pair)
    for paper, stated in PAPERS.items()
    for pair in sorted({pair_of(row["overrides"]) for row in stated["sweep"]["rows"].values()})
]


def depth(pair: str) -> int:
    """The layers of both nets, as their names say it."""
    return sum(int(number) for number in re.findall(r"(?<=[a-z_])\d+", pair))


def by_families() -> Iterator[Any]:
    """The pairs; those whose families, of teacher and of student, came before in a paper are long.

    Shallow nets come first. A student without a teacher comes last: its rows read logits alone.
    """
    seen: set[tuple[str, ...]] = set()
    for paper, pair in sorted(
        PAIRS, key=lambda each: (each[1].startswith("none-"), depth(each[1]))
    ):
        families = re.sub(r"\d+(_\d)?(x\d)?(?=-|$)", "", pair).split("-")
        sides = {(paper, who, name) for who, name in zip("ts", families, strict=False)}
        sides.discard((paper, "t", "none"))
        marks = [pytest.mark.long] if sides <= seen else [pytest.mark.slow]
        seen |= sides
        yield pytest.param(paper, pair, marks=marks)


def different_rows(plan: Plan, pair: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and resolved configuration of a pair's rows that train something of their own.

    The plan has composed and checked every row when it was made.

    Rows that differ in lengths, seeds, the data or real numbers alone train the same step.
    """
    seen = set()
    for label in [label for label, stated in plan.rows.items() if pair_of(stated) == pair]:
        config = plan.composition.compose({"row": label})
        assert list(config.sweep.rows) == [label]
        channels, *sides = config.dataset.input_shape
        if not str(config.student.model._target_).endswith("MobileNetV2"):
            sides = [SIZES.get(side, side) for side in sides]
        config.dataset.input_shape = [channels, *sides]
        row = plain(config)
        nets = [[row[who]["model"], row[who].get("view")] for who in ("student", "teacher")]
        loss, optimizer = shape_of(row["loss"]), shape_of(row["optimizer"])
        trained = json.dumps([*nets, loss, optimizer], sort_keys=True)
        if trained not in seen:
            seen.add(trained)
            yield label, row


def shape_of(content: Any) -> Any:
    """What is built, whatever its real numbers (a weight, a temperature, a rate) are."""
    if isinstance(content, dict):
        return {key: shape_of(value) for key, value in content.items()}
    if isinstance(content, list):
        return [shape_of(value) for value in content]
    return "a number" if isinstance(content, float) else content


def classes_of(content: Any) -> Iterator[str]:
    """Every class that a part of the configuration is built of."""
    if isinstance(content, dict):
        yield from [content["_target_"]] if "_target_" in content else []
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from classes_of(each)


class Kept:
    """A teacher's outputs for the one batch: asked for once, then kept, as in a run."""

    output: Output | None = None

    def outputs(self, index: Tensor, compute: Callable[[Tensor], Output]) -> Output:
        self.output = self.output or compute(index)
        return self.output


def train(row: dict[str, Any], nets: Nets, trainer: Trainer, num_steps: int) -> list[Tensor]:
    """The losses of optimizer steps on random images."""
    shape, num_classes = row["dataset"]["input_shape"], row["dataset"]["num_classes"]
    batch = Batch(torch.randn(2, *shape), torch.randint(num_classes, (2,)), torch.arange(2))
    student, teacher = (
        nets.get(who, row, batch.inputs) if row[who]["model"] else None
        for who in ("student", "teacher")
    )
    optimizer_factory, groups = optimizer_of(row["optimizer"])
    schedule = instantiate(row["scheduler"])
    objective = objective_of(row["loss"])
    given = (student, objective, optimizer_factory, schedule, teacher, groups)
    module = Distiller(*given, stages_of(row["loss"]))
    module.trainer, module.cached = trainer, cast(Any, Kept())
    module.build(batch, NUM_EXAMPLES)
    num_epochs = row["trainer"]["max_epochs"]
    losses = []
    for stage in (*module.stages, None):
        if module.learners is not None:
            module.learners.enter(stage)
        made = module.configure_optimizers()
        optimizer = made["optimizer"] if isinstance(made, dict) else made
        module.objective.set_epoch(num_epochs // 2, num_epochs)
        for step in range(num_steps):
            losses.append(module.training_step(batch, step))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    return losses


@pytest.fixture(scope="module")
def gone_on() -> set[tuple[str, ...]]:
    """The classes of the losses that took a second step: the first leaves it another state."""
    return set()


def reads_logits_alone(row: dict[str, Any]) -> bool:
    """Whether a loss looks at no features and learns nothing itself: the nets are all one to it."""
    objective = objective_of(row["loss"])
    reads = objective.layers("student") or objective.layers("teacher")
    return not reads and not any(True for _ in objective.parameters())


@pytest.mark.parametrize(("paper", "pair"), [*by_families()])  # whose nets are the papers' own
def test_every_row_trains(
    paper: str, pair: str, tmp_path: Path, gone_on: set[tuple[str, ...]]
) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    options = {"max_epochs": 10, "accelerator": "cpu", "enable_progress_bar": False}
    nets, trainer, wrong, trained = Nets(), make_trainer(options, tmp_path), [], 0
    for label, row in different_rows(plan_of(paper), pair):
        classes = tuple(sorted(classes_of([row["loss"], row["optimizer"]])))
        if trained and classes in gone_on and reads_logits_alone(row):
            continue
        trained += 1
        num_steps = 1 if classes in gone_on else 2
        gone_on.add(classes)
        try:
            losses = train(row, nets, trainer, num_steps)
            if not all(loss.isfinite() for loss in losses):
                wrong.append(f"{label}: losses {losses}")
        except Exception as error:
            wrong.append(f"{label}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_benchmark_has_its_thirteen_pairs() -> None:
    pairs = {pair for paper, pair in PAIRS if paper == "crd_cifar100"}
    assert len([pair for pair in pairs if not pair.startswith("none-")]) == 13


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_says_what_its_ledger_needs(paper: str) -> None:
    stated = PAPERS[paper]["sweep"]
    about, rows = stated["paper"], stated["rows"]
    assert stated["name"] == paper
    assert about["citation"]
    assert about["stated"]
    assert about["chosen"]
    for label, row in rows.items():
        said = {**about, **row}
        for metric, published in (row.get("expected") or {}).items():
            assert said["selection"] in SELECTIONS, label
            assert said["reason"], label
            assert (said["tolerance"] is None) == is_another_experiment(label, row), label
            assert not metric.endswith("accuracy") or 0.3 < published < 1, label


def is_another_experiment(label: str, row: dict[str, Any]) -> bool:
    """Whether the loss, or its layers, are not the reference's: such a row gets no verdict."""
    if label.startswith(("cc_", "fsp_", "reviewkd_", "ofd_")):
        return True
    if not label.startswith(("at_", "vid_", "nst_")):
        return False
    # RepDistiller: feat[1:-1], the three stages of a CIFAR ResNet after their ReLU
    three = ["stages.0", "stages.1", "stages.2"]
    layers = [row["overrides"].get(f"loss.{who}_layers") for who in ("student", "teacher")]
    return layers != [three, three] or row["overrides"]["teacher"].startswith("wrn")


def test_the_benchmark_s_protocol() -> None:
    plan = plan_of("crd_cifar100")
    config = plan.composition.compose({"row": "kd_vgg13_mobilenetv2"})
    assert config.trainer.max_epochs == config.teacher.trainer.max_epochs == 240
    assert list(config.scheduler.milestones) == [150, 180, 210]
    assert config.optimizer.lr == 0.01
    assert config.teacher.optimizer._target_ == "torch.optim.SGD"
    assert config.teacher.optimizer.lr == 0.05
    for label, overrides in plan.rows.items():
        small = any(name in label for name in ("mobilenet", "shuffle"))
        assert (overrides.get("optimizer.lr") == 0.01) == small


def test_the_ranking_is_of_the_benchmark_s_rows_at_a_tenth_of_the_epochs() -> None:
    plan = plan_of("crd_ranking")
    assert len(plan.rows) == 17, "16 methods and the student alone"
    stated = PAPERS["crd_cifar100"]["sweep"]["rows"]
    for label, overrides in plan.rows.items():
        theirs = dict(stated[label]["overrides"])
        if label.startswith("dkd_"):
            theirs["loss.non_target_weight"] = 2.0  # mdistiller's for this pair
        assert overrides == theirs
        assert not is_another_experiment(label, stated[label]), "another loss, or other layers"
        config = plan.composition.compose({"row": label})
        epochs, milestones = config.trainer.max_epochs, list(config.scheduler.milestones)
        assert (epochs, milestones) == (24, [15, 18, 21])
        assert config.teacher.trainer.max_epochs == 24 or not config.teacher.model
    # RepDistiller's run_cifar_distill.sh: the weight beside the labels', -b
    weights = {"fitnet": 100, "at": 1000, "sp": 3000, "vid": 1, "rkd": 1, "pkt": 30000}
    weights |= {"ft": 200, "nst": 50, "crd": 0.8}
    for name, weight in weights.items():
        config = plan.composition.compose({"row": f"{name}_resnet56_resnet20"})
        assert (config.loss.ce_weight, config.loss["lambda"]) == (1, weight), name
    kd = plan.composition.compose({"row": "kd_resnet56_resnet20"}).loss
    assert (kd["lambda"], kd.temperature) == (0.9, 4), "-r 0.1 -a 0.9"


def test_hinton_composes() -> None:
    plan = plan_of("hinton2015_mnist")
    config = plan.composition.compose({"row": "without_3"})
    assert config.dataset.exclude_classes == [3]
    assert config.teacher.dataset.exclude_classes == []
    assert config.teacher.dataset.augment == {"crop": 2}
    assert config.trainer.check_val_every_n_epoch == config.trainer.max_epochs == 100
    assert plan.composition.compose({"row": "plain_2x800"}).loss.terms == {}


def test_the_teacher_alone_sees_the_privileged_columns() -> None:
    plan = plan_of("lopezpaz2016_synthetic")
    for label in plan.rows:
        config = plan.composition.compose({"row": label})
        student, teacher = (View(**config[who].view) for who in ("student", "teacher"))
        width = int(config.dataset.input_shape[0])
        assert student.channels == slice(0, 50), label
        assert teacher.channels == slice(50, width), label


def test_what_distillation_buys_composes() -> None:
    plan = make_plan("+sweeps=what_distillation_buys", "pretraining.dataset.root=data", "seed=3")
    assert len(plan.rows) == 15
    start: Any = plan.composition.compose({"row": "pretrained_16"}).student.pretraining
    assert start.dataset.root == str(Path("data").resolve())
    assert (start.dataset.name, list(start.dataset.input_shape), start.seed) == (
        "mnist",
        [1, 8, 8],
        3,
    )
    assert plan.composition.compose({"row": "labels_16"}).student.pretraining is None
