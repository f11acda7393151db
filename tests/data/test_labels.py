"""Label columns that are no classes are told, never cut down to some."""

import pytest
from later import Later

from kd_research.data.hub import Source
from kd_research.data.labels import read_labels

datasets = Later("datasets")


def read(labels, test=None, num_classes=2):
    splits = {"train": labels, "test": test or labels}
    rows = {split: datasets.Dataset.from_dict({"y": values}) for split, values in splits.items()}
    return read_labels(Source(root="made"), rows, "y", num_classes)


@pytest.mark.parametrize("labels", [[0, 1, 1], [0.0, 1.0, 1.0], [False, True, True]])
def test_whole_numbers_are_classes(labels):
    given, names = read(labels)
    assert given["train"].tolist() == [0, 1, 1]
    assert names == ["0", "1"]


def test_names_are_classes_in_their_order():
    given, names = read(["b", "a", "b"])
    assert given["train"].tolist() == [1, 0, 1]
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0, 0.5], "has 0.5 in row 2: it is no class; a label is a name or a whole number"),
        ([0.0, float("nan")], "has nan in row 1: it is no class"),
        ([[0], [1]], r"has \[0\] in row 0: several labels an example are not supported"),
        (["a", None, "b"], "'train' has no label in 1 of 3 rows; remove these rows$"),
        ([None, "a", "b"], "'train' has no label in 1 of 3 rows"),
        ([0, 1, None], "'train' has no label in 1 of 3 rows"),
    ],
)
def test_what_is_no_class_is_told(labels, message):
    with pytest.raises(ValueError, match=message):
        read(labels)


def test_a_test_split_without_labels_may_be_left_out():
    with pytest.raises(ValueError, match=r"in 2 of 2 rows.*type \+\+dataset.splits.test=null"):
        read([0, 1], test=[None, None])
