"""The shift of some classes' logits: exact against a search over every possible one."""

from __future__ import annotations

import pytest
import torch

from kd_research.evaluation.class_shift import best_shift, frequency_shift, margins, shifted


def example(seed: int, size: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (size,), generator=generator)
    logits = torch.randn(size, 5, generator=generator)
    logits[torch.arange(size), labels] += 1.0
    logits[:, 3] -= 2.0  # a class that was never taught
    return logits, labels


def errors(logits: torch.Tensor, labels: torch.Tensor, classes: list[int], shift: float) -> int:
    return int((shifted(logits, classes, shift).argmax(1) != labels).sum())


@pytest.mark.parametrize("classes", [[3], [1, 3], [0, 1, 2, 4]])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_shift_is_as_good_as_any(seed: int, classes: list[int]) -> None:
    logits, labels = example(seed)
    tried = margins(logits, classes).sort().values
    every = [float(tried[0]) - 1, *(tried[1:] + tried[:-1]).div(2).tolist(), float(tried[-1]) + 1]
    least = min(errors(logits, labels, classes, shift) for shift in every)
    assert errors(logits, labels, classes, best_shift(logits, labels, classes)) == least
    assert least < errors(logits, labels, classes, 0.0) or classes != [3]


def test_no_shift_lies_between_equal_margins() -> None:
    for seed in range(20):
        logits, labels = example(seed)
        logits = logits.mul(2).round().div(2)
        tried = margins(logits, [3]).unique()
        every = [
            float(tried[0]) - 1,
            *(tried[1:] + tried[:-1]).div(2).tolist(),
            float(tried[-1]) + 1,
        ]
        least = min(errors(logits, labels, [3], shift) for shift in every)
        assert errors(logits, labels, [3], best_shift(logits, labels, [3])) == least


def test_the_frequencies_come_out() -> None:
    logits, labels = example(0)
    shift = frequency_shift(logits, labels, [1, 3])
    given = shifted(logits, [1, 3], shift).argmax(1)
    assert sum(int((given == c).sum()) for c in (1, 3)) == sum(
        int((labels == c).sum()) for c in (1, 3)
    )
    assert frequency_shift(logits, torch.zeros_like(labels), [3]) < margins(logits, [3]).min()
    assert frequency_shift(logits, torch.full_like(labels, 3), [3]) > margins(logits, [3]).max()


def test_a_student_that_never_needs_it() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    logits = torch.eye(2)[labels] * 4
    shift = best_shift(logits, labels, [1])
    assert -4 < shift < 4
    assert errors(logits, labels, [1], shift) == 0
