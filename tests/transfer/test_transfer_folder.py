"""Where transfer sets lie: a folder each, under a key of all that decides what is in them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from test_transfer import IMPRESSIONS
from tiny import Compose, plain

from kd_research.configuration.config import ConfigError
from kd_research.trial.assembly import Parts


def test_another_layout_is_another_set(tiny: Compose, tmp_path: Path) -> None:
    here = f"output_dir={tmp_path}"
    teacher = Parts(plain(tiny(here, *IMPRESSIONS))).teacher
    assert teacher is not None
    given = (here, *IMPRESSIONS, f"teacher.checkpoint={teacher.path}")
    keys = {
        Parts(plain(tiny(*given, f"channels_last={each}"))).data.fingerprint()
        for each in ("true", "false")
    }
    assert len(keys) == 2, "the rounding of what is made is another"


def test_a_file_in_the_place_of_a_folder_is_told(
    tiny: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, place = plain(tiny(f"output_dir={tmp_path}", *IMPRESSIONS)), tmp_path / "transfer"
    place.touch()
    with pytest.raises(ConfigError, match=f"{place}: a file where a folder belongs; move it away"):
        Parts(config)
    assert not (tmp_path / "teachers").exists(), "before it is trained"
    place.unlink()
    Parts(config)
    (made,) = (each for each in place.iterdir() if each.is_dir())
    (made / "meta.json").write_text("{")
    with caplog.at_level(logging.INFO):
        Parts(config)
    assert "in place of what has no readable meta.json" in caplog.text
    shutil.rmtree(made)
    for name in (made.name, f"{made.name}.parts"):
        (place / name).touch()
        with pytest.raises(ConfigError, match=f"{name}: a file where a folder belongs"):
            Parts(config)
        (place / name).unlink()
