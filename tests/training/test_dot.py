"""Distillation-oriented training: two momenta, and the gradient split that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Compose, plain
from torch import nn

from kd_research.training.dot import DOT
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, given: Any) -> list[list[float]]:
    """Three steps with the gradients of labels and rest in `given`."""
    path = []
    for labels, rest in given:
        weight.grad = labels + rest
        if isinstance(optimizer, DOT):
            optimizer.take_label_gradients([labels], [True])
        optimizer.step()
        path.append(weight.tolist())
    return path


def test_the_labels_are_forgotten_sooner() -> None:
    given = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).unbind()
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))
    path = steps(
        DOT([weight], lr=0.1, momentum=0.8, difference=0.1, weight_decay=0.01), weight, given
    )
    at, of_labels, of_rest = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.zeros(4), torch.zeros(4)
    for (labels, rest), found in zip(given, path, strict=True):
        of_labels = 0.7 * of_labels + labels + 0.01 * at
        of_rest = 0.9 * of_rest + rest
        at = at - 0.1 * (of_labels + of_rest)
        assert found == pytest.approx(at.tolist(), rel=1e-5)


def test_without_difference_it_is_sgd() -> None:
    given = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)).unbind()
    paths = []
    for make in (
        lambda w: DOT([w], lr=0.1, momentum=0.9, difference=0.0, weight_decay=0.01),
        lambda w: torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01),
    ):
        weight = nn.Parameter(torch.ones(4))
        paths.append(steps(make(weight), weight, given))
    for ours, theirs in zip(*paths, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("moved_by", ["the terms", "the labels"])
def test_what_one_of_the_two_moves_alone_has_the_middle_momentum(moved_by: str) -> None:
    """m + d would make the last step under a constant gradient 40 lr, the authors' is 10 lr."""
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = DOT([weight], lr=0.1, momentum=0.9, difference=0.075)
    path = [0.0]
    for _ in range(500):
        weight.grad = torch.ones(3, dtype=torch.float64)
        labels = [None] if moved_by == "the terms" else [weight.grad.clone()]
        optimizer.take_label_gradients(labels, [moved_by == "the terms"])
        optimizer.step()
        path.append(weight[0].item())
    assert path[-2] - path[-1] == pytest.approx(10 * 0.1)


def test_a_fit_tells_it_what_moves_a_connector_and_what_the_head(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[bool], list[bool]]] = []
    take = DOT.take_label_gradients

    def watch(self: DOT, gradients: Any, distilled: Any) -> None:
        seen.append(([each is not None for each in gradients], list(distilled)))
        take(self, gradients, distilled)

    monkeypatch.setattr(DOT, "take_label_gradients", watch)
    layers = ["loss.student_layers=[stages.0]", "loss.teacher_layers=[stages.0]"]
    student = ("student=cnn", "student.model.width=4", "student.model.depth=1")
    record = run(tiny("optimizer=dot", "loss=fitnet", *student, *layers), tmp_path)
    assert record.status == "completed", record.error
    labelled, distilled = seen[0]
    kinds = set(zip(labelled, distilled, strict=True))
    assert kinds == {(True, True), (True, False), (False, True)}  # stages, head, regressor
    assert all(each == seen[0] for each in seen)


def test_values_outside_their_range() -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 0.9 -\+ 0.2"):
        DOT([weight], lr=0.1, difference=0.2)
    with pytest.raises(ValueError, match="lr > 0"):
        DOT([weight], lr=0.0)
    weight.grad = torch.ones(1)
    with pytest.raises(RuntimeError, match="take_label_gradients"):
        DOT([weight], lr=0.1).step()


def test_a_fit_with_it_splits_the_gradient(tiny: Compose, tmp_path: Path) -> None:
    """With equal momenta, the fit is SGD's; with two, another one."""
    settings = ("optimizer.lr=0.05", "optimizer.weight_decay=0", "loss=dkd")
    weights = []
    for name, *more in (("sgd",), ("dot", "optimizer.difference=0"), ("dot",)):
        config = tiny(*settings, f"optimizer={name}", *more)
        folder = tmp_path / "-".join([name, *more])
        record = run(config, folder)
        assert record.status == "completed", record.error
        weights.append(torch.load(folder / "weights.pt", weights_only=True)["head.weight"])
    assert torch.allclose(weights[0], weights[1], atol=1e-3)
    assert not torch.allclose(weights[0], weights[2], atol=1e-2)


def test_clipping_would_mix_the_gradients(tiny: Compose, tmp_path: Path) -> None:
    record = run(tiny("optimizer=dot", "trainer.gradient_clip_val=1"), tmp_path)
    assert record.status == "failed"
    assert "trainer.gradient_clip_val=null" in str(record.error)


def test_labels_without_weight_have_no_gradient(tiny: Compose) -> None:
    parts = Parts(plain(tiny("optimizer=dot", "loss=logit_mse")))
    example = parts.example(4)
    student = parts.module._student(example.inputs)
    labels, rest, _ = parts.module.objective.apart(
        student, parts.module.run_teacher(example.inputs), example
    )
    assert labels.item() == 0
    assert rest is not None
    assert rest.item() > 0
