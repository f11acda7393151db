"""What a sweep shows while its teacher is trained, which may take hours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
from sweep_commands import make_plan
from tiny import Compose

from kd_research.configuration.config import save
from kd_research.pools.local import End, Handle
from kd_research.records.record import CONFIG_NAME, SPOKEN_NAME
from kd_research.records.spent import spent
from kd_research.sweep import rehearsal
from kd_research.trial import run as trial

OF_BEFORE = "teacher 9/9"


class Run:
    """A preparation that ends well."""

    started = 0.0

    def __init__(self, directory: Path):
        self.directory = directory

    def end(self) -> End:
        return End("", failed=False)


class Saying:
    """A pool whose preparation says a line, then nothing, then two lines, between two looks."""

    slots = 1

    def __init__(self) -> None:
        self.looks = iter([[], ["teacher 1/9"], [], ["teacher 2/9", "teacher 3/9"]])

    def submit(self, directory: Path, action: str = "main", processes: int = 1) -> Run:
        assert not (directory / SPOKEN_NAME).exists()
        return Run(directory)

    def wait(self, handles: Sequence[Handle], seconds: float) -> list[Handle]:
        said = next(self.looks, None)
        if said is None:
            return [*handles]
        with (handles[0].directory / SPOKEN_NAME).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in said)
        return []

    def kill(self, handles: Sequence[Handle]) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def test_how_far_it_is_is_shown_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rehearsal, "SPOKEN_SECONDS", 0.0)
    plan = make_plan("teacher=mlp", f"hydra.sweep.dir={tmp_path}", "loss.lambda=0,1")
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / SPOKEN_NAME).write_text(OF_BEFORE)
    rehearsal.prepare(plan, Saying(), lambda: None)
    shown = [line for line in capsys.readouterr().out.splitlines() if "/9" in line]
    assert shown == ["teacher 1/9", "teacher 3/9"]


def test_what_it_took_is_noted_over_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count()
    monkeypatch.setattr(rehearsal.time, "monotonic", lambda: float(next(clock)))
    plan = make_plan("teacher=mlp", f"hydra.sweep.dir={tmp_path}", "loss.lambda=0,1")
    rehearsal.prepare(plan, Saying(), lambda: None)
    once = spent(tmp_path)
    assert once > 0
    rehearsal.prepare(plan, Saying(), lambda: None)
    assert spent(tmp_path) > once


def test_a_teacher_that_is_trained_says_its_epochs(tiny: Compose, tmp_path: Path) -> None:
    save(tiny("teacher=mlp", "teacher.trainer.max_epochs=2"), tmp_path / CONFIG_NAME)
    assert trial.prepare([str(tmp_path)]) == 0
    lines = (tmp_path / SPOKEN_NAME).read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("teacher")] == ["1/2", "2/2"]
