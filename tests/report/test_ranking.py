"""Ours against the published order of a paper's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kd_research.configuration.statements import ranking_problems
from kd_research.records.record import RunRecord, write_record
from kd_research.report import load_sweep, write_report
from kd_research.report.ranking import OPEN, OPPOSITE, SAME, Ranking, ranking, spearman

PUBLISHED = {"a": 0.70, "b": 0.71, "c": 0.72, "d": 0.73, "e": 0.74}


def ranked(
    directory: Path, ours: dict[str, tuple[float, ...]], seeds: int = 2, **changes: Any
) -> Ranking:
    """The ranking of a sweep whose rows came to so much."""
    rows: dict[str, Any] = {
        label: {"overrides": {"loss": label}, "expected": {"test_accuracy": value}}
        for label, value in PUBLISHED.items()
    }
    rows["other"] = {"overrides": {}, "expected": {"test_accuracy": 0.1}, "tolerance": None}
    paper = {"tolerance": 0.005, "ranking": {"metric": "test_accuracy", "spread": 0.015}}
    spec = {"name": "p", "objectives": {"val_accuracy": "maximize"}, "seeds": seeds, "rows": rows}
    spec |= {"paper": paper, **changes}
    directory.mkdir()
    (directory / "sweep.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(spec)))
    for number, (label, values) in enumerate(ours.items()):
        trial = directory / "trials" / f"{number:04d}"
        for seed, value in enumerate(values):
            folder = trial / f"seed-{seed}"
            folder.mkdir(parents=True)
            metrics = {"val_accuracy": value, "test_accuracy": value}
            write_record(RunRecord("completed", {}, seed, metrics), folder)
        proposal = {"number": number, "label": label, "params": {"loss": label}}
        (trial / "proposal.json").write_text(json.dumps(proposal))
    sweep = load_sweep(directory)
    found = ranking(sweep, sweep.spec)
    assert found is not None
    return found


def around(mean: float, spread: float = 0.001) -> tuple[float, float]:
    return (mean - spread, mean + spread)


@pytest.mark.parametrize(
    ("one", "other", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [40, 30, 20, 10], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # ties: scipy's documentation
        ([1, 2, 3, 4, 5], [1, 3, 2, 5, 4], 0.8),  # 1 - 6 * 4 / (5 * 24)
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3, 4], [1, 1, 1, 1], None),
    ],
)
def test_spearman_of_known_values(one: list[float], other: list[float], rho: float | None) -> None:
    found = spearman(one, other)
    assert found == (None if rho is None else pytest.approx(rho))


def test_the_same_order_with_little_spread(tmp_path: Path) -> None:
    ours = {label: around(value - 0.3) for label, value in PUBLISHED.items()}
    found = ranked(tmp_path / "p", {**ours, "other": around(0.9)})
    assert found.rho == pytest.approx(1)
    assert found.over_seeds is not None
    assert found.over_seeds[0] >= 0.9, "0.01 apart, with an error of 0.001"
    assert found.over_rows is not None
    assert list(found.ours) == list(PUBLISHED), "a row without a tolerance is not comparable"
    assert [(gap.better, gap.worse) for gap in found.gaps][:1] == [("e", "a")]
    assert len(found.gaps) == 6, "of ten pairs four differ by less than the paper can show"
    assert {gap.said for gap in found.gaps} == {SAME}
    # Pooled: s = 0.001 sqrt(2) of five rows, five degrees of freedom, t = 2.5706, of n = 2 each.
    assert found.gaps[0].half_width == pytest.approx(2.570582 * 0.001 * 2**0.5)


def test_the_opposite_order_and_what_cannot_be_told(tmp_path: Path) -> None:
    turned = {label: around(1 - value) for label, value in PUBLISHED.items()}
    found = ranked(tmp_path / "p", turned)
    assert found.rho == pytest.approx(-1)
    assert {gap.said for gap in found.gaps} == {OPPOSITE}
    wide = {label: around(value, 0.1) for label, value in PUBLISHED.items()}
    found = ranked(tmp_path / "q", wide)
    assert {gap.said for gap in found.gaps} == {OPEN}
    assert found.rho == pytest.approx(1)
    assert found.over_seeds is not None
    assert found.over_seeds[0] < 0 < found.over_seeds[1], "seeds differ more than rows"


def test_rows_that_lack_seeds_are_left_out_and_one_seed_has_no_interval(tmp_path: Path) -> None:
    ours = {label: around(value) for label, value in PUBLISHED.items()}
    found = ranked(tmp_path / "p", {**ours, "e": (0.2,)})
    assert (found.left_out, list(found.ours)) == (["e"], ["a", "b", "c", "d"])
    assert found.rho == pytest.approx(1)
    found = ranked(tmp_path / "q", {label: own[:1] for label, own in ours.items()}, seeds=1)
    assert found.rho == pytest.approx(1)
    assert (found.over_seeds, found.over_rows) == (None, None)
    assert {gap.said for gap in found.gaps} == {OPEN}
    found = ranked(tmp_path / "r", {"a": ours["a"]})
    assert (found.rho, found.over_seeds, found.gaps) == (None, None, [])


def test_a_reduced_run_has_a_ranking_and_says_what_it_is(tmp_path: Path) -> None:
    ours = {label: around(value - 0.3) for label, value in PUBLISHED.items()}
    ranked(tmp_path / "p", ours, budget={"epochs": 0.1})
    summary = write_report(tmp_path / "p")
    assert summary.ledger is not None
    text = summary.ledger.read_text()
    assert "| a | test_accuracy | 70.00% | 40.00 ± 0.14% (2) | -30.00% |" in text
    assert "Of rows that are **reduced**: it speaks of this run alone." in text
    assert "Spearman's rho of test_accuracy, 5 rows (n = 2 each): **1.00**, 95 % " in text
    assert "- Ours: e, d, c, b, a\n" in text
    assert "Of 6 pairs that differ in the paper by more than 1.50: **6 same sign, 0 opp" in text
    assert "| e | a | +4.00 | +4.00 ± 0.36 | same sign |" in text
    content = json.loads((tmp_path / "p" / "ledger.json").read_text())
    data = content["ranking"]
    assert data["rho"] == pytest.approx(1)
    assert data["gaps"][0]["said"] == SAME
    assert {row["verdict"] for row in content["rows"]} == {"reduced", "not run"}


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"metric": "test_accuracy"}, "sweep.paper.ranking needs metric, and spread"),
        ("test_accuracy", "sweep.paper.ranking needs metric, and spread"),
        ({"metric": "test_acuracy", "spread": 0}, "did you mean test_accuracy?"),
        ({"metric": "test_accuracy", "spread": -1}, "ranking.spread must be >= 0, got -1"),
        ({"metric": "test_accuracy", "spread": 0, "rows": []}, "ranking has no rows"),
        ({"metric": "val_nll", "spread": 0}, "of those that are run 0 have both"),
        ({"metric": "test_accuracy", "spread": 0}, "at least 4 rows"),
    ],
)
def test_what_a_ranking_needs_is_told_before_training(stated: Any, said: str) -> None:
    rows = {label: {"expected": {"test_accuracy": 0.5}} for label in "abc"}
    rows["d"] = {"expected": {"test_accuracy": 0.5}, "tolerance": None}  # type: ignore[dict-item]
    told = list(ranking_problems({"tolerance": 0.1, "ranking": stated}, rows))
    assert len(told) >= 1
    assert said in told[0]
    rows["e"] = {"expected": {"test_accuracy": 0.5}}
    good = {"tolerance": 0.1, "ranking": {"metric": "test_accuracy", "spread": 0.0}}
    assert list(ranking_problems(good, rows)) == []
