"""What self-supervision knows of a net: how it sees views of one image beside other images.

Shapes: B batch (of all processes together), C classes, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, NotNegative, Output, Positive, Share
from kd_research.losses.gather import gather_batch
from kd_research.losses.logits import class_labels, full, soft_target_loss
from kd_research.losses.maps import paired, pooled

VIEWS = 3  # of an image: a quarter, a half and three quarters of a turn


class SelfSupervised(nn.Module):
    """SSKD (Xu, Liu, Li, Loy 2020, arXiv:2006.07114), without the labels' cross-entropy.

    Each image is turned by 90, 180 and 270 degrees. A head on each net's pooled feature, two
    linear maps with a ReLU between them, embeds images and views; the cosines of each view with
    all images of the batch are its similarities. In a stage before, the teacher's head alone
    learns, to find a view's own image among them (cross-entropy). Then the loss is the sum of

    * `kd_weight` T^2 KL of the images' logits,
    * `view_weight` T^2 KL of the views' logits, by the views that the teacher ranks best,
    * `similarity_weight` t^2 KL of the softmaxes of similarities / t, by the same rule.

    The teacher's errors are ranked by how many wrong classes, or images, it puts before the right
    one (section 3.3); of those that it gets wrong the best `view_share` and `similarity_share`
    count. Equal ranks are ordered by the right one's probability, where the authors' code has the
    order of the batch.

    The three views go through the nets as a batch of their own, each cropped as its image is.

    Args:
        student_layers: one layer, pooled to a vector.
        teacher_layers: one layer, pooled to a vector.
        temperature: T.
        similarity_temperature: t.
        kd_weight: of the images' soft targets.
        view_weight: of the views'.
        similarity_weight: of the similarities.
        view_share: of the views that the teacher gets wrong.
        similarity_share: of those whose image it does not find.
    """

    compares_examples = True
    runs_teacher = True  # on the views, which are in no cache

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        temperature: Positive,
        similarity_temperature: Positive,
        kd_weight: NotNegative,
        view_weight: NotNegative,
        similarity_weight: NotNegative,
        view_share: Share,
        similarity_share: Share,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.temperature, self.similarity_temperature = temperature, similarity_temperature
        self.kd_weight, self.view_weight = kd_weight, view_weight
        self.similarity_weight = similarity_weight
        self.view_share, self.similarity_share = view_share, similarity_share
        self.set_stage(None)

    def set_stage(self, stage: str | None) -> None:
        """In any stage before the training itself the teacher's head learns."""
        self._makes_head = stage is not None

    def bind(self, student: nn.Module, teacher: nn.Module) -> None:
        """Remember the nets, which the views go through."""
        ours, theirs = self.student_layers[0], self.teacher_layers[0]
        self._nets = (_Watched(student, ours), _Watched(teacher, theirs))

    def build(self, student: Output, teacher: Output) -> None:
        """Make the heads."""
        ours, theirs = self._features(student, teacher)
        self.student_head, self.teacher_head = _head(ours.shape[1]), _head(theirs.shape[1])

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The weighted sum, or in a stage before the cross-entropy of the teacher's head, ().

        Raises:
            ValueError: the inputs are no square images.
        """
        views = _turned(batch.inputs)
        see_student, see_teacher = self._nets
        our_layer, their_layer = self.student_layers[0], self.teacher_layers[0]
        our_images, their_images = self._features(student, teacher)
        with torch.no_grad():
            told = see_teacher(views)
        theirs = _similarities(self.teacher_head, their_images, told.features[their_layer])
        own = torch.arange(theirs.shape[1], device=theirs.device).repeat_interleave(VIEWS)
        if self._makes_head:
            return F.cross_entropy(theirs, own)
        theirs = theirs.detach()
        labels = gather_batch(class_labels(self, batch)).repeat_interleave(VIEWS)
        seen = see_student(views)
        ours = _similarities(self.student_head, our_images, seen.features[our_layer])
        our_views, their_views = (_by_image(full(each.logits)) for each in (seen, told))
        t, share = self.similarity_temperature, self.similarity_share
        images = soft_target_loss(student.logits, teacher.logits, self.temperature)
        turned = _of_the_best(our_views, their_views, labels, self.temperature, self.view_share)
        similar = _of_the_best(ours, theirs, own, t, share)
        weighted: Tensor = self.kd_weight * images + self.view_weight * turned
        return weighted + self.similarity_weight * similar

    def _features(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Of the images themselves, as vectors; the teacher's without gradient."""
        ours, theirs = student.features, teacher.features
        return (
            pooled(ours[self.student_layers[0]]),
            pooled(theirs[self.teacher_layers[0]].detach()),
        )


class _Watched:
    """A net, called with what one of its layers gives; not a part of the loss."""

    def __init__(self, net: nn.Module, layer: str):
        self.net, self.layer = net, layer
        module = net
        for part in layer.split("."):  # a negative number counts from the end
            children = dict(module.named_children())
            module = list(children.values())[int(part)] if part[0] == "-" else children[part]
        self._watches, self._seen = False, list[Tensor]()
        module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: object, output: Tensor) -> None:
        if self._watches:  # else the net is called by others, for themselves
            self._seen.append(output)

    def __call__(self, inputs: Tensor) -> Output:
        self._watches = True
        logits = self.net(inputs)
        self._watches = False
        return Output(logits, {self.layer: self._seen.pop()})


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _turned(inputs: object) -> Tensor:
    """The views of (B, c, h, h) images, (3 B, c, h, h), those of an image together."""
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[2] != inputs.shape[3]:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else "text"
        raise ValueError(f"SelfSupervised turns square images, got {shape}; try loss=kd")
    views = [torch.rot90(inputs, turns, (2, 3)) for turns in range(1, VIEWS + 1)]
    return torch.stack(views, dim=1).flatten(0, 1)


def _by_image(rows: Tensor) -> Tensor:
    """The rows of views, of all processes."""
    return gather_batch(rows.reshape(-1, VIEWS, *rows.shape[1:])).flatten(0, 1)


def _similarities(head: nn.Module, images: Tensor, views: Tensor) -> Tensor:
    """The cosines of each view's embedding with each image's, (3 B, B).

    Args:
        head: (., D) -> (., D).
        images: (B, D).
        views: (3 B, ...), as a layer gives them.
    """
    found, looked_for = gather_batch(head(images)), _by_image(head(pooled(full(views))))
    return F.normalize(looked_for, dim=1) @ F.normalize(found, dim=1).T


def _of_the_best(
    student: Tensor, teacher: Tensor, right: Tensor, temperature: float, share: float
) -> Tensor:
    """T^2 KL of the softmaxes, mean over the rows that the teacher ranks best, ().

    Args:
        student: (M, K) scores.
        teacher: (M, K).
        right: (M,), the column of each row's right answer.
        temperature: T.
        share: of the rows that the teacher gets wrong; those that it gets right count all.
    """
    its_own = teacher.gather(1, right[:, None])
    rank = (teacher > its_own).sum(dim=1)
    wrong = int((rank > 0).sum())
    probability = teacher.softmax(dim=1).gather(1, right[:, None])[:, 0]
    best = (rank.double() - 0.5 * probability.double()).argsort()
    rows = best[: len(rank) - wrong + int(wrong * share)]
    if not len(rows):
        return 0.0 * student.sum()
    return soft_target_loss(student[rows], teacher[rows], temperature)
