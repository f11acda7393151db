"""Logits compared at several levels: each example, the examples with each other, the classes.

Shapes: B batch (of all processes together), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive
from kd_research.losses.gather import gather_batch
from kd_research.losses.logits import check_logits, check_temperature, soft_target_loss


class MultiLevel(nn.Module):
    """MLKD (Jin, Wang, Lin 2023, CVPR, "Multi-Level Logit Distillation").

    The sum over temperatures of three parts, p being the softened probabilities: T^2 KL of each
    example; the squared difference of the student's and the teacher's p p^T, summed, over B;
    that of p^T p, summed, over C.

    One view of each example, where the authors train on a weak and a strong one. Their masks of
    confidence are left out: in their code a mask multiplies what is already a sum, so that it
    halves the two last parts, about, and chooses no example and no class.

    Args:
        temperatures: each > 0; the authors' code has 2 to 6.
    """

    compares_examples = True  # so that it cannot be computed in chunks

    def __init__(self, temperatures: Sequence[Positive]):
        super().__init__()
        self.temperatures = tuple(check_temperature(each) for each in temperatures)
        if not self.temperatures:
            raise ValueError("loss.temperatures is empty; try loss.temperatures=[2,3,4,5,6]")

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over temperatures and levels, ()."""
        pair = check_logits(student.logits, teacher.logits)
        total = pair[0].new_zeros(())
        for temperature in self.temperatures:
            ours, theirs = (gather_batch((logits / temperature).softmax(dim=1)) for logits in pair)
            examples = (ours @ ours.T - theirs @ theirs.T).square().sum() / ours.shape[0]
            classes = (ours.T @ ours - theirs.T @ theirs).square().sum() / ours.shape[1]
            total = total + soft_target_loss(*pair, temperature) + examples + classes
        return total
