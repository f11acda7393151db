"""CRD: student and teacher agree on which example it is, against a memory of all others.

Shapes: B batch, n training examples, K negatives, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Count, Output, Positive, ShareBelow1
from kd_research.losses.gather import gather_batch
from kd_research.losses.logits import class_labels
from kd_research.losses.maps import paired, pooled_pairs


class Contrastive(nn.Module):
    """CRD (Tian, Krishnan, Isola 2020, arXiv:1910.10699), its memory-bank form by NCE.

    Both pooled features are embedded linearly and L2-normalised. An anchor of the one net is
    scored against the other net's memory of the same example and of `num_negatives` others,
    drawn anew at each step with replacement; h = P / (P + K/n), P = exp(score / temperature) / Z,
    Z fixed from the first batch; minus log h of the positive minus the sum of log(1 - h) of the
    negatives, mean over the batch, for both kinds of anchors. The memories then move towards the
    batch's embeddings.

    Negatives known to be of the anchor's class are left out of the sum, as the paper's CIFAR runs
    draw them from other classes (labels are remembered when first seen). The draws depend on
    (example, step) alone, not on the process or a generator: two processes draw as one does, and
    the memories are kept equal on all of them.

    Args:
        student_layers: one layer, pooled to a vector.
        teacher_layers: one layer, pooled to a vector.
        num_negatives: K; the paper's 16384.
        temperature: > 0; the paper's 0.07 (0.1 for some pairs).
        momentum: of the memories, in [0, 1); the authors' 0.5.
        width: D; the paper's 128.
    """

    remembers_examples = True  # so that they must be the same in each epoch
    student_memory: Tensor
    teacher_memory: Tensor
    classes: Tensor
    constants: Tensor
    step: Tensor

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        num_negatives: Count,
        temperature: Positive,
        momentum: ShareBelow1,
        width: Count,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        if num_negatives < 1 or not temperature > 0 or not 0 <= momentum < 1:
            raise ValueError(
                "Contrastive needs num_negatives >= 1, temperature > 0 and momentum in [0, 1), got "
                f"{num_negatives}, {temperature}, {momentum}; try 16384, 0.07, 0.5"
            )
        self.num_negatives, self.temperature = int(num_negatives), float(temperature)
        self.momentum, self.width = float(momentum), int(width)
        self.num_examples = 0  # set before build

    def build(self, student: Output, teacher: Output) -> None:
        """Make the embeddings and the memories."""
        if self.num_examples < 2:
            raise ValueError("Contrastive needs to know the number of training examples, 2 or more")
        ((ours, theirs),) = pooled_pairs(self, student, teacher)
        self.embed_student = nn.Linear(ours.shape[1], self.width)
        self.embed_teacher = nn.Linear(theirs.shape[1], self.width)
        for name in ("student_memory", "teacher_memory"):
            memory = F.normalize(torch.randn(self.num_examples, self.width), dim=1)
            self.register_buffer(name, memory)
        self.register_buffer("classes", torch.full((self.num_examples,), -1))
        self.register_buffer("constants", torch.zeros(2))  # Z of the two kinds of anchors; 0: unset
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over the two kinds of anchors, mean over the batch, ()."""
        labels = class_labels(self, batch)
        ((ours, theirs),) = pooled_pairs(self, student, teacher, batch)
        ours = F.normalize(self.embed_student(ours), dim=1)
        theirs = F.normalize(self.embed_teacher(theirs), dim=1)
        negatives = draw_others(batch.index, self.num_negatives, self.num_examples, self.step)
        chosen = torch.cat((batch.index[:, None], negatives), dim=1)
        counted = self.classes[negatives] != labels[:, None]
        scores = [
            (anchors @ memory.T / self.temperature).exp().gather(1, chosen)
            for anchors, memory in ((ours, self.teacher_memory), (theirs, self.student_memory))
        ]
        if self.training:
            self._fix_constants(scores)
        total = student.logits.new_zeros(())
        for score, constant in zip(scores, self.constants, strict=True):
            total = total + self._nce(score / constant, counted)
        if self.training:
            self._remember(ours, theirs, batch)
        return total

    def _nce(self, probabilities: Tensor, counted: Tensor) -> Tensor:
        noise = self.num_negatives / self.num_examples
        positive = (probabilities[:, 0] / (probabilities[:, 0] + noise)).log()
        negative = (noise / (probabilities[:, 1:] + noise)).log()
        return -(positive + (negative * counted).sum(dim=1)).mean()

    @torch.no_grad()
    def _fix_constants(self, scores: list[Tensor]) -> None:
        means = torch.stack([gather_batch(score.mean(dim=1)).mean() for score in scores])
        estimate = means * self.num_examples
        self.constants = torch.where(self.constants > 0, self.constants, estimate)

    @torch.no_grad()
    def _remember(self, ours: Tensor, theirs: Tensor, batch: Batch) -> None:
        """Move the memories; new tensors, because the loss's backward pass needs the old ones."""
        index = gather_batch(batch.index)
        self.student_memory = self._moved(self.student_memory, index, gather_batch(ours))
        self.teacher_memory = self._moved(self.teacher_memory, index, gather_batch(theirs))
        self.classes = self.classes.index_copy(0, index, gather_batch(batch.labels))
        self.step = self.step + 1

    def _moved(self, memory: Tensor, index: Tensor, rows: Tensor) -> Tensor:
        mixed = self.momentum * memory[index] + (1 - self.momentum) * rows
        return memory.index_copy(0, index, F.normalize(mixed, dim=1))


def draw_others(index: Tensor, draws: int, num_examples: int, step: Tensor) -> Tensor:
    """For each example, `draws` of the others, uniform with replacement, (B, draws).

    A hash (the finaliser of splitmix64) of the example, the draw and the step: the same on every
    process and device, with no generator to keep.
    """
    position = torch.arange(draws, device=index.device)
    state = index[:, None] * 0x1E3779B97F4A7C15 + position * 0x3C6EF372FE94F82B + step * 0x5851F42D
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        # ">>" keeps the sign; the mask makes it a logical shift.
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    others = state.remainder(num_examples - 1)
    return others + (others >= index[:, None])
