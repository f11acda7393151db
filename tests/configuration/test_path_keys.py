"""The paths that a user gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny import composed

from kd_research.configuration.config import ConfigError, check
from kd_research.configuration.paths import differ, settle


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = composed(
        *("teacher.checkpoint=here.pt", "student.checkpoint='~/there.pt'", "output_dir=out"),
        *("dataset=mnist", "dataset.store=store", "++teacher.dataset.root=other"),
    )
    settle(config)
    assert config.teacher.checkpoint == str(tmp_path / "here.pt")
    assert config.student.checkpoint == str(tmp_path / "there.pt")
    assert config.output_dir == str(tmp_path / "out")
    assert config.dataset.store == str(tmp_path / "store")
    assert config.teacher.dataset.root == str(tmp_path / "other")
    assert differ(config, ["dataset.root"])
    assert not differ(config, ["loss.lambda"])


def test_a_path_that_refers_to_another_key_is_each_trials_own() -> None:
    config = composed("teacher.checkpoint='${seed}.pt'")
    OmegaConf.set_struct(config, True)
    settle(config, of_all_trials=True)
    assert differ(config, [])


@pytest.mark.parametrize("key", ["output_dir", "dataset.root", "student.checkpoint"])
@pytest.mark.parametrize("value", ["' '", "${oc.env:EMPTY}"])
def test_an_empty_path_is_refused(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the folder here, or the root of the disk."""
    monkeypatch.setenv("EMPTY", "")
    config = composed("dataset=mnist", f"{key}={value}")
    settle(config)
    with pytest.raises(ConfigError, match=rf"{key} is empty, which .*; type {key}=FOLDER"):
        check(config)
