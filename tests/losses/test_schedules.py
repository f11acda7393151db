"""Weights that follow the epochs."""

import math

import pytest
import torch
from loss_cases import make_objective, make_setting
from torch import nn

from kd_research.losses.objective import Objective
from kd_research.losses.schedules import CosineDecay, TwoStage, Warmup


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


def test_two_stages():
    weight = TwoStage(1.0, 0.25, fraction=0.5)
    assert [weight(epoch, 4) for epoch in range(4)] == [1.0, 1.0, 0.25, 0.25]
    with pytest.raises(ValueError, match="fraction must be in"):
        TwoStage(1.0, 0.0, fraction=2)


def test_the_objective_follows_the_epochs():
    setting = make_setting("annealing_kd")
    objective = setting.objective
    seen = []
    for epoch in range(40):
        objective.set_epoch(epoch, 40)
        total, parts = setting.value()
        seen.append((objective.ce_weight, objective.weights["annealing_kd"]))
        expected = sum(
            weight * parts[name]
            for name, weight in (("ce", objective.ce_weight), *objective.weights.items())
            if name in parts
        )
        assert torch.allclose(total, expected)
    assert seen == [(0.0, 1.0)] * 30 + [(1.0, 0.0)] * 10
    loss = objective.terms["annealing_kd"]
    temperatures = []
    for epoch in range(30):
        loss.set_epoch(epoch, 40)
        temperatures.append(loss.temperature)
    assert temperatures == [10 - epoch // 3 for epoch in range(30)]


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
    with pytest.raises(ValueError, match="nothing to minimise in epoch 0"):
        objective(0.0, TwoStage(0.0, 1.0, fraction=0.5))
    assert not objective(1.0, 1.0).needs_teacher
