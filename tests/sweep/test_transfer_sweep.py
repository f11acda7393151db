"""A sweep of what a transfer set is made with."""

import pytest
from omegaconf import OmegaConf
from sweep_commands import make_plan

from kd_research.sweep.rehearsal import prepared


def test_the_set_that_is_made_before_the_trials_is_of_the_search():
    plan = make_plan(
        *("transfer=class_impressions", "transfer.num_examples=20,40", "transfer.lr=0.1"),
        *("transfer.iterations=int(interval(2,9))", "loss.lambda=1", "loss.temperature=4,8"),
    )
    stated = prepared(plan)
    assert stated.transfer.num_examples == 20
    assert stated.transfer.iterations == 2
    assert stated.loss.temperature == plan.config.loss.temperature


def test_a_choice_of_transfer_sets_is_prepared_without_one():
    plan = make_plan("transfer=none,class_impressions", "loss.lambda=1")
    assert not prepared(plan).transfer


def test_no_teacher_is_trained_before_the_trials_that_none_of_them_asks_for():
    plan = make_plan("teacher=cnn,resnet8", "teacher.trainer.max_epochs=2,3", "loss=dkd,kd")
    stated = prepared(plan)
    assert stated.teacher.model._target_.endswith(".CNN")
    assert stated.teacher.trainer.max_epochs == 2
    assert "dkd" not in stated.loss.terms, "the sweep's own: a trial's mistake is the trial's"


def test_rows_are_prepared_by_the_first_of_them():
    rows = "{a: {overrides: {loss.temperature: 3}}, b: {overrides: {loss: dkd}}}"
    plan = make_plan(f"+sweep.rows={rows}", "sweep.space={}")
    assert prepared(plan).loss.temperature == 3


@pytest.mark.parametrize(
    ("typed", "loss"), [(["teacher.checkpoint=t.pt"], "kd"), ([], "ce")], ids=["read", "trained"]
)
def test_a_teacher_that_is_read_is_tried_out_before_rows_without_one(typed, loss, tmp_path):
    (tmp_path / "t.pt").write_text("weights")
    typed = [text.replace("t.pt", str(tmp_path / "t.pt")) for text in typed]
    rows = "{a: {overrides: {teacher: none, loss: ce}}, b: {overrides: {loss: kd}}}"
    stated = prepared(make_plan(f"+sweep.rows={rows}", "sweep.space={}", *typed))
    assert list(stated.loss.terms) == ([] if loss == "ce" else ["kd"])


def test_a_student_that_no_trial_asks_for_is_not_tried_out():
    stated = prepared(make_plan("student=cnn,resnet8", "loss=at"))
    assert stated.student.model._target_.endswith(".CNN"), "the default has no maps to compare"


@pytest.mark.parametrize(
    ("overrides", "key", "wanted"),
    [
        (("+model@teacher.assistants.middle=cnn",), "loss.temperature", 5),
        (("transfer=generator", "loss.lambda=1"), "seed", 5),
        (("teacher.model.width=${student.model.width}",), "student.model.width", 5),
        (("+student.pretraining.seed=3",), "student.model.width", 5),
    ],
    ids=["assistant", "transfer", "reference", "pretraining"],
)
def test_what_takes_hours_is_the_first_trial_s_whatever_it_depends_on(overrides, key, wanted):
    plan = make_plan(*overrides, f"{key}=5,20")
    assert OmegaConf.select(plan.config, key) != wanted
    assert OmegaConf.select(prepared(plan), key) == wanted
