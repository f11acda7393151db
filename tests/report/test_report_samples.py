"""What language models write, in report.md and on the page."""

import json

import pytest

from kd_research.records.record import SAMPLES_NAME
from kd_research.report import write_report
from kd_research.report.page import page_data

SAMPLES = [{"prompt": "To be", "text": " or not", "student": " <b>\nx", "teacher": None}]


def test_samples_stand_side_by_side(sweep_folder):
    for trial in sorted((sweep_folder / "trials").iterdir()):
        (trial / SAMPLES_NAME).write_text(json.dumps({"samples": SAMPLES}))
    sweep = write_report(sweep_folder).sweep
    evaluations = page_data(sweep)["evaluations"]
    assert all(known["samples"] == SAMPLES for known in evaluations.values())
    page = (sweep_folder / "report.html").read_text()
    assert "What they write" in page
    assert "<b>\\nx" not in page, "text of a model is no markup"
    report = (sweep_folder / "report.md").read_text()
    assert f"## What trial {sweep.front[0].number} writes" in report
    assert "- student:\n\n       <b>\n      x\n" in report


@pytest.mark.parametrize("content", ['{"samples": [1]}', "{", '{"samples": [{"student": 3}]}'])
def test_damaged_samples_are_named(sweep_folder, content):
    (sweep_folder / "trials" / "0001" / SAMPLES_NAME).write_text(content)
    sweep = write_report(sweep_folder).sweep
    assert any(SAMPLES_NAME in line for line in sweep.damaged)


def test_without_samples_there_is_no_section(sweep_folder):
    sweep = write_report(sweep_folder).sweep
    assert not any("samples" in known for known in page_data(sweep)["evaluations"].values())
    assert "writes" not in (sweep_folder / "report.md").read_text()
