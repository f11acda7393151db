"""What feature losses ask of activations: how many, of what rank and size, and how they are met.

Shapes: B batch, c channels, h and w height and width, L tokens, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output


class FeatureLoss(Protocol):
    """A loss that looks at layers in pairs, the n-th of the student's with the teacher's n-th."""

    student_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]


def paired(
    student: Sequence[str], teacher: Sequence[str], most: int | None = None
) -> tuple[tuple[str, ...], ...]:
    """Both as tuples.

    Raises:
        ValueError: there are none, or not as many of the one as of the other, or more than `most`.
    """
    if most is not None and max(len(student), len(teacher)) > most:
        raise ValueError(
            f"at most {most} layer of each net, got {[*student]} and {[*teacher]}; "
            "try loss.student_layers=[pool] loss.teacher_layers=[pool]"
        )
    if len(student) != len(teacher) or not student:
        raise ValueError(
            f"student_layers and teacher_layers must pair up, got {[*student]} and {[*teacher]}; "
            "try loss.student_layers=[stages.-1] loss.teacher_layers=[stages.-1]"
        )
    return tuple(student), tuple(teacher)


def pairs_of(loss: FeatureLoss, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
    """The pairs (student's, teacher's) of activations, the teacher's detached."""
    return [
        (student.features[ours], teacher.features[theirs].detach())
        for ours, theirs in zip(loss.student_layers, loss.teacher_layers, strict=True)
    ]


def require_maps(
    loss: FeatureLoss,
    student: Output,
    teacher: Output,
    *,
    positions: int = 1,
    equal_size: bool = False,
    equal_channels: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """The pairs of activations, all of them maps (B, c, h, w).

    Args:
        loss: for its layers, and its class's name in the messages.
        student: outputs for an example batch.
        teacher: outputs for the same batch.
        positions: the fewest h * w that make sense.
        equal_size: whether h and w must be equal in a pair.
        equal_channels: whether c must be.

    Raises:
        ValueError: they are not; one line for each layer or pair, with its shape.
    """
    name = type(loss).__name__
    problems: list[str] = []
    for ours, theirs in zip(loss.student_layers, loss.teacher_layers, strict=True):
        s, t = tuple(student.features[ours].shape), tuple(teacher.features[theirs].shape)
        before = len(problems)
        for who, layer, shape in (("student", ours, s), ("teacher", theirs, t)):
            if len(shape) != 4:
                problems.append(
                    f"{name} needs feature maps (batch, channels, height, width), but the "
                    f"{who}'s layer {layer!r} gives {shape}; try a convolutional {who}, or "
                    f"another loss.{who}_layers"
                )
            elif shape[2] * shape[3] < positions:
                problems.append(
                    f"{name} compares positions, and the {who}'s layer {layer!r} has only "
                    f"{shape[2]} x {shape[3]}: {shape}; try an earlier layer in "
                    f"loss.{who}_layers"
                )
        if len(problems) > before:
            continue
        if equal_size and s[2:] != t[2:]:
            problems.append(
                f"{name} needs maps of one height and width, but the student's {ours!r} is {s} "
                f"and the teacher's {theirs!r} {t}; choose other loss.student_layers"
            )
        if equal_channels and s[1] != t[1]:
            problems.append(
                f"{name} needs equal numbers of channels, but the student's {ours!r} is {s} "
                f"and the teacher's {theirs!r} {t}; choose other layers or student.model.width"
            )
    if problems:
        raise ValueError("\n".join(problems))
    return pairs_of(loss, student, teacher)


def token_mask(feature: Tensor, batch: Batch | None) -> Tensor | None:
    """Which tokens of (B, L, D) count, (B, L) bool: not padding, and learnt; None: no tokens."""
    if batch is None or feature.ndim != 3 or not isinstance(batch.inputs, dict):
        return None
    mask = batch.valid if batch.valid is not None else batch.inputs.get("attention_mask")
    return mask != 0 if mask is not None and mask.shape == feature.shape[:2] else None


def without_padding(feature: Tensor, batch: Batch) -> Tensor:
    """The activation with 0 where a token does not count."""
    mask = token_mask(feature, batch)
    return feature if mask is None else feature * mask.unsqueeze(2)


def pooled_pairs(
    loss: FeatureLoss, student: Output, teacher: Output, batch: Batch | None = None
) -> list[tuple[Tensor, Tensor]]:
    """The pairs of activations, each one vector an example, the teacher's detached."""
    return [
        (pooled(ours, batch), pooled(theirs, batch))
        for ours, theirs in pairs_of(loss, student, teacher)
    ]


def pooled(feature: Tensor, batch: Batch | None = None) -> Tensor:
    """One vector an example: maps averaged over positions, tokens over those that count, (B, D).

    Args:
        feature: (B, D), (B, L, D) or (B, c, h, w).
        batch: says which tokens count; None counts all, which is right for shapes alone.

    Raises:
        ValueError: another rank.
    """
    if feature.ndim == 4:
        return feature.mean(dim=(2, 3))
    if (mask := token_mask(feature, batch)) is not None:
        weight = mask.to(feature.dtype).unsqueeze(2)
        return (feature * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
    if feature.ndim == 3:
        return feature.mean(dim=1)
    if feature.ndim == 2:
        return feature
    raise ValueError(
        f"expected vectors (B, D), tokens (B, L, D) or maps (B, c, h, w), got "
        f"{tuple(feature.shape)}; choose other loss.student_layers and loss.teacher_layers"
    )


def to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width of the two, by average pooling."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return _pool_to(student, size), _pool_to(teacher, size)


def _pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)


def conv1x1(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(channels_in, channels_out, 1, bias=False)


def adapter(student: Tensor, teacher: Tensor) -> nn.Module:
    """A 1x1 convolution to the teacher's channels, or the identity where they are equal."""
    if student.shape[1] == teacher.shape[1]:
        return nn.Identity()
    return nn.Conv2d(student.shape[1], teacher.shape[1], 1)


class VectorNorm(nn.BatchNorm1d):
    """BatchNorm1d that takes a training batch of one, by its running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        if len(rows) > 1 or not self.training:
            return super().forward(rows)
        assert self.running_mean is not None
        assert self.running_var is not None
        return F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def standardized_columns(rows: Tensor, eps: float = 1e-5) -> Tensor:
    """Each column less its mean over the batch, over its (biased) standard deviation, (B, D)."""
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    return (rows - mean) / (variance + eps).sqrt()
