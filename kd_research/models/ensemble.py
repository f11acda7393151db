"""Several models as one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The log of the mean of the members' probabilities, as logits.

    Softened by a temperature, it is this mean that is softened, not each member. Layers of the
    members are `members.0....`.

    Args:
        members: inputs -> logits (B, C), all of the same classes.
    """

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """The inputs of every member -> (B, C), float32."""
        log_probabilities = []
        for member in self.members:
            result = member(*inputs, **named)
            logits = result if isinstance(result, Tensor) else result["logits"]
            log_probabilities.append(logits.float().log_softmax(dim=1))
        return torch.stack(log_probabilities).logsumexp(dim=0) - math.log(len(log_probabilities))
