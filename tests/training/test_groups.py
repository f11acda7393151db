"""Groups of parameters: who is in which, with which settings, and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Compose, composed, plain

from kd_research.configuration.config import ConfigError, check
from kd_research.losses.objective import Objective
from kd_research.models.gpt import GPT
from kd_research.teacher.stated import optimizer_of
from kd_research.training.adapters import adapt
from kd_research.training.distill import Distiller
from kd_research.training.fit import make_trainer
from kd_research.training.groups import check_paths
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

ALONE = ("loss=ce", "teacher.model=null")


def groups_of(parts: Parts) -> list[dict[str, Any]]:
    """The optimizer's own, made as a fit makes it."""
    with tempfile.TemporaryDirectory() as folder:
        parts.module.trainer = make_trainer(parts.config["trainer"], Path(folder))
    found: list[dict[str, Any]] = parts.module.configure_optimizers()["optimizer"].param_groups
    return found


def settings(parts: Parts) -> dict[str, dict[str, float]]:
    """Of each of the student's parameters the settings of its group."""
    names = {id(each): name for name, each in parts.student.named_parameters()}
    return {
        names[id(each)]: {key: value for key, value in group.items() if key != "params"}
        for group in groups_of(parts)
        for each in group["params"]
    }


def test_a_group_has_its_own_rate_and_decay(tiny: Compose) -> None:
    keys = ["optimizer=sgd", "optimizer.lr=0.1", "optimizer.dampening=0.5", "student=cnn"]
    keys += ["student.model.depth=1", "student.model.width=4"]
    keys += ["+optimizer.groups.head={paths:[head.*],lr:0.5}"]
    keys += ["+optimizer.groups.norms={vectors:true,weight_decay:0}"]
    parts = Parts(plain(tiny(*ALONE, *keys)))
    found, vectors = settings(parts), 0
    for name, group in found.items():
        is_head = name.startswith("head.")
        is_vector = parts.student.get_parameter(name).ndim == 1
        vectors += is_vector and not is_head
        assert group["initial_lr"] == (0.5 if is_head else 0.1), name
        assert group["weight_decay"] == (0 if is_vector and not is_head else 5e-4), name
        assert group["dampening"] == 0.5
    assert vectors >= 2, "of batch normalisation"


def test_nanogpt_decays_matrices_alone() -> None:
    net = GPT(vocab_size=11, context=4, depth=2, width=8, heads=2, bias=True)
    config = plain(composed("optimizer=nanogpt"))
    factory, groups = optimizer_of(config["optimizer"])
    module = Distiller(net, Objective({}, 1.0), factory, None, None, groups)
    made = factory(module.parameters_for_optimizer())
    decays = {
        id(each): group["weight_decay"] for group in made.param_groups for each in group["params"]
    }
    for name, each in net.named_parameters():
        assert decays[id(each)] == (0.1 if each.dim() >= 2 else 0.0), name  # nanoGPT's own rule


def test_beside_an_adapter_there_may_be_no_norms_and_biases() -> None:
    peft = pytest.importorskip("peft", reason="the extra adapters is not installed")
    net = GPT(vocab_size=11, context=4, depth=1, width=8, heads=2)
    adapted = adapt(net, peft.LoraConfig(r=2, target_modules="all-linear"), None, lambda _: ())
    factory, groups = optimizer_of(plain(composed("optimizer=nanogpt"))["optimizer"])
    check_paths(groups, adapted)
    module = Distiller(adapted, Objective({}, 1.0), factory, None, None, groups)
    (rest,) = factory(module.parameters_for_optimizer()).param_groups
    assert rest["weight_decay"] == 0.1
    assert len(rest["params"]) == 12, "two of each of the six layers"


def test_a_schedule_scales_each_group_s_rate(tiny: Compose, tmp_path: Path) -> None:
    rates: list[list[float]] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, closure: None = None) -> None:
        rates.append([group["lr"] for group in self.param_groups])
        step(self, closure)

    keys = ["scheduler=linear", "+optimizer.groups.head={paths:[head.*],lr:0.5}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        record = run(tiny(*ALONE, *keys, "optimizer.lr=0.1"), tmp_path)
    assert record.status == "completed", record.error
    assert rates[0] == [0.1, 0.5]
    assert rates[-1] == pytest.approx([0.05, 0.25])  # the second of two epochs


def test_a_connector_of_the_loss_can_have_its_own_rate(tiny: Compose) -> None:
    keys = ["student=cnn", "student.model.width=4", "student.model.depth=2", "loss=fitnet"]
    parts = Parts(plain(tiny(*keys, "+optimizer.groups.loss={paths:['objective.*'],lr:0.5}")))
    own = {id(each) for each in parts.module.objective.parameters()}
    rest, group = groups_of(parts)
    assert {id(each) for each in group["params"]} == own != set()
    assert group["initial_lr"] == 0.5 != rest["initial_lr"]


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("{paths:[nothing.*],lr:1}", "takes no parameter like nothing.*"),
        ("{lr:1}", "does not say whom it takes; type +optimizer.groups.mine.paths="),
        ("{paths:[]}", "does not say whom it takes; type optimizer.groups.mine.paths="),
        ("{paths:head,lr:1}", "paths must be a list of patterns, got 'head'"),
        ("{vectors:true,rate:1}", "has rate, which the optimizer has not; there are: paths"),
        ("{vectors:1}", "vectors must be true or false, got 1"),
        ("7", "must be a mapping, got 7"),
    ],
)
def test_a_wrong_group_is_told_before_the_teacher_is_trained(
    tiny: Compose, group: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_research.teacher.chain.obtain", None)
    with pytest.raises(ConfigError, match="optimizer.groups.mine") as found:
        Parts(plain(tiny(f"+optimizer.groups.mine={group}")))
    assert told in str(found.value)


def test_all_that_is_wrong_with_groups_is_told_before_torch_is_imported(tiny: Compose) -> None:
    typed = {
        "optimizer.groups.a": "{paths:null,lr:1}",
        "optimizer.groups.b": "{paths:[head.*],weight_decay:null,betas:3}",
        "optimizer.groups.c": "{vectors:true,weight_decay:-1}",
        "teacher.optimizer.groups.d": "{paths:head,rate:1}",
        "teacher.optimizer.groups.e": "7",
    }
    with pytest.raises(ConfigError) as found:
        check(tiny(*(f"+{key}={value}" for key, value in typed.items())))
    for text in (
        "optimizer.groups.a.paths must be a list of patterns, got None",
        "optimizer.groups.b.weight_decay must be at least 0, got None",
        "optimizer.groups.b.betas must be two numbers, at least 0 and below 1, got 3",
        "optimizer.groups.c.weight_decay must be at least 0, got -1",
        "teacher.optimizer.groups.d.paths must be a list of patterns, got 'head'; try "
        "teacher.optimizer.groups.d.paths=[head]",
        "teacher.optimizer.groups.d has rate, which the optimizer has not; there are: paths",
        "teacher.optimizer.groups.e must be a mapping, got 7",
    ):
        assert text in found.value.problems or any(p.startswith(text) for p in found.value.problems)
    slow = "{paths:[head.*],momentum:0}"
    keys = ["optimizer=sgd", "optimizer.nesterov=true", f"+optimizer.groups.a={slow}"]
    with pytest.raises(ConfigError, match=r"groups\.a\.nesterov needs a momentum and no dampening"):
        check(tiny(*keys))
