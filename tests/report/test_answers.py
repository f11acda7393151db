"""Questions to a sweep of rows, answered from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kd_research.records.record import RunRecord, write_record
from kd_research.report import write_report

ROWS = {
    "plain": (0.50, 0.52, 0.51),
    "distilled": (0.60, 0.621, 0.61),
    "other": (0.50, 0.53, 0.50),
    "late": (),
}
QUESTIONS: list[dict[str, Any]] = [
    {
        "text": "Which?",
        "metric": "test_accuracy",
        "differences": {
            "soft": ["distilled", "plain"],
            "hard": ["plain", "distilled"],
            "same": ["other", "plain"],
            "unknown": ["late", "plain"],
        },
    },
    {"text": "How dear?", "rows": ["plain", "late"], "values": ["num_params", "energy_joules"]},
]


def make(directory: Path, questions: list[dict[str, Any]]) -> None:
    spec = {"name": "q", "objectives": {"val_accuracy": "maximize"}, "seeds": 3}
    rows = {label: {"overrides": {"loss": "kd"}} for label in ROWS}
    directory.mkdir()
    text = json.dumps({**spec, "rows": rows, "questions": questions, "command": "python ..."})
    (directory / "sweep.yaml").write_text(text)
    for number, (label, accuracies) in enumerate(ROWS.items()):
        trial = directory / "trials" / f"{number:04d}"
        for seed, accuracy in enumerate(accuracies):
            metrics = {"val_accuracy": 0.5, "test_accuracy": accuracy}
            costs = {"num_params": 1000, "energy_joules": None}
            how = {"measurement": {"energy": "not measured: no counter"}, "device": "a processor"}
            (trial / f"seed-{seed}").mkdir(parents=True)
            record = RunRecord("completed", {}, seed, metrics, costs, provenance=how)
            write_record(record, trial / f"seed-{seed}")
        if accuracies:
            proposal = {"number": number, "label": label, "params": {}}
            (trial / "proposal.json").write_text(json.dumps(proposal))


def test_each_question_has_its_table_and_its_answer(tmp_path: Path) -> None:
    make(tmp_path / "q", QUESTIONS)
    summary = write_report(tmp_path / "q")
    assert summary.answers is not None
    page = summary.answers.read_text()
    soft = next(line for line in page.splitlines() if line.startswith("| soft |"))
    assert "| 61.03 ± 2.61% (3) | 51.00 ± 2.48% (3) | +10.03 ± 0.14 | " in soft
    assert soft.endswith("| better |")
    assert "| same | 51.00 ± 4.30% (3) | 51.00 ± 2.48% (3) | +0.00 ± 2.48 | 1 |" in page
    assert "| unknown | - | 51.00 ± 2.48% (3) | not run | - | - |" in page
    assert "**better: soft; worse: hard; no difference shown: same**" in page
    assert "| plain | 1,000 | - | 3 |" in page
    assert "| late | not run | not run | 0 |" in page
    assert "Energy: not measured: no counter." in page
    assert "- Seeds 0 to 2 of every row." in page


def test_nothing_asked_nothing_answered(tmp_path: Path) -> None:
    make(tmp_path / "q", [])
    assert write_report(tmp_path / "q").answers is None
