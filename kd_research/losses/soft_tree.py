"""What a soft decision tree minimises (Frosst, Hinton 2017, arXiv:1711.09784).

Shapes: B batch, C classes, L leaves, counted from left to right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive
from kd_research.losses.gather import gather_batch
from kd_research.losses.logits import check_temperature, full

EPSILON = 1e-12  # of a node's use: below, no example comes there, and nothing can be balanced


def leaf_cross_entropy(paths: Tensor, leaf_logits: Tensor, targets: Tensor) -> Tensor:
    """-sum over leaves of P^l(x) sum over classes of T_k log Q^l_k, mean over the batch.

    The paper's equation (section 2) has a logarithm around the sum over leaves, which is negative:
    left out here, as in every public implementation. Its text has no logarithm.

    Args:
        paths: (B, L), P, each leaf's path probability.
        leaf_logits: (L, C), whose softmax is Q.
        targets: (B, C), T, distributions.

    Returns:
        (), nats.
    """
    return -(targets * (paths @ leaf_logits.log_softmax(dim=1))).sum(dim=1).mean()


class LeafLabels(nn.Module):
    """Every leaf's cross-entropy with the label, weighted by the leaf's path probability.

    Args:
        student_layers: the tree's path probabilities.
    """

    needs_teacher = False

    def __init__(self, student_layers: Sequence[str]):
        super().__init__()
        self.student_layers = tuple(student_layers)
        self._leaves: tuple[nn.Module, ...] = ()  # in a tuple: the student's, not this loss's

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find the tree's leaves."""
        self._leaves = (find_leaves(student),)

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        """`leaf_cross_entropy` with the labels, ()."""
        labels = batch.labels
        rows = labels if labels.ndim == 2 else F.one_hot(labels, student.logits.shape[1])
        return self.against(student, rows)

    def against(self, student: Output, targets: Tensor) -> Tensor:
        """`leaf_cross_entropy` with targets (B, C), ()."""
        paths = student.features[self.student_layers[0]]
        leaf_logits = full(self._leaves[0].get_parameter("leaf_logits"))
        return leaf_cross_entropy(paths, leaf_logits, targets.to(paths))


class LeafTargets(LeafLabels):
    """The same with the teacher's prediction in place of the label.

    Args:
        student_layers: the tree's path probabilities.
        temperature: > 0, of the teacher's softmax.
    """

    needs_teacher = True

    def __init__(self, student_layers: Sequence[str], temperature: Positive):
        super().__init__(student_layers)
        self.temperature = check_temperature(temperature)

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        """`leaf_cross_entropy` with the softened prediction, ()."""
        assert teacher is not None
        logits = full(teacher.logits.detach())
        return self.against(student, F.softmax(logits / self.temperature, dim=1))


class BalancedPaths(nn.Module):
    """The penalty for inner nodes that prefer one of their sub-trees (section 3).

    The sum over inner nodes of 2^-d times the cross-entropy of (1/2, 1/2) with (a, 1 - a), d the
    node's depth and a the share of its examples that go to the right, sum of P^i(x) p_i(x) over
    sum of P^i(x). It is log 2 times a constant at least: that of a tree in balance.

    Shares are running averages over batches, whose window is 2^d batches, or those so far where
    they are fewer. The paper does not say what of an average the gradient reaches: here it is that
    of the penalty at the average, through the batch's own share with weight 1.

    Args:
        student_layers: the tree's path probabilities.
    """

    needs_teacher = False
    shares: Tensor  # (L - 1, 2), left and right, nodes level by level from the root
    num_batches: Tensor

    def __init__(self, student_layers: Sequence[str]):
        super().__init__()
        self.student_layers = tuple(student_layers)

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Make room for the shares of the tree's nodes."""
        leaf_logits = find_leaves(student).get_parameter("leaf_logits")
        shares = leaf_logits.new_zeros(len(leaf_logits) - 1, 2, requires_grad=False)
        self.register_buffer("shares", shares)
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        """The weighted sum over nodes, ()."""
        use = gather_batch(student.features[self.student_layers[0]]).mean(dim=0)
        depth = len(use).bit_length() - 1
        shares, weights = [], []
        for level in range(depth):
            sides = use.view(2**level, 2, -1).sum(dim=2)
            shares.append((sides + EPSILON) / (sides.sum(dim=1, keepdim=True) + 2 * EPSILON))
            weights.append(use.new_full((2**level, 1), 2.0**-level))
        own, weight = torch.cat(shares), torch.cat(weights)
        with torch.no_grad():
            self.num_batches += 1
            rate = torch.maximum(weight, 1 / self.num_batches.to(weight))
            self.shares += rate * (own.to(self.shares) - self.shares)
        average = self.shares.clamp_min(EPSILON).to(own) + (own - own.detach())
        return -(weight * average.log()).sum() / 2


def find_leaves(student: nn.Module) -> nn.Module:
    """The module of a tree that has the leaves' distributions.

    Raises:
        ValueError: the student is no soft tree.
    """
    for module in student.modules():
        if hasattr(module, "leaf_logits"):
            return module
    raise ValueError(
        "the loss soft_tree reads the leaves of a soft decision tree, the student is "
        f"{type(student).__name__}; try student=soft_tree"
    )
