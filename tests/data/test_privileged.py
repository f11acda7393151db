"""The synthetic experiments with columns for the teacher alone."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from kd_research.data.privileged import privileged
from kd_research.data.sources import Split

WIDTHS = {"clean_labels": 51, "clean_features": 100, "relevant": 53, "by_sample": 53}


def columns(split: Split) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the student sees, what the teacher sees, the classes."""
    assert isinstance(split.inputs, torch.Tensor)
    return split.inputs[:, :50], split.inputs[:, 50:], split.labels


@pytest.mark.parametrize("kind", WIDTHS)
def test_the_privileged_columns_tell_more(kind: str) -> None:
    splits = privileged(kind, (WIDTHS[kind],), 200, 2000, seed=1)
    assert splits.test is not None
    (x, side, y), (x_test, side_test, y_test) = columns(splits.train), columns(splits.test)
    theirs = LogisticRegression(C=1e4, max_iter=1000).fit(side, y).score(side_test, y_test)
    ours = LogisticRegression(C=1e4, max_iter=1000).fit(x, y).score(x_test, y_test)
    assert theirs > ours + 0.03
    assert theirs > 0.85
    assert 0.4 < float(y.float().mean()) < 0.6


def test_what_the_columns_are() -> None:
    x, side, _ = columns(privileged("relevant", (53,), 50, 10, seed=0).train)
    assert torch.equal(side, x[:, :3])
    splits = privileged("by_sample", (53,), 50, 10, seed=0)
    assert splits.test is not None
    places = []
    for split in (splits.train, splits.test):
        x, side, _ = columns(split)
        places.append([[torch.equal(x[:, at], s) for at in range(50)].index(True) for s in side.T])
    assert places[0] != places[1], "others in each split"


def test_the_seed_decides_the_examples() -> None:
    first, again, other = (
        privileged("clean_labels", (51,), 20, 5, seed=seed).train.inputs for seed in (3, 3, 4)
    )
    assert isinstance(first, torch.Tensor)
    assert isinstance(again, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("kind", "width", "message"), [("odd", 53, "must be one of"), ("clean_features", 51, "[100]")]
)
def test_wrong_statements(kind: str, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        privileged(kind, (width,), 20, 5, seed=0)
