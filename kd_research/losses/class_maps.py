"""Losses on what a net sees of each class: activation maps of classes, heads on early stages.

Shapes: B batch, C classes, c channels, h and w height and width, D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Count, Output
from kd_research.losses.logits import check_logits, class_labels, full
from kd_research.losses.maps import paired, pairs_of, pooled, require_maps
from kd_research.losses.teacher_head import find_head


class ClassAttention(nn.Module):
    """CAT-KD (Guo et al. 2023, CVPR, "Class Attention Transfer Based Knowledge Distillation").

    A class activation map is what the net's linear head, as a 1x1 convolution, makes of the last
    map: (B, C, h, w), whose mean over positions is the logits. Both nets' are averaged to
    `resolution` squared, L2-normalised over their positions, and their mean squared difference is
    taken. The head is the net's own, so that the gradient reaches the student's.

    The authors' configurations leave the normalisation out for some pairs, with other weights.

    Args:
        student_layers: the student's last map.
        teacher_layers: the teacher's last map.
        student_head: path of the student's linear head.
        teacher_head: path of the teacher's.
        resolution: height and width of the compared maps; the paper's 2.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        student_head: str,
        teacher_head: str,
        resolution: Count,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.paths, self.resolution = (student_head, teacher_head), int(resolution)
        self._heads: tuple[nn.Module, ...] = ()  # in a tuple: the nets', never this loss's

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find the heads.

        Raises:
            ValueError: there is none of that path, or it is not linear.
        """
        assert teacher is not None
        keys = ("loss.student_head", "loss.teacher_head")
        self._heads = tuple(
            find_head(net, path, key)
            for net, path, key in zip((student, teacher), self.paths, keys, strict=True)
        )
        for head, path, key in zip(self._heads, self.paths, keys, strict=True):
            if not isinstance(head, nn.Linear):
                raise ValueError(
                    f"ClassAttention needs a linear head, and {key}={path} is a "
                    f"{type(head).__name__}; give the path of the last linear layer"
                )

    def build(self, student: Output, teacher: Output) -> None:
        """See that the heads take the maps.

        Raises:
            ValueError: a head takes another number of channels.
        """
        for maps, head, path in zip(
            require_maps(self, student, teacher)[0], self._heads, self.paths, strict=True
        ):
            if maps.shape[1] != head.in_features:
                raise ValueError(
                    f"ClassAttention: the head {path!r} takes {head.in_features} features, but "
                    f"the map is {tuple(maps.shape)}; choose the last map before the pooling"
                )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over batch, classes and positions, ()."""
        ours, theirs = (
            self._class_maps(maps, head)
            for maps, head in zip(pairs_of(self, student, teacher)[0], self._heads, strict=True)
        )
        return F.mse_loss(ours, theirs.detach())

    def _class_maps(self, maps: Tensor, head: nn.Module) -> Tensor:
        small = F.adaptive_avg_pool2d(maps, self.resolution).flatten(2)
        bias = None if head.bias is None else full(head.bias)  # type: ignore[arg-type]
        seen = F.linear(small.transpose(1, 2), full(head.weight), bias)  # type: ignore[arg-type]
        return F.normalize(seen, dim=1)


class OneForAll(nn.Module):
    """OFA-KD (Hao et al. 2023, arXiv:2310.19444): nets of unlike kinds meet in the logits.

    Each of the student's layers gets a head of its own that gives logits; these and the student's
    own are compared with the teacher's by -sum over classes of ((p_t + onehot)^power - onehot)
    log p_s, summed over heads and student: the label's class weighs the more, the larger `power`.

    A map's head halves it by depthwise separable convolutions down to the size of the smallest of
    the layers, then a 1x1 convolution, the mean and a linear map. Tokens and vectors are pooled
    and go through a linear map alone, where the authors merge patches and add blocks.

    Args:
        student_layers: at least one.
        powers: for each layer and, last, the student's own logits; a single one is for all.
    """

    def __init__(self, student_layers: Sequence[str], powers: Sequence[float] | float):
        super().__init__()
        self.student_layers = tuple(student_layers)
        needed = len(self.student_layers) + 1
        given = [powers] * needed if isinstance(powers, int | float) else [*powers]
        if not self.student_layers or len(given) != needed or min(given) <= 0:
            raise ValueError(
                f"loss.powers must be one number > 0, or {needed}: one for each of "
                f"loss.student_layers={[*student_layers]} and one for the logits, got {powers}; "
                "try loss.powers=1"
            )
        self.powers = tuple(float(power) for power in given)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the heads."""
        classes = student.logits.shape[1]
        features = [student.features[layer] for layer in self.student_layers]
        sides = [feature.shape[2] for feature in features if feature.ndim == 4]
        width = max(feature.shape[1] for feature in features)
        self.heads = nn.ModuleList(
            _map_head(feature, min(sides), width, classes)
            if feature.ndim == 4
            else nn.Linear(pooled(feature).shape[1], classes)
            for feature in features
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over heads and student, mean over the batch, ()."""
        logits = [
            head(feature if feature.ndim == 4 else pooled(feature))
            for head, feature in zip(
                self.heads, (student.features[name] for name in self.student_layers), strict=True
            )
        ]
        own, theirs = check_logits(student.logits, teacher.logits)
        labels = F.one_hot(class_labels(self, batch), theirs.shape[1])
        probabilities = theirs.softmax(dim=1)
        total = own.new_zeros(())
        for each, power in zip([*logits, own], self.powers, strict=True):
            targets = (probabilities + labels) ** power - labels
            total = total - (targets * each.log_softmax(dim=1)).sum(dim=1).mean()
        return total


def _map_head(maps: Tensor, side: int, width: int, classes: int) -> nn.Sequential:
    channels = maps.shape[1]
    halvings = max(0, round(math.log2(maps.shape[2] / side)))
    return nn.Sequential(
        *(_halving(channels) for _ in range(halvings)),
        nn.Conv2d(channels, width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def _halving(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
