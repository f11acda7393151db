"""The sweep that prompts, tunes or distils is a command that composes, and its page has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sweep_commands import make_plan

from kd_research.configuration.config import save
from kd_research.records.record import CONFIG_NAME

ROOT = Path(__file__).resolve().parents[2]
NAME = "tune_prompt_or_distil"


def test_every_row_composes_and_the_page_tells_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="the extra adapters is not installed")
    monkeypatch.chdir(tmp_path)
    teacher = make_plan("dataset=sst2_words", "student=gpt", "teacher=none", "loss=ce").config
    for run in ("base", "teacher"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "weights.pt").touch()
    save(teacher, tmp_path / "teacher" / CONFIG_NAME)
    plan = make_plan(f"+sweeps={NAME}", "base=base", f"teacher.run={tmp_path / 'teacher'}")
    page = (ROOT / "docs" / "reproductions" / f"{NAME}.md").read_text()
    trained = {}
    for label in plan.rows:
        config = plan.composition.compose({"row": label})
        trained[label] = (
            config.trainer.max_epochs,
            bool(config.student.adapter),
            config.loss.terms,
        )
        assert label in page
    assert [label for label, each in trained.items() if not each[0]] == ["teacher", "few_shot_4"]
    assert [label for label, each in trained.items() if each[1]] == [
        *("few_shot_4", "prompt_tuning", "lora"),
    ]
    assert [*trained["small_on_policy"][2]] == ["gkd"]
    assert re.search(rf"\+sweeps={NAME} base=\S+ teacher.run=\S+ dataset.root=\S+", page)
