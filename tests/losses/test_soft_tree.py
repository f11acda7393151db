"""The soft tree's objective over many batches, where it is least, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import tree_references as references
from loss_cases import Net, make_objective
from torch import Tensor

from kd_research.interfaces import Batch, Output
from kd_research.losses.soft_tree import BalancedPaths, LeafLabels, LeafTargets
from kd_research.models.capture import Capture
from kd_research.models.soft_tree import SoftTree

DEPTH = 3
LAYERS = ["pool"]


def make_tree(depth: int = DEPTH) -> SoftTree:
    torch.manual_seed(0)
    return SoftTree([6], 4, depth, inverse_temperature=0.7).double()


def batch_of(size: int = 5) -> Batch:
    inputs = torch.randn(size, 6, dtype=torch.float64)
    return Batch(inputs, torch.arange(size) % 4, torch.arange(size))


def penalty_of(loss: BalancedPaths, tree: SoftTree, batch: Batch) -> Tensor:
    return loss(Capture(tree, LAYERS)(batch.inputs), None, batch)


def balanced(tree: SoftTree) -> BalancedPaths:
    loss = BalancedPaths(LAYERS)
    loss.bind(tree, None)
    return loss


def test_leaves_learn_from_label_and_teacher_by_enumeration() -> None:
    tree, batch = make_tree(), batch_of()
    teacher = Output(3 * torch.randn(5, 4, dtype=torch.float64), {})
    output = Capture(tree, LAYERS)(batch.inputs)
    for loss, target_of in (
        (LeafLabels(LAYERS), lambda row: [float(k == batch.labels[row]) for k in range(4)]),
        (
            LeafTargets(LAYERS, 2.0),
            lambda row: references.softmax([z / 2 for z in teacher.logits[row].tolist()]),
        ),
    ):
        loss.bind(tree, None)
        values = [
            references.cross_entropy(tree, example, target_of(row))
            for row, example in enumerate(batch.inputs)
        ]
        assert loss(output, teacher, batch).item() == pytest.approx(sum(values) / 5, rel=1e-12)


def test_shares_are_averages_over_a_window_that_doubles_with_depth() -> None:
    tree = make_tree()
    loss, averages = balanced(tree), [0.0] * 7
    for step in range(1, 8):
        batch = batch_of()
        found = references.shares(tree, batch.inputs)
        for node, (depth, share) in enumerate(found):
            window = min(2**depth, step)
            averages[node] += (share - averages[node]) / window
        expected = references.penalty([(d, a) for (d, _), a in zip(found, averages, strict=True)])
        assert penalty_of(loss, tree, batch).item() == pytest.approx(expected, rel=1e-10)


def test_the_gradient_is_that_at_the_average() -> None:
    """By central differences of the penalty's tangent, along a random direction."""
    tree = make_tree()
    loss, batch = balanced(tree), batch_of()
    for _ in range(4):
        penalty_of(loss, tree, batch_of())
    penalty_of(loss, tree, batch).backward()
    average = loss.shares.tolist()
    direction = [torch.randn_like(p) for p in tree.pool.parameters()]
    gradients = [p.grad for p in tree.pool.parameters() if p.grad is not None]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))

    def tangent(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(tree.pool.parameters(), direction, strict=True):
                p += step * d
        found = references.shares(tree, batch.inputs)
        return sum(
            -(2.0**-depth) / 2 * ((1 - share) / left + share / right)
            for (depth, share), (left, right) in zip(found, average, strict=True)
        )

    above, below = tangent(1e-5), tangent(-2e-5)
    assert slope == pytest.approx((above - below) / 2e-5, rel=1e-6)


def test_a_tree_in_balance_pays_least() -> None:
    tree = make_tree()
    uneven = penalty_of(balanced(tree), tree, batch_of()).item()
    with torch.no_grad():
        for parameter in tree.pool.parameters():
            parameter.zero_()
    even = penalty_of(balanced(tree), tree, batch_of()).item()
    assert even == pytest.approx(DEPTH * math.log(2))
    assert uneven > even


def test_a_node_without_examples_stays_finite() -> None:
    tree = make_tree()
    with torch.no_grad():
        tree.pool.filters.bias.fill_(1e4)
    total = penalty_of(balanced(tree), tree, batch_of())
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tree.parameters())


def test_labels_alone_ask_no_teacher() -> None:
    objective = make_objective("soft_tree", "loss.lambda=0")
    assert set(objective.terms) == {"labels", "balance"}
    assert not objective.needs_teacher
    assert set(make_objective("soft_tree", "loss.lambda=1").terms) == {"soft_tree", "balance"}


@pytest.mark.parametrize("loss", [BalancedPaths(LAYERS), LeafLabels(LAYERS)])
def test_another_student_is_refused(loss: LeafLabels | BalancedPaths) -> None:
    with pytest.raises(ValueError, match=r"the student is Net; try student=soft_tree"):
        loss.bind(Net(4, 5), None)
