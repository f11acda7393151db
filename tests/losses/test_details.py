"""What single methods promise beyond the properties of all."""

import copy
import math

import pytest
import torch
from loss_cases import make_batch, make_objective, make_setting

from kd_research.interfaces import Output
from kd_research.losses.contrast import draw_others
from kd_research.losses.overhaul import negative_mean
from kd_research.losses.singular import right_singular
from kd_research.losses.target_class import DecoupledKD, without_class


def test_soft_targets_are_decoupled_exactly():
    """KL = TCKD + (1 - p_teacher(label)) NCKD (Zhao et al. 2022, equation 6)."""
    student, teacher = torch.randn(2, 1, 7).unbind()
    batch = make_batch(1, 7, 0)
    outputs = Output(student, {}), Output(teacher, {})
    share = 1 - (teacher / 2).softmax(dim=1)[0, batch.labels[0]].item()
    whole = make_objective("tf_kd_self", "loss.temperature=2", "loss.lambda=1")(*outputs, batch)[0]
    parts = DecoupledKD(2.0, target_weight=1.0, non_target_weight=share)(*outputs, batch)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)


def test_confident_students_do_not_make_dkd_infinite():
    """mdistiller's log(softmax) is infinite from a gap of about 100 on."""
    logits = torch.zeros(1, 5)
    logits[0, 0] = 300.0
    logits.requires_grad_()
    batch = make_batch(1, 5, 0)._replace(labels=torch.tensor([3]))
    teacher = Output(torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]), {})
    loss = DecoupledKD(1.0, 1.0, 8.0)(Output(logits, {}), teacher, batch)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad.isfinite().all()
    assert loss.item() > 100


def test_without_class_keeps_the_order():
    rows = torch.arange(12.0).reshape(3, 4)
    expected = [[1, 2, 3], [4, 6, 7], [8, 9, 10]]
    assert without_class(rows, torch.tensor([0, 1, 3])).tolist() == expected


def test_draws_are_uniform_over_the_others_and_new_each_step():
    index = torch.tensor([0, 4, 9])
    draws = draw_others(index, 20_000, 10, torch.tensor(3))
    assert not (draws == index[:, None]).any()
    counts = torch.stack([row.bincount(minlength=10) for row in draws])
    counts = counts[counts > 0].reshape(3, 9)
    chi_square = ((counts - 20_000 / 9) ** 2 / (20_000 / 9)).sum(dim=1)
    assert (chi_square < 27).all()  # 8 degrees of freedom: 1 in 1400
    again = draw_others(index, 20_000, 10, torch.tensor(4))
    assert (draws == again).float().mean() == pytest.approx(1 / 9, abs=0.01)
    assert torch.equal(draws[1:2], draw_others(index[1:2], 20_000, 10, torch.tensor(3)))


def test_crd_learns_to_tell_examples_apart_and_remembers_them():
    setting = make_setting("crd", size=12, overrides=("loss.temperature=0.5",))
    loss = setting.objective.terms["crd"]
    before = loss.student_memory.clone()
    optimizer = torch.optim.Adam(setting.parameters(), lr=0.01)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        setting.look()
        total, parts = setting.value()
        total.backward()
        optimizer.step()
        values.append(parts["crd"].item())
    assert values[-1] < 0.85 * values[0]
    moved = (loss.student_memory != before).any(dim=1).nonzero()[:, 0]
    assert moved.tolist() == sorted(setting.batch.index.tolist())
    assert torch.allclose(loss.student_memory.norm(dim=1), torch.ones(48), atol=1e-5)
    assert torch.equal(loss.classes[setting.batch.index], setting.batch.labels)
    assert loss.step == 30


def test_negatives_of_the_anchors_class_do_not_count():
    setting = make_setting("crd")
    loss = setting.objective.terms["crd"]
    setting.value()
    state = copy.deepcopy(loss.state_dict())
    values = []
    for known in (setting.batch.labels[0], -1):
        loss.load_state_dict(state)
        loss.classes.fill_(known)
        values.append(setting.part(slice(1)).value()[1]["crd"].item())
    assert values[0] < 0.9 * values[1]  # the positive alone


def test_margin_is_the_mean_of_the_negative_half():
    norm = torch.nn.BatchNorm2d(4)
    norm.weight.data = torch.tensor([1.0, -2.0, 0.5, 0.1])
    norm.bias.data = torch.tensor([0.0, 1.0, -1.0, 1.0])
    samples = norm.bias + norm.weight * torch.randn(400_000, 4)
    expected = [column[column < 0].mean().item() for column in samples.T[:3]]
    assert negative_mean(norm)[:3].tolist() == pytest.approx(expected, abs=0.02)
    assert negative_mean(norm)[3].item() == pytest.approx(-0.3)  # never negative: -3 deviations


