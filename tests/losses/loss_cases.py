"""The table of losses: one row per file of conf/loss, which drives every property test.

A loss with stages has a row for each, `NAME@STAGE`; NAME is the training itself.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import feature_references as features
import loss_references as references
import torch
import tree_references as trees
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from kd_research.interfaces import Batch
from kd_research.losses.objective import Objective
from kd_research.models.capture import Capture
from kd_research.models.soft_tree import SoftTree
from kd_research.teacher.stated import objective_of

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class Case:
    """What is true of a file of conf/loss.

    Attributes:
        terms: term -> its reference, from a Setting to the unweighted value.
        zero: the terms are 0 where student and teacher agree.
        pointwise: a mean over examples, each looked at alone.
        shift, scale: blind to a constant added to the student's logits; to their scale.
        feature_scale: blind to the scale of the student's activations.
        random: draws anew at each call.
        still: beginnings of the paths of what does not learn in the stage.
        overrides: what the tests compose it with, to make it small.
        student: made in place of `Net`, from width and classes.
    """

    terms: dict[str, Callable[["Setting"], float]] = field(default_factory=dict)
    zero: bool = True
    pointwise: bool = True
    shift: bool = True
    scale: bool = False
    feature_scale: bool = False
    random: bool = False
    still: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    student: Callable[[int, int], nn.Module] | None = None


PEER = ("++student.model={_target_: loss_cases.Net, width: 4, num_classes: 5}",)
BEFORE_RELU = (
    "loss.student_layers=[stages.0.norm,stages.-1.norm]",
    "loss.teacher_layers=[stages.0.norm,stages.-1.norm]",
)

PARAPHRASER = ("terms.ft.encoder.", "terms.ft.decoder.")

CASES: dict[str, Case] = {
    "ce": Case({}, zero=False),
    "kd": Case({"kd": references.soft_target}),
    "fkl": Case({"fkl": references.soft_target}),
    "rkl": Case({"rkl": references.reverse_kl}),
    "jsd": Case({"jsd": references.jensen_shannon}),
    "skl": Case({"skl": references.skew_kl}),
    "srkl": Case({"srkl": references.skew_reverse_kl}),
    "tvd": Case({"tvd": references.total_variation}),
    "akl": Case({"akl": references.adaptive_kl}),
    "alpha_beta": Case({"alpha_beta": references.alpha_beta}),
    "uld": Case({"uld": references.uld}),
    "seqkd": Case({}, zero=False),
    "gkd": Case({"gkd": references.jensen_shannon}),
    "minillm": Case({"minillm": references.minillm}),
    "distillm": Case({"distillm": references.skew_kl}),
    "speculative_kd": Case({"speculative_kd": references.soft_target}),
    "logit_mse": Case({"logit_mse": references.logit_mse}, shift=False),
    "prob_mse": Case({"prob_mse": references.prob_mse, "weight_norm": references.weight_norm}),
    "label_smoothing": Case({"label_smoothing": references.label_smoothing}, zero=False),
    "tf_kd": Case({"tf_kd": references.virtual_teacher}, zero=False),
    "tf_kd_self": Case({"tf_kd_self": references.soft_target}),
    "dkd": Case({"dkd": references.dkd}),
    "dist": Case({"dist": references.dist}, pointwise=False),
    "nkd": Case({"nkd": references.nkd}, zero=False),
    "wsld": Case({"wsld": references.wsld}, zero=False),
    "lskd": Case({"lskd": references.lskd}, scale=True),
    "dkd_lskd": Case({"dkd_lskd": references.dkd_lskd}, scale=True),
    "ttm": Case({"ttm": references.ttm}, zero=False),
    "wttm": Case({"wttm": references.wttm}, zero=False),
    "rld": Case({"rld": references.rld}, zero=False),
    "mlkd": Case({"mlkd": references.multi_level}, pointwise=False),
    "spherical_kd": Case({"spherical_kd": references.spherical}, scale=True),
    "ctkd": Case({"ctkd": references.ctkd}),
    "annealing_kd": Case({}, zero=False),
    "annealing_kd@annealed": Case({"annealing_kd": references.annealed}, zero=False, shift=False),
    "soft_tree": Case(
        {
            "labels": trees.labels,
            "soft_tree": trees.soft_targets,
            "balance": trees.balance,
        },
        zero=False,
        pointwise=False,
        student=lambda width, classes: SoftTree((1, 8, 8), classes, depth=3),
    ),
    "kd_at": Case({"kd": references.soft_target, "at": features.attention}),
    "dml": Case({"dml": features.dml}, zero=False, shift=True, overrides=PEER),
    "fitnet": Case({"fitnet": features.hint}, zero=False),
    "at": Case({"at": features.attention}, feature_scale=True),
    "nst": Case({"nst": features.nst}, feature_scale=True),
    "fsp": Case({}, zero=False, still=("terms.",)),
    "fsp@flow": Case({"fsp": features.fsp}, still=("head.",)),
    "kdsvd": Case({"kdsvd": features.singular_vectors}),
    "cwd": Case({"cwd": features.cwd}),
    "ickd": Case({"ickd": features.ickd}, zero=False),
    "vid": Case({"vid": features.vid}, zero=False),
    "mgd": Case({"mgd": features.mgd}, zero=False, random=True),
    "srrl": Case({"srrl": features.srrl}, zero=False),
    "simkd": Case({"simkd": features.simkd}, zero=False),
    "ofd": Case({"ofd": features.ofd}, zero=False, overrides=BEFORE_RELU),
    "cat_kd": Case({"cat_kd": features.class_attention}, zero=False),
    "ofa": Case({"ofa": features.one_for_all}, zero=False),
    "ft": Case({"ft": features.factor_transfer}, zero=False, still=PARAPHRASER),
    "ft@paraphraser": Case(
        {"ft": features.paraphraser},
        zero=False,
        still=("stages.", "head.", "terms.ft.translator."),
    ),
    "ab": Case({}, zero=False, overrides=BEFORE_RELU, still=("terms.",)),
    "ab@boundaries": Case(
        {"ab": features.activation_boundaries},
        zero=False,
        overrides=BEFORE_RELU,
        still=("head.",),
    ),
    "pad": Case({"pad": features.prime_aware}, zero=False),
    "pad@plain": Case(
        {"pad": features.plain_difference}, zero=False, still=("terms.pad.variance",)
    ),
    "sskd": Case(
        {"sskd": features.self_supervised},
        zero=False,
        pointwise=False,
        still=("terms.sskd.teacher_head.",),
    ),
    "sskd@head": Case(
        {"sskd": features.view_of_an_image},
        zero=False,
        pointwise=False,
        still=("stages.", "head.", "terms.sskd.student_head."),
    ),
    "reviewkd": Case({"reviewkd": features.reviewkd}, zero=False),
    "sp": Case({"sp": features.sp}, pointwise=False, feature_scale=True),
    "rkd": Case({"rkd": features.rkd}, pointwise=False, feature_scale=True),
    "pkt": Case({"pkt": features.pkt}, pointwise=False, feature_scale=True),
    "cc": Case({"cc": features.cc}, pointwise=False, feature_scale=True),
    "itrd": Case({"itrd": features.itrd}, zero=False, pointwise=False),
    "srd": Case({"srd": features.srd}, zero=False, pointwise=False),
    "crd": Case(
        {"crd": features.crd}, zero=False, pointwise=False, overrides=("loss.num_negatives=50",)
    ),
}
TRANSFORMERS = {"distilbert", "tinybert", "minilm"}  # need text: test_transformer_losses.py


def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            norm=nn.BatchNorm2d(outputs),
            act=nn.ReLU(),
        )
    )


class Net(nn.Module):
    """(B, 1, 8, 8) -> (B, C), with the layer names of the project's cnn."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.stages = nn.Sequential(
            convolution(1, width, 1), convolution(width, width, 2), convolution(width, 2 * width, 1)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.stages(inputs)))
        return logits


