"""The measures of a student, against scikit-learn, closed forms and counting by hand."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss, recall_score
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from kd_research.data.module import DataModule
from kd_research.data.sources import Split, Splits
from kd_research.evaluation.quality import (
    evaluate,
    faithfulness,
    intervals,
    per_class_accuracy,
    reliability,
    scores,
)

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 1, 2])


def noisy(seed, size=300, classes=5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    logits = torch.randn(size, classes, generator=generator)
    return logits + 1.5 * nn.functional.one_hot(labels, classes), labels


def test_scores_agree_with_scikit_learn():
    logits, labels = noisy(0)
    found = scores(logits, labels)
    probabilities = logits.double().softmax(1).numpy()
    assert found["accuracy"] == pytest.approx((probabilities.argmax(1) == labels.numpy()).mean())
    assert found["nll"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)


def test_reliability_gives_the_ece():
    logits, labels = noisy(1)
    bins = reliability(logits, labels)
    assert sum(bins["count"]) == len(labels)
    gaps = zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
    ece = sum(count * abs(confidence - accuracy) for count, confidence, accuracy in gaps)
    assert ece / len(labels) == pytest.approx(scores(logits, labels)["ece"], rel=1e-5)


def test_a_confidence_of_one_is_in_the_last_bin():
    """8 of 10 sure ones are right, and all of the other 10 at 0.95."""
    sure, nearly = torch.tensor([[200.0, 0.0]] * 10), torch.tensor([[math.log(19), 0.0]] * 10)
    logits, labels = torch.cat([sure, nearly]), torch.tensor([0] * 8 + [1] * 2 + [0] * 10)
    assert scores(logits, labels)["ece"] == pytest.approx(abs(0.9 - 0.975), abs=1e-6)
    binned = multiclass_calibration_error(noisy(1)[0].softmax(1), noisy(1)[1], 5, 15)
    assert scores(*noisy(1))["ece"] == pytest.approx(float(binned), rel=1e-5)  # below 1: equal


def test_per_class_accuracy_is_the_recall():
    logits, labels = noisy(2)
    found = per_class_accuracy(logits, labels)
    assert found == pytest.approx(recall_score(labels, logits.argmax(1), average=None))
    assert per_class_accuracy(LOGITS, torch.tensor([0, 0, 0, 0])) == [0.5, None, None]


def test_faithfulness_by_counting():
    # The teacher is wrong on the last two; the student copies one of these two errors.
    teacher = torch.eye(3)[[0, 1, 2, 0]] * 4
    student = torch.eye(3)[[0, 2, 2, 1]] * 4
    found = faithfulness(student, teacher, LABELS)
    assert found["teacher_agreement"] == 0.5
    assert found["copied_error_share"] == 0.5
    right = faithfulness(student, torch.eye(3)[LABELS], LABELS)
    assert right["copied_error_share"] is None  # a teacher without an error


def test_kl_to_the_teacher_has_its_closed_form():
    # logits (0, 0) against (ln 3, 0): 0.75 ln 1.5 + 0.25 ln 0.5
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    found = faithfulness(student, teacher, torch.tensor([0]))["teacher_kl"]
    assert found == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert faithfulness(LOGITS, LOGITS, LABELS)["teacher_kl"] == 0


def test_bootstrap_intervals_have_their_normal_size():
    generator = torch.Generator().manual_seed(3)
    right = torch.rand(2000, generator=generator) < 0.9
    values = torch.randn(2000, generator=generator) * 2 + 5
    found = intervals({"accuracy": right, "nll": values})
    for name, column in (("accuracy", right.double()), ("nll", values.double())):
        error = float(column.std()) / 2000**0.5
        low, high = float(column.mean()) - 1.96 * error, float(column.mean()) + 1.96 * error
        assert found[name] == pytest.approx([low, high], abs=0.25 * error)


class Fixed(nn.Module):
    """Gives the inputs as logits, times a factor."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, inputs):
        return inputs * self.factor


@pytest.fixture
def data():
    logits, labels = noisy(4)
    parts = [Split(logits[:200], labels[:200]), Split(logits[200:250], labels[200:250])]
    splits = Splits(*parts, test=Split(logits[250:], labels[250:]))
    return DataModule("noisy", lambda: splits, 5, 32, 0.1, 0.1, 0, 0, input_shape=[5])


def test_evaluation_covers_each_split_once(data, tmp_path):
    found = evaluate(Fixed(), lambda name: -getattr(data, name).inputs, data)
    logits, labels = data.test.inputs, data.test.labels
    predicted = logits.argmax(1)
    assert found.metrics["test_accuracy"] == pytest.approx((predicted == labels).float().mean())
    assert found.metrics["teacher_test_accuracy"] == pytest.approx(
        float((logits.argmin(1) == labels).float().mean())
    )
    assert found.metrics["teacher_agreement"] == 0
    found.write(tmp_path)
    details = json.loads((tmp_path / "evaluation.json").read_text())
    counts = confusion_matrix(data.val.inputs.argmin(1), data.val.inputs.argmax(1), labels=range(5))
    assert details["val"]["class_names"] is None
    data.class_names = ("ant", "bee", "cat", "dog", "eel")
    named = evaluate(Fixed(), None, data).details["test"]
    assert len(named["per_class_accuracy"]) == len(named["class_names"])
    assert named["class_names"] == ["ant", "bee", "cat", "dog", "eel"]
    assert details["val"]["teacher_confusion"] == counts.tolist()
    low, high = details["test"]["intervals"]["accuracy"]
    assert low < found.metrics["test_accuracy"] < high
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["test_student"].tolist() == predicted.tolist()
        assert set(arrays) == {f"{s}_{w}" for s in ("val", "test") for w in
                               ("labels", "student", "teacher")}  # fmt: skip


def test_without_a_teacher_what_needs_one_is_none(data):
    found = evaluate(Fixed(), None, data)
    absent = {name for name, value in found.metrics.items() if value is None}
    names = ("teacher_agreement", "teacher_kl", "copied_error_share", "accuracy_retention")
    assert absent == {f"{p}{n}" for p in ("", "test_") for n in names} | {
        "teacher_val_accuracy", "teacher_test_accuracy"}  # fmt: skip
    assert "teacher_confusion" not in found.details["val"]


def test_training_mode_is_given_back(data):
    student = Fixed()
    student.train()
    evaluate(student, None, data)
    assert student.training