def test_a_boundary_that_is_met_by_the_margin_costs_nothing():
    setting = make_setting("ab")
    loss = setting.objective.terms["ab"]
    loss.connectors = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))
    sides = {name: 1.5 * value.sign() for name, value in setting.teacher.features.items()}
    teacher = setting.teacher._replace(features=sides)
    met = setting.student._replace(features=sides)
    assert loss(met, teacher, setting.batch).item() == 0.0
    missed = setting.student._replace(features={name: -value for name, value in sides.items()})
    entries = [value[0].numel() for value in sides.values()]
    expected = 0.003 * 2.5**2 * (entries[0] / 2 + entries[1])
    assert loss(missed, teacher, setting.batch).item() == pytest.approx(expected, rel=1e-4)


def test_class_maps_average_to_the_logits():
    setting = make_setting("cat_kd")
    loss = setting.objective.terms["cat_kd"]
    maps, head = setting.student.features["stages.-1"], setting.student_module.head
    seen = torch.nn.functional.linear(maps.flatten(2).transpose(1, 2), head.weight, head.bias)
    assert torch.allclose(seen.mean(dim=1), setting.student.logits, atol=1e-5)
    assert loss._class_maps(maps, head).shape == (6, 4, 5)


def test_the_label_weighs_the_more_the_larger_the_power():
    values = []
    for power in (1.0, 1.5, 2.0):
        setting = make_setting("ofa", overrides=(f"loss.powers=[1,1,{power}]",))
        right = torch.nn.functional.one_hot(setting.batch.labels, 5).float()
        student = setting.student._replace(logits=(20 * right).requires_grad_())
        teacher = setting.teacher._replace(logits=torch.zeros(6, 5))
        setting.objective(student, teacher, setting.batch)[0].backward()
        values.append(student.logits.grad[right.bool()].mean().item())
    assert values[0] > values[1] > values[2], "the push up on the label's logit"


def test_simkd_is_the_student_as_it_is_used():
    setting = make_setting("simkd")
    student, teacher = setting.student_module, setting.teacher_module
    own = sum(p.numel() for p in student.stages.parameters())
    head = sum(p.numel() for p in teacher.head.parameters())
    projector = sum(p.numel() for p in student.pool.parameters())
    assert sum(p.numel() for p in student.parameters()) == own + head + projector
    assert projector > 0
    assert torch.equal(student.head.weight, teacher.head.weight)
    assert student.head.weight is not teacher.head.weight
    assert not any(p.requires_grad for p in student.head.parameters())
    assert len(list(setting.objective.parameters())) == 0  # no part is counted twice
    setting.value()[0].backward()
    assert student.head.weight.grad is None
    assert student.stages[0].conv.weight.grad.abs().sum() > 0
    inputs = setting.batch.inputs
    copied = copy.deepcopy(student).eval()
    expected = student.eval()(inputs)
    assert torch.equal(copied(inputs), expected)
    exported = torch.export.export(copied, (inputs,)).module()
    assert torch.allclose(exported(inputs), expected, atol=1e-5)


def test_mutual_learning_teaches_both():
    setting = make_setting("dml")
    peer = setting.objective.terms["dml"].peer
    optimizer = torch.optim.Adam(setting.parameters(), lr=0.01)
    agreements, ces = [], []
    for _ in range(80):
        optimizer.zero_grad()
        setting.look()
        total, parts = setting.value()
        total.backward()
        optimizer.step()
        same = setting.student.logits.argmax(dim=1) == peer(setting.batch.inputs).argmax(dim=1)
        agreements.append(same.float().mean().item())
        ces.append(parts["ce"].item())
    assert agreements[-1] == 1.0
    assert ces[-1] < 0.1 * ces[0]


def test_weight_norm_follows_the_weights():
    setting = make_setting("prob_mse", overrides=("loss.lambda=1",))
    _, parts = setting.value()
    with torch.no_grad():
        for parameter in setting.student_module.parameters():
            parameter *= 2
    doubled = setting.value()[1]["weight_norm"].item()
    assert doubled == pytest.approx(2 * parts["weight_norm"].item())


def test_the_derivative_of_singular_vectors_is_that_of_differences():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    aims = torch.randn(2, 3, 2, dtype=torch.float64)

    def value(x):
        found, _ = right_singular(x, 2)
        return (found.detach() * aims).sign() * found * aims

    given = maps.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(given).sum(), given)
    step = torch.zeros_like(maps)
    step[1, 2, 0, 3] = 1e-6
    change = (value(maps + step) - value(maps - step)).sum() / 2e-6
    torch.testing.assert_close(gradient[1, 2, 0, 3], change, rtol=1e-4, atol=1e-6)


def test_dead_channels_leave_the_derivative_of_singular_vectors_finite():
    maps = torch.zeros(2, 4, 3, 3)
    maps[:, 0] = torch.rand(2, 3, 3)
    maps.requires_grad_()
    found, _ = right_singular(maps, 3)
    found.sum().backward()
    assert maps.grad is not None
    assert bool(maps.grad.isfinite().all())
