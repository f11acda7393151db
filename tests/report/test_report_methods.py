"""The statistics of a comparison, and its page from files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_rel

from kd_research.records.record import RunRecord, write_record
from kd_research.report import load_sweep, write_report
from kd_research.report.by_seed import difference, holm
from kd_research.report.methods import best_so_far, corrected_tests


def test_the_paired_difference_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.9, 0.01, 8), rng.normal(0.89, 0.01, 8)
    found = difference(dict(enumerate(one)), {**dict(enumerate(other)), 99: 0.1})
    expected = ttest_rel(one, other)
    low, high = expected.confidence_interval(0.95)
    assert found is not None
    assert found.n == 8
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.mean == pytest.approx((low + high) / 2)
    assert found.half_width == pytest.approx((high - low) / 2)


def test_differences_of_few_or_equal_values() -> None:
    assert difference({0: 1.0}, {1: 1.0}) is None
    single = difference({0: 1.0}, {0: 0.5})
    assert single is not None
    assert (single.mean, single.half_width, single.p_value) == (0.5, None, None)
    same = difference({0: 1.0, 1: 0.5}, {0: 1.0, 1: 0.5})
    assert same is not None
    assert (same.half_width, same.p_value) == (0.0, 1.0)
    always = difference({0: 1.0, 1: 0.5}, {0: 0.5, 1: 0.0})
    assert always is not None
    assert (always.half_width, always.p_value) == (None, None)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_baselines_are_tested_against_each_other_once() -> None:
    values = {"kd": {0: 1.0, 1: 2.0}, "ce": {0: 1.0, 1: 1.5}, "x": {0: 3.0, 1: 3.5}}
    assert set(corrected_tests(values, ["kd", "ce"])) == {("ce", "kd"), ("x", "kd"), ("x", "ce")}
    of_three = corrected_tests(values, ["kd", "ce", "x"])
    assert set(of_three) == {("ce", "kd"), ("x", "kd"), ("x", "ce")}


def write(directory: Path, number: int, label: str | None, seeds: dict[int, Any]) -> None:
    trial = directory / "trials" / f"{number:04d}"
    for seed, accuracy in seeds.items():
        run = trial / f"seed-{seed}" if len(seeds) > 1 else trial
        status = "failed" if accuracy is None else "completed"
        names = ("val_accuracy", "test_accuracy", "test_nll", "speedup")
        metrics = dict.fromkeys(names, accuracy)
        costs = {"cached_teacher_epoch_cpu_seconds": 0.05, "train_step_bytes": 2048}
        if label == "kd":  # it was the first to ask for the outputs
            costs = {"live_teacher_epoch_cpu_seconds": 0.2, "train_step_bytes": 2048}
        record = RunRecord(status, {}, seed, metrics, costs, provenance={"seconds": 2.0})
        run.mkdir(parents=True)
        write_record(record, run)
    proposal = {"number": number, "label": label, "params": {"optimizer.lr": 0.01 * (number + 1)}}
    (trial / "proposal.json").write_text(json.dumps(proposal))


def make(directory: Path, metric: str = "test_accuracy") -> None:
    spec: dict[str, Any] = {"name": "c", "objectives": {"val_accuracy": "maximize"}, "n_trials": 3}
    methods = {name: {"overrides": {"loss": name}} for name in ("ce", "kd", "dkd")}
    final = {**spec, "seeds": 3, "methods": methods, "against": ["kd"], "metric": metric}
    directory.mkdir()
    (directory / "sweep.yaml").write_text(json.dumps({**final, "command": "python ..."}))
    for name, values in {"ce": [None, 0.5, 0.4], "kd": [0.6, 0.5, 0.7]}.items():
        tuning = directory / "tuning" / name
        tuning.mkdir(parents=True)
        (tuning / "sweep.yaml").write_text(yaml.safe_dump(spec))
        for number, value in enumerate(values):
            write(tuning, number, None, {0: value})
    write(directory, 0, "ce", {1: 0.50, 2: 0.52, 3: 0.51})
    write(directory, 1, "kd", {1: 0.70, 2: 0.721, 3: 0.71})


def page_with(directory: Path, costs: dict[str, float]) -> str:
    """The page of a comparison whose second method had these costs too."""
    make(directory)
    for path in (directory / "trials" / "0001").glob("seed-*/record.json"):
        record = json.loads(path.read_text())
        record["costs"] |= costs
        path.write_text(json.dumps(record))
    summary = write_report(directory)
    assert summary.methods is not None
    return summary.methods.read_text()


def test_what_text_cost_to_draw_is_on_the_page(tmp_path: Path) -> None:
    drawn = {"generation_seconds": 4.0, "generated_tokens": 5000, "on_policy_share": 0.5}
    page = page_with(tmp_path / "c", drawn)
    assert "| seconds of drawing text | thousands of tokens drawn |" in page
    assert "| kd | - | 200.0 | 2.0 | 6 | 4.0 | 5.0 | 50.0 |" in page
    assert "| ce | 50.0 | - | 2.0 | 6 | - | - | - |" in page


def test_what_the_stages_of_a_method_cost_is_on_the_page(tmp_path: Path) -> None:
    stages = {"stage_one_seconds": 4.0, "stage_two_seconds": 1.5, "stage_one_cpu_seconds": 9.0}
    page = page_with(tmp_path / "c", stages)
    assert "| seconds of all tuning runs | seconds of the stages before |" in page
    assert "| kd | - | 200.0 | 2.0 | 6 | 5.5 |" in page
    assert "| ce | 50.0 | - | 2.0 | 6 | 0.0 |" in page


def test_the_page_of_a_comparison_that_still_runs(tmp_path: Path) -> None:
    make(tmp_path / "c")
    summary = write_report(tmp_path / "c")
    assert summary.methods is not None
    page = summary.methods.read_text()
    rows = {line.split(" | ")[0][2:]: line for line in page.splitlines()[::-1] if " | " in line}
    assert rows["ce"].startswith("| ce | 51.00 ± 2.48% (3) | -20.03 ± 0.14, p ")
    assert rows["ce"].endswith(": worse |")
    assert rows["kd"] == "| kd | 71.03 ± 2.61% (3) | - |"
    assert rows["dkd"] == "| dkd | - | - |"
    assert "| kd | - | 200.0 | 2.0 | 6 |" in page
    assert "| ce | 50.0 | - | 2.0 | 6 |" in page
    assert "± of a cost is a 95 % t interval too" in page
    assert "| kd | 70.00% | 2 | optimizer.lr=0.03 |" in page
    assert "| ce | - | 50.00% | 50.00% |" in page
    assert "Tuning trials: ce 3, kd 3, dkd 0; seeds 0." in page
    assert best_so_far(load_sweep(tmp_path / "c" / "tuning" / "kd")) == [0.6, 0.6, 0.7]
    assert (tmp_path / "c" / "tuning.svg").is_file()


@pytest.mark.parametrize(
    ("metric", "order", "said"),
    [
        ("test_nll", ["ce", "kd", "dkd"], "better"),
        ("speedup", ["kd", "ce", "dkd"], "worse"),
    ],
)
def test_what_is_better_depends_on_the_metric(
    tmp_path: Path, metric: str, order: list[str], said: str
) -> None:
    make(tmp_path / "c", metric)
    methods = write_report(tmp_path / "c").methods
    assert methods is not None
    lines = methods.read_text().split(f"| {metric} (n) |")[1].splitlines()[2:5]
    assert [line.split(" | ")[0][2:] for line in lines] == order
    assert lines[order.index("ce")].endswith(f": {said} |")
