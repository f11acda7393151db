"""Weights that follow the epochs."""

import math

import pytest
import torch
from loss_cases import make_objective, make_setting
from torch import nn

from kd_research.losses.objective import Objective
from kd_research.losses.schedules import CosineDecay, Warmup


class Constant(nn.Module):
    needs_teacher = False

    def forward(self, student, teacher, batch):
        return student.logits.sum() * 0 + 1


def test_warmup_is_that_of_dkd():
    """min(epoch / 20, 1), epochs from 1, of 240; the same share of any other number of epochs."""
    weight = Warmup(2.0, epochs=20, of=240)
    for epoch in range(240):
        assert weight(epoch, 240) == pytest.approx(2.0 * min((epoch + 1) / 20, 1.0))
    assert [weight(epoch, 24) for epoch in range(4)] == pytest.approx([1.0, 2.0, 2.0, 2.0])
    assert Warmup(2.0, epochs=4)(0, 240) == 0.5
    assert Warmup(2.0, epochs=0)(0, 240) == 2.0


def test_cosine_decay_ends_near_0():
    weight = CosineDecay(3.0, start=150, of=240)
    assert weight(0, 240) == weight(150, 240) == 3.0
    assert weight(195, 240) == pytest.approx(1.5)
    assert weight(239, 240) == pytest.approx(1.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert weight(10, 24) == weight(100, 240)


def test_a_stage_has_weights_of_its_own():
    setting = make_setting("annealing_kd", overrides=("loss.lambda=3",))
    objective = setting.objective
    assert objective.stages == ("annealed",)
    _, parts = setting.value()
    assert set(parts) == {"ce"}
    assert not objective.asks_teacher
    objective.set_stage("annealed")
    assert objective.asks_teacher
    temperatures = []
    for epoch in range(30):
        objective.set_epoch(epoch, 30)
        temperatures.append(objective.terms["annealing_kd"].temperature)
        total, parts = setting.value()
        assert set(parts) == {"annealing_kd"}
        assert torch.allclose(total, 3 * parts["annealing_kd"])
    assert temperatures == [10 - epoch // 3 for epoch in range(30)]


def test_a_weight_in_a_stage_follows_the_epochs_of_the_stage():
    warmup = Warmup(2.0, epochs=1, of=2)
    stage = {"weights": {"x": warmup}, "ce_weight": 0.5}
    terms = {"x": {"loss": Constant(), "weight": 0.0}, "y": {"loss": Constant(), "weight": 1.0}}
    objective = Objective(terms, 1.0, {"first": stage})
    assert (objective.ce_weight, objective.weights) == (1.0, {"y": 1.0})
    objective.set_stage("first")
    objective.set_epoch(0, 4)
    assert (objective.ce_weight, objective.weights) == (0.5, {"x": 1.0})
    objective.set_epoch(1, 4)
    assert objective.weights == {"x": 2.0}


def test_a_stage_without_terms_does_not_exist():
    terms = {"x": {"loss": Constant(), "weight": 0.0}}
    objective = Objective(terms, 1.0, {"first": {"weights": {"x": 0.0}, "ce_weight": 1.0}})
    assert objective.stages == ()
    assert len(objective.terms) == 0
    with pytest.raises(ValueError, match="the stage first weighs z; there are: x"):
        Objective(terms, 1.0, {"first": {"weights": {"z": 1.0}}})


def test_a_nested_loss_is_told_of_the_epoch():
    objective = make_objective("ctkd")
    strengths = []
    for epoch in (0, 4, 9, 50):
        objective.set_epoch(epoch, 240)
        strengths.append(objective.terms["ctkd"].strength)
    expected = [0.5 * (1 - math.cos(math.pi * share)) for share in (0.1, 0.5, 1.0, 1.0)]
    assert strengths == pytest.approx(expected)


def test_the_learnt_temperature_climbs_the_loss():
    """A step along the reversed gradient makes the loss larger, and the student's smaller."""
    setting = make_setting("ctkd", overrides=("loss.ce_weight=0",))
    objective = setting.objective
    objective.set_epoch(20, 240)
    before, _ = setting.value()
    before.backward()
    theta = objective.terms["ctkd"].theta
    with torch.no_grad():
        theta -= 0.1 * theta.grad.sign()
    after, _ = setting.value()
    assert after > before


def test_weights_must_make_sense():
    def objective(weight, ce_weight):
        return Objective({"x": {"loss": Constant(), "weight": weight}}, ce_weight)

    with pytest.raises(ValueError, match=r"weight of x must be >= 0 and finite, got -1"):
        objective(-1.0, 1.0)
    with pytest.raises(ValueError, match="ce_weight must be >= 0"):
        objective(1.0, float("nan"))
    with pytest.raises(ValueError, match="nothing to minimise in epoch 0"):
        objective(0.0, 0.0)
    assert not objective(1.0, 1.0).needs_teacher
