"""Deep mutual learning: a second student, which learns with the first and from it.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output
from kd_research.losses.logits import soft_target_loss


class MutualLearning(nn.Module):
    """DML with two students (Zhang et al. 2018, arXiv:1706.00384).

    KL(p_peer || p_student), which teaches the student, plus the peer's own objective,
    CE + KL(p_student || p_peer), which teaches the peer; each takes the other's probabilities as
    given (temperature 1). The peer is a part of this loss: it trains with the student's
    optimizer, is saved with it, and is gone at inference. Both are updated at once, where the
    paper updates them in turn. The term's weight scales the peer's objective too.

    Args:
        peer: another student, inputs -> logits (B, C); its weights decide how it differs.
    """

    needs_teacher = False

    def __init__(self, peer: nn.Module):
        super().__init__()
        self.peer = peer

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        """The student's part and the peer's objective, means over the batch, ()."""
        inputs = batch.inputs
        result = self.peer(**inputs) if isinstance(inputs, dict) else self.peer(inputs)
        peer: Tensor = (result if isinstance(result, Tensor) else result["logits"]).float()
        for_student = soft_target_loss(student.logits, peer, 1.0)
        for_peer = soft_target_loss(peer, student.logits, 1.0)
        return for_student + for_peer + F.cross_entropy(peer, batch.labels)
