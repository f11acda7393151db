"""What is known of a teacher of text is found by the first run, and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from positions_data import with_positions
from tiny import Compose, plain

from kd_research.evaluation import positions
from kd_research.trial.assembly import Parts


def test_a_live_teacher_of_text_reads_validation_once_for_all_runs(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = plain(with_positions(tiny, f"output_dir={tmp_path}", "soft_targets.cache=false"))
    accuracy = Parts(config).teacher_accuracy()
    assert 0 < accuracy <= 1
    monkeypatch.setattr(positions, "share_right", lambda *_: pytest.fail("it was asked again"))
    assert Parts(config).teacher_accuracy() == accuracy
    config["teacher"]["seed"] += 1  # another teacher
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        Parts(config).teacher_accuracy()
