"""A teacher's own objective, and what teacher and student see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import Compose, composed, plain

from kd_research.configuration.config import ConfigError, check, save
from kd_research.interfaces import Output
from kd_research.losses.logits import SoftTarget
from kd_research.teacher.stated import own_objective
from kd_research.trial import run as trial
from kd_research.trial.assembly import Parts


def test_a_teacher_may_learn_from_smoothed_labels(tiny: Compose, tmp_path: Path) -> None:
    here = f"output_dir={tmp_path}"
    plainly = Parts(plain(tiny(here))).teacher
    smoothed = Parts(plain(tiny(here, "loss@teacher.loss=label_smoothing"))).teacher
    least = Parts(
        plain(tiny(here, "loss@teacher.loss=label_smoothing", "teacher.loss.smoothing=0"))
    ).teacher
    assert plainly is not None
    assert smoothed is not None
    assert least is not None
    assert smoothed.fingerprint != plainly.fingerprint
    assert least.fingerprint == plainly.fingerprint, "smoothing by 0 is the labels"
    assert len(list((tmp_path / "teachers").iterdir())) == 3
    contents = [json.loads(p.read_text()) for p in (tmp_path / "teachers").glob("*/content.json")]
    assert sum("objective" in content for content in contents) == 2
    assert not any("loss" in content["recipe"] for content in contents)


def test_a_teacher_s_loss_that_needs_a_teacher_is_refused(tiny: Compose) -> None:
    config = tiny("loss@teacher.loss=dkd")
    with pytest.raises(ConfigError, match=r"type loss@teacher.loss=ce, label_smoothing or tf_kd"):
        check(config)
    with pytest.raises(ValueError, match="needs a teacher of its own"):
        own_objective(plain(tiny("loss@teacher.loss=kd"))["teacher"])
    check(tiny("loss@teacher.loss=tf_kd"))


def test_the_teacher_sees_all_and_the_student_some(tiny: Compose, tmp_path: Path) -> None:
    overrides = (f"output_dir={tmp_path}", "teacher=mlp", "student.view={size: [4, 2]}")
    parts = Parts(plain(tiny(*overrides)))
    assert parts.student.layers[0].get_submodule("0").get_parameter("weight").shape == (8, 8)
    assert parts.teacher is not None
    assert parts.teacher.module.layers[0].get_submodule("0").get_parameter("weight").shape[1] == 64
    images = parts.example(5).inputs
    assert isinstance(images, torch.Tensor)
    scrambled = images.view(5, 4, 2, 2, 4).flip(2).flip(4).reshape(5, 1, 8, 8)
    torch.testing.assert_close(parts.student(scrambled), parts.student(images))
    assert not torch.allclose(parts.teacher.module(scrambled), parts.teacher.module(images))


def test_a_teacher_s_view_decides_what_is_cached_of_it(tiny: Compose, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    views = ("{crop: [4, 4]}", "{size: [4, 4]}")
    keys = []
    for view in views:
        given = f"teacher.checkpoint={weights}" if weights.exists() else "teacher.checkpoint=null"
        parts = Parts(
            plain(tiny(f"output_dir={tmp_path}", "teacher=mlp", given, f"teacher.view={view}"))
        )
        assert parts.teacher is not None
        if not weights.exists():
            torch.save(parts.teacher.module.state_dict(), weights)
        assert parts.module.cached is not None
        keys.append((parts.teacher.fingerprint, parts.module.cached.key))
    assert keys[0][0] == keys[1][0], "the same weights"
    assert keys[0][1] != keys[1][1], "which see other things"


def test_a_run_s_student_with_a_view_teaches_with_it(tiny: Compose, tmp_path: Path) -> None:
    first = tmp_path / "first"
    fast = ("tracking=disabled", "trainer.max_epochs=1", f"output_dir={tmp_path}")
    save(
        composed(*fast, "teacher=none", "loss=ce", "student.view={crop: [4, 4]}"),
        first / "config.yaml",
    )
    assert trial.main([str(first)]) == 0
    config = plain(composed(f"output_dir={tmp_path}", "teacher=run", f"teacher.run={first}"))
    parts = Parts(config)
    assert parts.teacher is not None
    assert config["teacher"]["view"] == {"crop": [4, 4]}
    assert parts.teacher.module.layers[0].get_submodule("0").get_parameter("weight").shape[1] == 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "student.view={sise: [4, 4]}",
            "student.view must be null or some of channels, col",
        ),
        ("teacher.view=7", "teacher.view is a mapping of settings, got 7; type teacher.view.SETT"),
    ],
)
def test_a_view_that_is_none_is_refused(tiny: Compose, given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(tiny(given))


def test_a_view_of_text_is_refused(tiny: Compose) -> None:
    from kd_research.teacher.stated import model_of

    stated = {"model": {"_target_": "torch.nn.Identity"}, "view": {"channels": [0]}}
    with pytest.raises(ValueError, match="a view is of images or tables; dataset sst2 is text"):
        model_of(stated, {"name": "sst2"})


def test_the_student_has_a_temperature_of_its_own() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    targets = (teacher / 5).softmax(1)
    expected = 25 * (
        F.cross_entropy(student, targets) - F.cross_entropy(5 * targets.log() / 5, targets)
    )
    labels = torch.zeros(6, dtype=torch.int64)
    loss = SoftTarget(5.0, student_temperature=1.0)
    from kd_research.interfaces import Batch

    found = loss(Output(student, {}), Output(teacher, {}), Batch(student, labels, labels))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        SoftTarget(5.0, student_temperature=0.0)
