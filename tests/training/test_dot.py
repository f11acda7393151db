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
            optimizer.take_label_gradients([labels])
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
    student = parts.module._student(parts.example(4).inputs)
    term = parts.module.objective.label_term(student, parts.example(4))
    assert term.item() == 0