@dataclass
class Setting:
    """Two nets, a batch, an objective made for them, and what the nets say of the batch."""

    student_module: nn.Module
    teacher_module: nn.Module
    see_student: Capture
    see_teacher: Capture
    objective: Objective
    batch: Batch
    still: tuple[str, ...] = ()
    loss: Any = None

    def __post_init__(self) -> None:
        self.look()

    def look(self, inputs: Tensor | None = None) -> None:
        inputs = self.batch.inputs if inputs is None else inputs
        self.student = self.see_student(inputs)
        with torch.no_grad():
            self.teacher = self.see_teacher(inputs)

    def part(self, rows: Any) -> "Setting":
        """The same of some of the examples; the objective is shared."""
        part = copy.copy(self)
        part.batch = Batch(*(value[rows] for value in self.batch[:3]))  # type: ignore[misc]
        part.look()
        return part

    def value(self) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.student, self.teacher, self.batch)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.student_module.parameters(), *self.objective.parameters()]

    def learning(self) -> list[tuple[str, nn.Parameter]]:
        """Those that learn in the row's stage, with their paths: student, then objective."""
        named = [*self.student_module.named_parameters(), *self.objective.named_parameters()]
        return [(path, each) for path, each in named if not path.startswith(self.still)]

    def fresh(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None


def file_of(name: str) -> Path:
    """The configuration of a row."""
    return CONF / "loss" / f"{name.partition('@')[0]}.yaml"


@functools.cache
def compose_loss(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose(overrides=[f"+loss={name.partition('@')[0]}", *overrides])
    OmegaConf.resolve(cfg)
    return cfg.loss


def make_objective(name: str, *overrides: str) -> Objective:
    cfg = compose_loss(name, *CASES[name].overrides, *overrides)
    objective = objective_of(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
    if "@" in name:
        objective.set_stage(name.partition("@")[2])
    return objective


def make_batch(size: int, classes: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(size, 1, 8, 8, generator=generator),
        torch.randint(classes, (size,), generator=generator),
        torch.randperm(4 * size, generator=generator)[:size],
    )


@functools.cache
def made_nets(
    make_student: Callable[[int, int], nn.Module], classes: int, widths: tuple[int, int], seed: int
) -> tuple[nn.Module, nn.Module, Tensor]:
    """Student and teacher, and the random numbers' state that they leave."""
    torch.manual_seed(seed)
    makes = (make_student, Net)
    student, teacher = (make(width, classes) for make, width in zip(makes, widths, strict=True))
    for net in (student, teacher):
        next(net.head.parameters()).data *= 10  # logits that disagree
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not those of a new net
            teacher(torch.randn(32, 1, 8, 8))
    return student, teacher.eval().requires_grad_(False), torch.get_rng_state()


def make_setting(
    name: str,
    size: int = 6,
    classes: int = 5,
    widths: tuple[int, int] = (4, 6),
    seed: int = 0,
    overrides: tuple[str, ...] = (),
) -> Setting:
    if CASES[name].overrides == PEER:
        overrides = (*overrides, f"++student.model.num_classes={classes}")
    *nets, state = made_nets(CASES[name].student or Net, classes, widths, seed)
    student, teacher = map(copy.deepcopy, nets)
    torch.set_rng_state(state)
    objective = make_objective(name, *overrides)
    objective.bind(student, teacher)
    captures = [
        Capture(net, objective.layers(who))
        for net, who in ((student, "student"), (teacher, "teacher"))
    ]
    batch = make_batch(size, classes, seed)
    with torch.no_grad():
        example = [see(batch.inputs) for see in captures]
    objective.build(*example, num_examples=4 * size)
    return Setting(student, teacher, *captures, objective, batch, CASES[name].still)
