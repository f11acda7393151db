"""A common shift of some classes' logits after the fit (Hinton, Vinyals, Dean 2015, section 3).

Where the transfer set lacks classes, the student's biases are wrong for them: the paper raises the
bias of the class that was left out, and lowers those of the only two that were there. It chose the
shift on the test set. Here it is chosen in three ways, of which the last is the paper's and exists
to compare with it:

- frequency: the share of validation examples that are given one of the classes equals the share
  that has one; labels of single examples are not looked at. Validation is cut stratified: its
  frequencies are the training set's.
- val: the best accuracy on validation.
- test: the best accuracy on test.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_research.data.module import DataModule
from kd_research.evaluation.quality import predict

RULES = ("frequency", "val", "test")


def margins(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """(N,) how far the classes' logits must rise until one of them is the largest."""
    inside = _inside(classes, logits.shape[1])
    return logits[:, ~inside].amax(1).double() - logits[:, inside].amax(1).double()


def frequency_shift(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> float:
    """The shift after which as many of the (N, C) examples get one of `classes` as have one."""
    wanted = int(_inside(classes, logits.shape[1])[labels].sum())
    ordered = margins(logits, classes).sort().values
    return _between(ordered, wanted)


def best_shift(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> float:
    """The shift with the fewest errors; of equals, the middle of the widest run of them.

    Exact: the errors change only where the shift passes an example's margin.
    """
    inside = _inside(classes, logits.shape[1])
    among = logits.masked_fill(~inside, -torch.inf).argmax(1) == labels  # right once one of them
    others = logits.masked_fill(inside, -torch.inf).argmax(1) == labels  # right until then
    ordered, order = margins(logits, classes).sort()
    gained = (among.long() - others.long())[order].cumsum(0)
    right = torch.cat([gained.new_zeros(1), gained]) + others.sum()
    ends = torch.cat([ordered[:1] - 2, ordered, ordered[-1:] + 2])
    width = ends[1:] - ends[:-1]
    right = right.masked_fill(width <= 0, -1)  # between equal margins no shift lies
    width = width.masked_fill(right < right.max(), -1.0)
    return _between(ordered, int(width.argmax()))


def shifted(logits: Tensor, classes: Sequence[int], shift: float) -> Tensor:
    """(N, C) the logits with `shift` added to those of `classes`."""
    return logits.double() + shift * _inside(classes, logits.shape[1]).double()


def shift_metrics(student: nn.Module, data: DataModule, classes: Sequence[int]) -> dict[str, float]:
    """What each rule chooses, and the student's errors on test after it.

    Args:
        student: fitted.
        data: whose validation and test splits.
        classes: numbers of the classes whose logits are shifted.

    Returns:
        per rule: shift_RULE, shift_RULE_test_errors, and shift_RULE_test_errors_on, the errors on
        the examples of `classes`.
    """
    val, test = (
        (predict(student, data, split), split.labels.cpu()) for split in (data.val, data.test)
    )
    chosen = {
        "frequency": frequency_shift(*val, classes),
        "val": best_shift(*val, classes),
        "test": best_shift(*test, classes),
    }
    logits, labels = test
    mask = _inside(classes, logits.shape[1])[labels]
    found: dict[str, float] = {}
    for rule in RULES:
        wrong = shifted(logits, classes, chosen[rule]).argmax(1) != labels
        found[f"shift_{rule}"] = chosen[rule]
        found[f"shift_{rule}_test_errors"] = int(wrong.sum())
        found[f"shift_{rule}_test_errors_on"] = int(wrong[mask].sum())
    return found


def _inside(classes: Sequence[int], num_classes: int) -> Tensor:
    mask = torch.zeros(num_classes, dtype=torch.bool)
    mask[list(classes)] = True
    return mask


def _between(ordered: Tensor, count: int) -> float:
    """A shift above the first `count` of the sorted margins and below the others."""
    if count == 0:
        return float(ordered[0]) - 1
    if count == len(ordered):
        return float(ordered[-1]) + 1
    return float(ordered[count - 1] + ordered[count]) / 2
