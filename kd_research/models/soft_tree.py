"""Soft decision trees (Frosst, Hinton 2017, arXiv:1711.09784)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PREDICTIONS = ("leaf", "average")


class Paths(nn.Module):
    """The inner nodes: from an example to the probability with which it arrives at each leaf.

    Node i sends it to the right with p_i = sigmoid(inverse_temperature * (x w_i + b_i)). Nodes are
    counted level by level from the root, leaves from left to right.
    """

    def __init__(self, num_inputs: int, depth: int, inverse_temperature: float):
        super().__init__()
        self.depth, self.inverse_temperature = depth, inverse_temperature
        self.filters = nn.Linear(num_inputs, 2**depth - 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, num_inputs) -> probabilities (B, 2^depth), whose sum is 1."""
        right = self.inverse_temperature * self.filters(inputs)
        paths = torch.ones_like(right[:, :1])
        for level in range(self.depth):
            gates = right[:, 2**level - 1 : 2 ** (level + 1) - 1]
            sides = torch.stack((torch.sigmoid(-gates), torch.sigmoid(gates)), dim=2)
            paths = (paths.unsqueeze(2) * sides).flatten(1)
        return paths


class Leaves(nn.Module):
    """The leaves: each has one distribution over the classes, whatever the example."""

    def __init__(self, num_leaves: int, num_classes: int, prediction: str):
        super().__init__()
        self.prediction = prediction
        self.leaf_logits = nn.Parameter(torch.randn(num_leaves, num_classes))

    def forward(self, paths: Tensor) -> Tensor:
        """Path probabilities (B, 2^depth) -> the logarithm of the prediction, (B, C)."""
        if self.prediction == "leaf" and not self.training:
            return self.leaf_logits.log_softmax(dim=1)[paths.argmax(dim=1)].to(paths.dtype)
        probabilities = paths @ self.leaf_logits.softmax(dim=1)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


class SoftTree(nn.Module):
    """A binary tree of soft decisions on the input, with a fixed distribution in each leaf.

    The paper predicts in two ways (section 2): by the leaf with the greatest path probability,
    whose path explains the prediction, or by the average over leaves. The first has no gradient
    by which the decisions learn, so that in training the logits are always the average's. The
    paper's own objective, `loss=soft_tree`, reads the paths and the leaves, not the logits.

    Layers: `pool` (B, 2^depth), the path probabilities, which is what the head sees and has that
    name in all families, `head` (B, C), logarithms of probabilities.

    Args:
        input_shape: of one example; flattened.
        num_classes: C.
        depth: number of decisions on a path; 2^depth leaves, 2^depth - 1 inner nodes.
        inverse_temperature: > 0, the paper's beta, on every inner node.
        prediction: "leaf" or "average", of the net in eval mode.

    Raises:
        ValueError: one of these is outside its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        depth: int = 8,
        inverse_temperature: float = 1.0,
        prediction: str = "leaf",
    ):
        super().__init__()
        if not 1 <= depth <= 16 or num_classes < 2 or not inverse_temperature > 0:
            raise ValueError(
                "a soft tree needs depth from 1 to 16, num_classes >= 2, inverse_temperature > 0, "
                f"got depth={depth}, num_classes={num_classes}, "
                f"inverse_temperature={inverse_temperature}"
            )
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"model.prediction must be {' or '.join(PREDICTIONS)}, got {prediction!r}; try leaf"
            )
        self.flatten = nn.Flatten()
        self.pool = Paths(math.prod(input_shape), depth, inverse_temperature)
        self.head = Leaves(2**depth, num_classes, prediction)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *input_shape) -> logits (B, C)."""
        logits: Tensor = self.head(self.pool(self.flatten(inputs)))
        return logits
