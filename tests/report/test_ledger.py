"""The ledger's verdicts, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from kd_research.configuration.rows import changed
from kd_research.configuration.statements import paper_problems
from kd_research.records.record import RunRecord, write_record
from kd_research.records.spent import note_spent
from kd_research.report import load_sweep, write_report
from kd_research.report.best_of import best_of
from kd_research.report.ledger import entries
from kd_research.report.ledger_data import ledger_data
from kd_research.report.verdicts import FAR_BETTER, claim_verdict, of_another_run, verdict


@pytest.mark.parametrize(
    ("metric", "published", "mean", "tolerance", "said"),
    [
        ("test_accuracy", 0.75, 0.746, 0.005, "reproduced"),
        ("test_accuracy", 0.75, 0.755, 0.005, "reproduced"),
        ("test_accuracy", 0.75, 0.76, 0.005, "better"),
        ("test_accuracy", 0.75, 0.78, 0.005, FAR_BETTER),
        ("test_errors", 4730, 2679, 500, FAR_BETTER),  # another protocol, not a better method
        ("test_accuracy", 0.75, 0.74, 0.005, "not reproduced"),
        ("test_errors", 74, 60, 10, "better"),
        ("test_errors", 74, 90, 10, "not reproduced"),
        ("test_errors", 74, 70, None, "not comparable"),
        ("test_nll", 0.2, 0.6, 0.05, "not reproduced"),
        ("latency_ms", 9, 8, 0.5, "better"),
        ("speedup", 2, 1, 0.5, "not reproduced"),
    ],
)
def test_verdicts(
    metric: str, published: float, mean: float, tolerance: float | None, said: str
) -> None:
    assert verdict(metric, published, (mean, mean, mean), tolerance) == said
    alone = verdict(metric, published, (mean,), tolerance)
    assert alone == (said if "comparable" in said else f"{said} (1 seed, no interval)")


def test_a_row_s_verdict_is_that_of_its_interval() -> None:
    """0.748 and 0.744 are within 0.005 of 0.75 in the mean: two such seeds do not say so."""
    assert verdict("test_accuracy", 0.75, (0.748, 0.744), 0.005).startswith("undecided: ± 2.54%")
    many = (0.748, 0.749, 0.75, 0.751, 0.752)
    assert verdict("test_accuracy", 0.75, many, 0.005) == "reproduced"
    assert verdict("test_accuracy", 0.76, many, 0.005) == "not reproduced"
    assert verdict("test_accuracy", 0.74, many, 0.005) == "better"
    assert verdict("test_accuracy", 0.745, many, 0.005).startswith("undecided")
    assert verdict("test_accuracy", 0.73, many, 0.005) == FAR_BETTER
    assert verdict("test_accuracy", 0.734, many, 0.005) == "better", "not its whole interval"


def test_more_devices_change_a_row_unless_batchnorm_sees_the_whole_batch() -> None:
    assert changed(["trainer.devices=8"]) == ["trainer.devices=8"]
    assert changed(["trainer.devices=8", "+trainer.sync_batchnorm=true"]) == []
    assert changed(["trainer.devices=1", "trainer.accelerator=gpu", "num_threads=2"]) == []
    assert changed(["trainer.num_nodes=2", "optimizer.lr=1"]) == [
        "trainer.num_nodes=2",
        "optimizer.lr=1",
    ]


def test_claims_need_every_row_and_more_than_the_interval() -> None:
    claim = {"metric": "test_errors", "better": ["a"], "worse": ["b"]}
    far = {"a": (10.0, 11.0, 12.0), "b": (20.0, 21.0, 22.0)}
    near = {"a": (10.0, 20.0, 12.0), "b": (11.0, 22.0, 14.0)}
    assert claim_verdict(claim, far) == "reproduced"
    assert claim_verdict({**claim, "factor": 0.7}, far) == "reproduced"
    barely = claim_verdict({**claim, "factor": 0.6}, far)  # by their means, not by the interval
    assert barely.startswith("same direction, but not beyond the interval"), barely
    assert barely.endswith(", 0.52 times (at most 0.6: +1.6 ± 2.045)"), barely
    over = claim_verdict({**claim, "factor": 0.5}, far)
    assert over.startswith("undecided"), over
    assert "0.52 times (at most 0.5: -0.5" in over, over
    assert claim_verdict({**claim, "factor": 0.3}, far).startswith("not reproduced"), "by far"
    assert claim_verdict(claim, near).startswith("same direction, but not beyond the interval")
    assert claim_verdict({**claim, "metric": "test_nll"}, far) == "reproduced"
    assert claim_verdict(claim, far, num_seeds=4) == "unfinished: a 3 of 4, b 3 of 4 seeds"
    equal = {"a": (10.0, 10.0), "b": (11.0, 11.0)}
    assert claim_verdict(claim, equal).endswith("a against b: +1 without a spread")
    assert claim_verdict(claim, {"a": far["b"], "b": far["a"]}).startswith("not reproduced")
    assert claim_verdict(claim, {"a": (1.0,)}) == "not run: b"
    same = {"metric": "test_errors", "similar": ["a", "b"], "tolerance": 5}
    assert claim_verdict(same, far).startswith("not reproduced")
    assert claim_verdict(same, near).startswith("undecided: the means differ by 1.667 ± ")
    assert claim_verdict({**same, "tolerance": 20}, near).startswith("reproduced")
    swapped = {"a": near["b"], "b": near["a"]}
    assert claim_verdict(claim, swapped).startswith("undecided: a against b: -1.667 ± ")


def write(directory: Path, **changes: Any) -> None:
    """A sweep of two rows: one that ran on two seeds, one that did not."""
    rows = {
        "kd": {
            "overrides": {"loss": "kd"},
            "expected": {"test_accuracy": 0.75, "test_errors": 1, "test_errors_on_1": 1},
            "tolerance": 0.5,
            "selection": "last epoch",
            "reason": "coarse",
        },
        "dkd": {"overrides": {"loss": "dkd"}, "expected": {"test_accuracy": 0.9}},
        "ce": {"overrides": {"loss": "ce"}},
    }
    spec = {"name": "p", "objectives": {"val_accuracy": "maximize"}, "seeds": 2, "rows": rows}
    spec |= {"paper": {"citation": "Someone 2020"}, "command": "python ...", **changes}
    directory.mkdir()
    (directory / "sweep.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(spec)))
    for number, label in enumerate(("kd", "ce")):
        trial = directory / "trials" / f"{number:04d}"
        for seed in range(2):
            folder = trial / f"seed-{seed}"
            folder.mkdir(parents=True)
            metrics = {"val_accuracy": 0.7, "test_accuracy": 0.5}
            metrics |= {"test_accuracy_last_epoch": 0.6 + 0.1 * seed}
            git = {"commit": f"{seed}5bec5cf3", "dirty": bool(seed)}
            record = RunRecord("completed", {}, seed, metrics, provenance={"git": git})
            write_record(record, folder)
            np.savez(
                folder / "predictions.npz",
                val_labels=np.array([0, 1]),
                test_labels=np.array([0, 0, 1, 1]),
                test_student=np.array([1, 0, 0, 1]),
                test_teacher=np.array([0, 0, 1, 1]),
            )
        proposal = {"number": number, "label": label, "params": {"loss": label}}
        (trial / "proposal.json").write_text(json.dumps(proposal))


def test_the_ledger_of_a_sweep(tmp_path: Path) -> None:
    write(tmp_path / "p")
    summary = write_report(tmp_path / "p")
    assert summary.ledger is not None
    text = summary.ledger.read_text()
    assert "Someone 2020" in text
    line = next(line for line in text.splitlines() if line.startswith("| kd | test_accuracy |"))
    assert "75.00%" in line
    assert "50.00 ± 0.00% (2)" in line
    assert "-25.00%" in line
    assert "65.00 ± 7.07% (2)† (last epoch)" in line
    assert line.endswith("| reproduced |")
    assert "| kd | test_errors | 1 | 2 ± 0 (2) | +1 |" in text
    assert "| kd | test_errors_on_1 | 1 | 1 ± 0 (2) | +0 |" in text
    assert "| dkd | test_accuracy | 90.00% | - | - | unknown | - | not run |" in text
    assert "| ce | 70.00 ± 0.00% (2) | 50.00 ± 0.00% (2) | not comparable |" in text
    assert "Measured on 2 validation and 4 test examples." in text


def test_the_ledger_as_data(tmp_path: Path) -> None:
    command = "python -m kd_research.run -m +sweeps=papers/p sweep.seeds=2 output_dir=o trainer.x=1"
    write(tmp_path / "p", command=f"{command} dataset.root=/data tracking=disabled")
    note_spent(tmp_path / "p", 5400.0)
    sweep = write_report(tmp_path / "p").sweep
    data = json.loads((tmp_path / "p" / "ledger.json").read_text())
    assert data == ledger_data(sweep, sweep.spec)
    assert data["typed"] == ["sweep.seeds=2", "trainer.x=1"], "nothing of this machine"
    assert data["commits"] == ["05bec5c", "15bec5c with changes"]
    assert data["preparation_hours"] == 1.5
    kd, *_, dkd = data["rows"]
    assert (kd["row"], kd["metric"], kd["published"]) == ("kd", "test_accuracy", 0.75)
    assert (kd["ours"], kd["half_width"], kd["verdict"]) == ([0.5, 0.5], 0.0, "reproduced")
    assert (dkd["row"], dkd["ours"], dkd["half_width"]) == ("dkd", [], None)
    assert dkd["verdict"] == "not run"
    ce = {row["metric"]: row for row in data["unpublished"]}
    assert (ce["val_accuracy"]["row"], ce["val_accuracy"]["ours"]) == ("ce", [0.7, 0.7])
    assert ce["test_accuracy"]["verdict"] == "not comparable"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": {"epochs": 0.1, "data": 1.0}}, "reduced"),
        ({"budget": {"epochs": 1.0, "data": 1.0}}, "reproduced"),
        ({"changed": ["trainer.max_epochs=2"]}, "not comparable"),
    ],
)
def test_less_than_the_paper_is_never_reproduced(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write(tmp_path / "p", **changes)
    spec: Any = OmegaConf.to_container(OmegaConf.load(tmp_path / "p" / "sweep.yaml"))
    assert entries(load_sweep(tmp_path / "p"), spec)[0].verdict == said


def test_rows_without_all_their_seeds_are_no_verdict(tmp_path: Path) -> None:
    rows = {
        "kd": {"overrides": {"loss": "kd"}, "expected": {"test_accuracy": 0.5}, "tolerance": 0.1},
        "ce": {"overrides": {"loss": "ce"}},
    }
    claim = {"text": "c", "metric": "val_accuracy", "better": ["kd"], "worse": ["ce"]}
    write(tmp_path / "p", rows=rows, seeds=3, paper={"claims": [claim]})
    path = tmp_path / "p" / "trials" / "0001" / "seed-1"
    write_record(RunRecord("failed", {}, 1, error="broken"), path)
    ledger = write_report(tmp_path / "p").ledger
    assert ledger is not None
    text = ledger.read_text()
    assert "| unfinished (2 of 3 seeds) |" in text
    assert "| failed (1 of 3 seeds completed) |" in text
    assert "Claim: c. **unfinished: kd 2 of 3, ce 1 of 3 seeds**" in text
    data = json.loads((tmp_path / "p" / "ledger.json").read_text())
    said = "unfinished: kd 2 of 3, ce 1 of 3 seeds"
    assert data["claims"] == [{"text": "c", "verdict": said}]
    assert "reproduced" not in text


def test_another_test_set_than_the_paper_s_is_not_comparable(tmp_path: Path) -> None:
    write(tmp_path / "p", paper={"test_examples": 10_000})
    ledger = write_report(tmp_path / "p").ledger
    assert ledger is not None
    text = ledger.read_text()
    assert "4 test examples; **the paper's test set has 10,000**." in text
    assert "| not comparable |" in text
    assert "| reproduced |" not in text


def test_a_paper_s_protocol_without_numbers_is_reduced_too(tmp_path: Path) -> None:
    rows = {
        "ce": {"overrides": {"loss": "ce"}},
        "kd": {"overrides": {"loss": "kd"}, "paired_with": ["ce", "dkd"]},
        "dkd": {"overrides": {"loss": "dkd"}},
    }
    claim = {"text": "it helps", "metric": "val_accuracy", "better": ["kd"], "worse": ["ce"]}
    write(tmp_path / "p", rows=rows, budget={"epochs": 0.1}, paper={"claims": [claim]})
    write_record(
        RunRecord("completed", {}, 1, {"val_accuracy": 0.8, "test_accuracy": 0.5}),
        tmp_path / "p" / "trials" / "0000" / "seed-1",
    )
    ledger = write_report(tmp_path / "p").ledger
    assert ledger is not None
    text = ledger.read_text()
    assert "**Reduced**: run on a share of the paper's epochs 0.1." in text
    assert "| kd | 75.00 ± 7.07% (2) | reduced |" in text
    assert "| dkd | - | not run |" in text
    assert "| kd | ce | +5.00% ± 63.53% (2) | +0.00% ± 0.00% (2) |" in text
    assert "| kd | dkd |" not in text
    assert "\n\n\n" not in text
    assert "Claim: it helps. **reduced: same direction, but not beyond the interval" in text
    assert "reproduced" not in text.split("it helps")[1].splitlines()[0]


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("reproduced", "reduced: in this run it holds"),
        ("not reproduced: a against b", "reduced: in this run it does not hold: a against b"),
        ("not run: a", "not run: a"),
    ],
)
def test_a_claim_of_a_reduced_run_is_never_reproduced(said: str, instead: str) -> None:
    assert of_another_run(said, "reduced") == instead


def test_no_ledger_without_published_numbers(tmp_path: Path) -> None:
    write(tmp_path / "p", rows={"ce": {"overrides": {"loss": "ce"}}}, paper=None)
    assert write_report(tmp_path / "p").ledger is None


def test_the_best_of_many_settings_stands_beside_what_validation_chose(tmp_path: Path) -> None:
    rows = {label: {"overrides": {"loss": label}} for label in ("kd", "ce", "dkd")}
    many = {"text": "tuned", "expected": {"test_accuracy": 0.6}, "tolerance": 0.2}
    write(tmp_path / "p", rows=rows, paper={"best_of": [{**many, "rows": ["kd", "ce"]}]})
    for seed in range(2):
        folder = tmp_path / "p" / "trials" / "0001" / f"seed-{seed}"
        metrics = {"val_accuracy": 0.8, "test_accuracy": 0.45, "test_accuracy_best_epoch": 0.48}
        write_record(RunRecord("completed", {}, seed, metrics), folder)
    ledger = write_report(tmp_path / "p").ledger
    assert ledger is not None
    start = (
        "| tuned: best of 2 settings | test_accuracy | 60.00% | 45.00 ± 0.00% (2) ce | -15.00% |"
    )
    line = next(line for line in ledger.read_text().splitlines() if line.startswith("| tuned"))
    assert line == f"{start} 50.00%† | reproduced |"
    write(tmp_path / "q", rows=rows, paper={"best_of": [{**many, "rows": list(rows)}]})
    ledger = write_report(tmp_path / "q").ledger
    assert ledger is not None
    assert "| unfinished (2 of 3 settings) |" in ledger.read_text()
    sweep = load_sweep(tmp_path / "q")
    (line,) = best_of(sweep, sweep.spec, "reduced")
    assert line.verdict == "reduced (2 of 3 settings)"


def test_what_is_stated_of_many_settings_is_checked() -> None:
    stated = [
        {"text": "t", "rows": ["x"], "expected": {"val_accuracy": 0.5}},
        {"text": "t", "rows": "kd", "expected": {"test_accuracy": 0.5}},
    ]
    told = "\n".join(paper_problems({"best_of": stated}, {"kd": {}}))
    assert "sweep.paper.best_of[0].rows: there is no row x; there are: kd" in told
    assert "best_of[0].expected.val_accuracy is not of test" in told
    assert "best_of[1] needs text, rows (a list of them), and expected" in told
