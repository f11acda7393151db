"""Chains of teachers: an earlier run's student, assistants, born-again networks, ensembles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from tiny import TINY, Compose, composed, plain

from kd_research.configuration.config import ConfigError, check, save
from kd_research.models.ensemble import Ensemble
from kd_research.records.record import CONFIG_NAME
from kd_research.teacher import chain
from kd_research.teacher import train as teachers
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run


def taught_by_run(outputs: Path, *overrides: str) -> DictConfig:
    """The tiny configuration, but for the teacher's own settings."""
    rest = [item for item in TINY if not item.startswith("teacher")]
    return composed(*rest, "teacher=run", f"output_dir={outputs}", *overrides)


def test_an_earlier_student_teaches(tiny: Compose, outputs: Path) -> None:
    first = outputs / "runs" / "first"
    config = tiny("student=cnn", "student.model.width=3", "student.model.depth=1")
    save(config, first / CONFIG_NAME)
    assert run(config, first).status == "completed"
    given = torch.load(first / "weights.pt", weights_only=True)
    for name in (str(first), "first", "runs/first"):
        config = taught_by_run(outputs, f"teacher.run={name}")
        assert config.teacher.model.width == 3
        parts = Parts(plain(config))
        assert parts.teacher is not None
        found = parts.teacher.module.state_dict()
        assert all(torch.equal(found[key], value) for key, value in given.items())


def test_a_teacher_of_other_splits_is_refused(
    tiny: Compose, outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = outputs / "runs" / "other_splits"
    config = tiny("dataset.split_seed=7")
    save(config, first / CONFIG_NAME)
    assert run(config, first).status == "completed"
    given = f"teacher.run={first}"
    with pytest.raises(ConfigError, match=r"type dataset\.split_seed=7"):
        Parts(plain(taught_by_run(outputs, given)))
    Parts(plain(taught_by_run(outputs, given, "dataset.split_seed=7")))
    assert "saw other data" not in caplog.text
    Parts(plain(taught_by_run(outputs, given, "dataset.split_seed=7", "dataset.subset=0.5")))
    assert "saw other data" not in caplog.text
    Parts(plain(taught_by_run(outputs, given, "dataset.name=another")))
    assert "saw other data than this run has" in caplog.text


def test_an_unknown_run_is_told_with_where_it_was_looked_for(outputs: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.run=nope is no run's folder; looked for"):
        check(taught_by_run(outputs, "teacher.run=nope"))
    with pytest.raises(ConfigError, match=r"teacher\.run has no value; type teacher\.run="):
        check(taught_by_run(outputs))


def test_assistants_are_distilled_one_from_another(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = f"output_dir={tmp_path}"
    chained = (
        "+model@teacher.assistants.middle=cnn",
        "teacher.assistants.middle.width=3",
        "+teacher.assistants.again=${student.model}",
    )
    config = plain(tiny(here, *chained))
    seen = []
    train = teachers._train

    def spy(module, config, data, directory, taught_by, key):  # type: ignore[no-untyped-def]
        train(module, config, data, directory, taught_by, key)
        seen.append((type(module).__name__, config["teacher"]["seed"], taught_by))

    monkeypatch.setattr(teachers, "_train", spy)
    parts = Parts(config)
    assert [(name, seed) for name, seed, _ in seen] == [("CNN", 0), ("CNN", 1), ("MLP", 2)]
    first, middle = seen[1][2], seen[2][2]
    assert seen[0][2] is None
    assert middle.module.stages[0][0].out_channels == 3
    assert first.fingerprint != middle.fingerprint
    assert parts.teacher is not None
    assert type(parts.teacher.module) is type(parts.student)
    again = Parts(config).teacher
    assert again is not None
    assert again.fingerprint == parts.teacher.fingerprint
    assert len(seen) == 3, "the second time, all are loaded"
    other = Parts(plain(tiny(here, *chained, "loss=dkd"))).teacher
    assert other is not None
    assert other.fingerprint != parts.teacher.fingerprint
    assert len(seen) == 5, "another loss distils other assistants of the same teacher"


def test_several_teachers_are_their_mean(tiny: Compose, tmp_path: Path) -> None:
    config = tiny("+teacher.members.a.seed=0", "+teacher.members.b.seed=1")
    parts = Parts(plain(config))
    assert parts.teacher is not None
    module = parts.teacher.module
    assert isinstance(module, Ensemble)
    inputs = parts.example(8).inputs
    mean = torch.stack([member(inputs).softmax(dim=1) for member in module.members]).mean(dim=0)
    assert torch.allclose(module(inputs).softmax(dim=1), mean, atol=1e-6)
    assert torch.allclose(module(inputs), mean.log(), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    alone = chain.obtain(plain(tiny()), parts.data)
    assert alone.fingerprint == teachers.fingerprint(module.members[0])
    record = run(config, tmp_path)
    assert record.status == "completed"
    single = sum(parameter.numel() for parameter in alone.module.parameters())
    assert record.costs["teacher_num_params"] == 2 * single


def test_a_student_may_start_from_itself_on_other_data(tiny: Compose) -> None:
    config = plain(tiny("loss=ce"))
    fresh = teachers.fingerprint(Parts(config).student)
    own = {"dataset": {**config["dataset"], "only_classes": [0, 1]}, "seed": 5}
    own |= {"optimizer": config["optimizer"], "scheduler": None, "trainer": {"max_epochs": 1}}
    config["student"]["pretraining"] = own
    started = Parts(config)
    start = chain.pretrained(config)
    assert start is not None
    assert teachers.fingerprint(started.student) == start.fingerprint
    assert start.fingerprint != fresh
    assert all(parameter.requires_grad for parameter in started.student.parameters())
    assert start.path.parent.parent.name == "teachers"
    config["student"]["pretraining"] = {"dataset": {**own["dataset"], "num_classes": 5}}
    with pytest.raises(ConfigError) as told:
        Parts(config)
    assert "student.pretraining: it lacks optimizer; it has dataset," in told.value.problems[0]
    last = told.value.problems[-1]
    assert last == "student.pretraining: dataset.num_classes is 5, but the student's data has 10"


def test_a_student_may_start_from_a_file(tiny: Compose, tmp_path: Path) -> None:
    given = Parts(plain(tiny("seed=3"))).student
    path = tmp_path / "weights.pt"
    torch.save(given.state_dict(), path)
    for name in (path, tmp_path):  # a file, and a run's folder
        started = Parts(plain(tiny(f"student.checkpoint={name}"))).student
        assert teachers.fingerprint(started) == teachers.fingerprint(given)
        assert all(parameter.requires_grad for parameter in started.parameters())
    other = tiny(f"output_dir={tmp_path}", f"student.checkpoint={path}", "student.model.width=9")
    with pytest.raises(ConfigError, match=r"^student: checkpoint .* is of another architecture"):
        Parts(plain(other))
    assert not (tmp_path / "teachers").exists(), "told before a teacher is trained"
