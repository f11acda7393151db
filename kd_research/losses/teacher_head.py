"""Losses that use the teacher's head: SRRL while training, SimKD for good.

Shapes: B batch, c channels, h and w height and width, D width of a vector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Count, Output
from kd_research.losses.maps import (
    VectorNorm,
    paired,
    pairs_of,
    pooled,
    pooled_pairs,
    require_maps,
    to_smaller,
)


class SoftmaxRegression(nn.Module):
    """SRRL (Yang et al. 2021, ICLR, "Softmax Regression Representation Learning").

    The mean squared difference of the teacher's pooled feature and the student's, connected by a
    linear map, BatchNorm and ReLU, plus `logit_weight` times that of the teacher's logits and
    what the teacher's head makes of the connected feature.

    Args:
        student_layers: one layer, whose pooled activation is the representation.
        teacher_layers: one layer, whose pooled activation the teacher's head takes.
        teacher_head: path of the teacher's head.
        logit_weight: 1 in SimKD's scripts; cls_KD uses 5.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        teacher_head: str,
        logit_weight: float,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.teacher_head = teacher_head
        self.logit_weight = float(logit_weight)
        self._head: tuple[nn.Module, ...] = ()  # in a tuple: the teacher's, never this loss's

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find the teacher's head."""
        assert teacher is not None
        self._head = (find_head(teacher, self.teacher_head, "loss.teacher_head"),)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the connector.

        Raises:
            ValueError: the head does not take the teacher's pooled activation.
        """
        ((ours, theirs),) = pooled_pairs(self, student, teacher)
        check_head(self._head[0], self.teacher_layers[0], theirs, self.teacher_head)
        self.connector = nn.Sequential(
            nn.Linear(ours.shape[1], theirs.shape[1], bias=False),
            VectorNorm(theirs.shape[1]),
            nn.ReLU(),
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two squared errors, weighted, means over all entries, ()."""
        ((ours, theirs),) = pooled_pairs(self, student, teacher, batch)
        connected = self.connector(ours)
        logits = self._head[0](connected)
        return F.mse_loss(connected, theirs) + self.logit_weight * F.mse_loss(
            logits, teacher.logits.detach()
        )


class ReusedClassifier(nn.Module):
    """SimKD (Chen et al. 2022, arXiv:2203.14001).

    The mean squared difference of the teacher's last map and the student's, projected by 1x1, 3x3
    and 1x1 convolutions with BatchNorm and ReLU. The student classifies by the projector and the
    teacher's frozen head: `build` puts the projector before the student's pooling and a copy of
    the teacher's head in place of its own, so that evaluation, size, saved weights and export are
    those of the student as it is used. There is no other term in the paper.

    A run's folder cannot give such a student to another run as its teacher: its architecture is
    no longer the model's.

    Args:
        student_layers: the student's last map.
        teacher_layers: the teacher's last map.
        student_pool: path of the module that pools the student's map to (B, D).
        student_head: path of the student's head; replaced.
        teacher_head: path of the teacher's head; copied.
        reduction: the projector's inner channels are the teacher's over this; the paper's 2.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        student_pool: str,
        student_head: str,
        teacher_head: str,
        reduction: Count,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.paths = (student_pool, student_head, teacher_head)
        self.reduction = int(reduction)
        self._nets: tuple[nn.Module, ...] = ()  # in a tuple: never registered with the loss
        self._pool_takes: Callable[[], tuple[int, ...]]
        self._projected: Callable[[], Tensor]

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """See that the modules to be joined exist."""
        assert teacher is not None
        student_pool, student_head, teacher_head = self.paths
        pool = find_head(student, student_pool, "loss.student_pool")
        find_head(student, student_head, "loss.student_head")
        find_head(teacher, teacher_head, "loss.teacher_head")
        self._nets = (student, teacher)
        fed: list[tuple[int, ...]] = []
        watch = pool.register_forward_pre_hook(lambda _, inputs: fed.append((*inputs[0].shape,)))

        def pool_takes() -> tuple[int, ...]:
            watch.remove()
            return fed[-1]

        self._pool_takes = pool_takes

    def build(self, student: Output, teacher: Output) -> None:
        """Put the projector and the teacher's head into the student.

        Raises:
            ValueError: the student's layer is not what its pooling takes.
        """
        ((ours, theirs),) = require_maps(self, student, teacher)
        taken = self._pool_takes()
        if taken != tuple(ours.shape):
            raise ValueError(
                f"ReusedClassifier puts its projector before the student's {self.paths[0]!r}, "
                f"which takes {taken}, but its layer {self.student_layers[0]!r} gives "
                f"{tuple(ours.shape)}; try the layer before {self.paths[0]!r} in "
                "loss.student_layers"
            )
        student_net, teacher_net = self._nets
        student_pool, student_head, teacher_head = self.paths
        head = copy.deepcopy(teacher_net.get_submodule(teacher_head)).requires_grad_(False)
        check_head(head, self.teacher_layers[0], pooled(theirs), teacher_head)
        width = theirs.shape[1]
        inner = max(width // self.reduction, 1)
        size = tuple(to_smaller(ours, theirs)[0].shape[2:])
        projector = nn.Sequential(
            nn.Identity() if ours.shape[2:] == size else nn.AdaptiveAvgPool2d(size),
            *_convolution(ours.shape[1], inner, 1),
            *_convolution(inner, inner, 3),
            *_convolution(inner, width, 1),
        )

        # Kept in a closure: with the graph in an attribute, neither net nor loss could be copied.
        latest: list[Tensor] = []

        def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
            if torch.is_grad_enabled():  # training; not evaluation, nor export
                latest[:] = [output]

        projector.register_forward_hook(keep)
        self._projected = lambda: latest[0]
        pool = student_net.get_submodule(student_pool)
        student_net.set_submodule(student_pool, nn.Sequential(projector, pool))
        student_net.set_submodule(student_head, head)
        self._nets = ()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over all entries, (); of the batch that the student saw last."""
        ((_, theirs),) = pairs_of(self, student, teacher)
        projected, theirs = to_smaller(self._projected().float(), theirs)
        return F.mse_loss(projected, theirs)


def _convolution(channels_in: int, channels_out: int, kernel: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


def find_head(module: nn.Module, path: str, key: str) -> nn.Module:
    """The submodule of that path.

    Raises:
        ValueError: there is none.
    """
    known: dict[str, nn.Module] = dict(module.named_modules())
    if path not in known:
        names = ", ".join(name for name in known if name)
        raise ValueError(f"no layer {path!r} for {key}; there are: {names}")
    return known[path]


def check_head(head: nn.Module, layer: str, feature: Tensor, path: str) -> None:
    """See that a teacher's head takes the teacher's feature.

    Raises:
        ValueError: it is linear and of another width.
    """
    if isinstance(head, nn.Linear) and head.in_features != feature.shape[1]:
        raise ValueError(
            f"the teacher's head {path!r} takes {head.in_features} features, but its layer "
            f"{layer!r}, pooled, gives {tuple(feature.shape)}; choose another loss.teacher_layers"
        )
