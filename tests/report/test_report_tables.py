import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from sweep_folders import OBJECTIVES, make_sweep

from kd_research.records.record import RunRecord, read_record, write_json, write_record, write_text
from kd_research.report import load_sweep, write_report
from kd_research.report.__main__ import main
from kd_research.report.numbers import show, show_gap
from kd_research.report.sweep import Run, Trial
from kd_research.report.tables import rerun
from kd_research.report.text import front_table, print_summary


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def best_by_hand(rows):
    """The non-dominated completed trials, from the CSV alone."""
    done = [row for row in rows if row["state"] == "completed"]
    points = {int(r["trial"]): (-float(r["val_accuracy"]), float(r["num_params"])) for r in done}
    return {
        number
        for number, (error, size) in points.items()
        if not any(
            other != (error, size) and other[0] <= error and other[1] <= size
            for other in points.values()
        )
    }


def test_counts_front_and_hypervolume(sweep_folder):
    summary = write_report(sweep_folder)
    assert summary.counts == {"completed": 21, "running": 1, "failed": 1, "pruned": 1}
    rows = rows_of(sweep_folder / "trials.csv")
    assert len(rows) == 24
    front = best_by_hand(rows)
    assert {int(row["trial"]) for row in rows if row["on_front"] == "True"} == front
    assert {int(row["trial"]) for row in rows_of(sweep_folder / "front.csv")} == front
    on_disk = json.loads((sweep_folder / "summary.json").read_text())
    assert set(on_disk["front"]) == front
    assert on_disk["hypervolume"] == summary.hypervolume > 0
    accuracies = [float(row["val_accuracy"]) for row in rows if row["state"] == "completed"]
    assert on_disk["best"]["val_accuracy"]["value"] == max(accuracies)
    assert on_disk["teachers"][0]["num_params"] == 85002


def test_front_of_a_staircase_has_its_area(tmp_path):
    values = [(0.5, 100), (0.7, 300), (0.6, 300), (0.9, 900)]
    for number, (accuracy, size) in enumerate(values):
        folder = tmp_path / "trials" / f"{number:04d}"
        write_json(folder / "proposal.json", {"number": number, "params": {"k": number}})
        metrics, costs = {"val_accuracy": accuracy}, {"num_params": size}
        write_record(RunRecord("completed", {}, 0, metrics, costs), folder)
    spec = {"objectives": OBJECTIVES, "reference_point": {"val_accuracy": 0, "num_params": 1000}}
    write_json(tmp_path / "sweep.yaml", spec)  # JSON is YAML
    summary = write_report(tmp_path)
    assert [trial.number for trial in summary.sweep.front] == [3, 1, 0]
    assert summary.hypervolume == pytest.approx(0.5 * 200 + 0.7 * 600 + 0.9 * 100)
    history = summary.sweep.hypervolume_history
    assert history == pytest.approx([450, 590, 590, 610])


def test_a_trial_is_the_mean_of_its_seeds(seeds_folder):
    sweep = write_report(seeds_folder).sweep
    rows = rows_of(seeds_folder / "trials.csv")
    assert len(rows) == 12 * 3  # one row per seed
    trial = sweep.front[0]
    found = [float(row["val_accuracy"]) for row in rows if int(row["trial"]) == trial.number]
    assert len(found) == 3
    mean = sum(found) / 3
    line = rows_of(seeds_folder / "front.csv")[0]
    assert int(line["trial"]) == trial.number
    assert float(line["val_accuracy"]) == pytest.approx(mean)
    variance = sum((value - mean) ** 2 for value in found) / 2
    assert float(line["val_accuracy_std"]) == pytest.approx(variance**0.5)
    assert line["n"] == "3"
    # Student's t for two degrees of freedom
    assert float(line["val_accuracy_ci95"]) == pytest.approx(4.302653 * (variance / 3) ** 0.5)
    # Two seeds of three are done: the trial still runs and is not on the front.
    assert sweep.trials[11].state == "running"
    assert len(sweep.trials[11].records) == 2
    assert 11 not in [member.number for member in sweep.front]


def test_the_reason_of_a_failure_is_one_line_everywhere(sweep_folder):
    write_report(sweep_folder)
    reason = "RuntimeError: out of memory while <building> the student"
    assert f"trial 3 failed: {reason}" in (sweep_folder / "report.md").read_text()
    stream = io.StringIO()
    print_summary(load_sweep(sweep_folder), Console(file=stream, width=80))
    assert reason in stream.getvalue()


def test_the_terminal_names_front_teacher_and_next_steps(sweep_folder):
    stream = io.StringIO()
    sweep = load_sweep(sweep_folder)
    print_summary(sweep, Console(file=stream, width=80))
    text = stream.getvalue()
    assert "teacher" in text
    assert "98.61%" in text
    assert "…" not in text  # nothing is cut off at 80 columns
    for trial in sweep.front:
        assert show("val_accuracy", trial.mean("val_accuracy")) in text
    assert str(sweep_folder / "report.html") in text
    rerun = sweep.front[0].directory
    assert f"python -m kd_research.trial {rerun}" in text


def test_a_sweep_without_trials_has_a_report(tmp_path):
    write_json(tmp_path / "sweep.yaml", {"objectives": OBJECTIVES, "n_trials": 5})
    summary = write_report(tmp_path)
    assert summary.hypervolume is None
    assert summary.best == {}
    assert "0 of 5 trials: none yet" in (tmp_path / "report.md").read_text()


def test_plain_runs_show_what_differs_between_them(tmp_path):
    for name, width in [("a", 8), ("b", 16)]:
        config = {"seed": width, "student": {"model": {"width": width, "depth": 2}}}
        costs = {"num_params": 10 * width}
        record = RunRecord("completed", config, 0, {"val_accuracy": width / 20}, costs)
        write_record(record, tmp_path / "runs" / name)
    write_text(tmp_path / "runs" / "c" / "config.yaml", "seed: 1\n")
    sweep = write_report(tmp_path).sweep
    assert sweep.param_names == ["seed", "student.model.width"]
    assert sweep.counts == {"completed": 2, "running": 1, "failed": 0, "pruned": 0}
    assert [trial.label for trial in sweep.front] == ["runs/b", "runs/a"]


def test_a_damaged_record_is_a_failed_trial(sweep_folder):
    (sweep_folder / "trials" / "0005" / "record.json").write_text("{")
    sweep = load_sweep(sweep_folder)
    assert sweep.trials[5].state == "failed"
    assert "is not JSON" in sweep.trials[5].error


def test_a_trial_that_did_not_measure_an_objective_failed(sweep_folder):
    folder = sweep_folder / "trials" / "0006"
    record = read_record(folder)
    record.costs["num_params"] = None
    write_record(record, folder)
    sweep = write_report(sweep_folder).sweep
    assert sweep.counts["failed"] == 2
    assert sweep.trials[6].error == "its num_params was not measured, or is not finite"
    row = rows_of(sweep_folder / "trials.csv")[6]
    assert row["state"] == "failed"
    assert row["error"] == sweep.trials[6].error


def test_shares_of_texts_are_read_in_percent():
    names = ("val_rouge_l", "test_exact_match", "teacher_val_gsm8k_accuracy")
    assert [show(name, 0.25) for name in names] == ["25.00%"] * 3
    assert show("val_text_perplexity", 12.5) == "12.5"


def test_a_student_with_a_distilling_stage_before_did_not_learn_from_labels_alone():
    stage = {"epochs": 3, "weights": {"ab": 1.0}}
    for stages, undistilled in (({"b": stage}, False), (None, True), ({"b": {}}, True)):
        loss = {"terms": {"ab": {"loss": {}, "weight": 0.0}}, "stages": stages}
        run = Run(Path(), RunRecord("completed", {"loss": loss}, 0))
        assert Trial(0, Path(), {}, (run,)).undistilled == undistilled, stages


def test_undistilled_students_are_known(sweep_folder):
    sweep = load_sweep(sweep_folder)
    assert [t.number for t in sweep.trials if t.undistilled] == [4, 13, 22]


def test_a_trial_of_seeds_is_run_again_with_all_of_them(seeds_folder, tmp_path):
    spaced = shutil.copytree(seeds_folder, tmp_path / "my sweep")
    first, *_ = load_sweep(spaced).trials
    command = rerun(first)
    folders = sorted(spaced.glob("trials/0000/seed-*"))
    done = subprocess.run(
        ["bash", "-c", command.replace("python -m kd_research.trial", "echo")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(folder) for folder in folders]


def test_many_teachers_do_not_flood_the_tables(sweep_folder):
    for number in range(0, 3):
        folder = sweep_folder / "trials" / f"{number:04d}"
        record = read_record(folder)
        record.metrics["teacher_val_accuracy"] = 0.9 + number / 100
        write_record(record, folder)
    sweep = load_sweep(sweep_folder)
    assert len(sweep.teachers) == 4
    assert sweep.teachers[0]["val_accuracy"] == pytest.approx(0.9861111)  # of the most trials
    _, rows = front_table(sweep)
    assert [row[0] for row in rows].count("teacher") == 3


def test_three_objectives(tmp_path):
    objectives = OBJECTIVES | {"latency_ms": "minimize"}
    make_sweep(tmp_path / "three", objectives=objectives)
    summary = write_report(tmp_path / "three")
    assert set(summary.best) == set(objectives)
    assert summary.hypervolume is None  # the reference point lacks the latency
    two = load_sweep(make_sweep(tmp_path / "two"))
    numbers = {trial.number for trial in two.front}
    assert numbers <= {trial.number for trial in summary.sweep.front}


def test_bad_folders_are_one_message_and_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no sweep.yaml and no record.json below it" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    write_json(tmp_path / "sweep.yaml", {"name": "x"})
    assert main([str(tmp_path)]) == 0
    assert "must name its objectives" in capsys.readouterr().out


def test_main_prints_and_writes(sweep_folder, capsys):
    assert main([str(sweep_folder)]) == 0
    assert "Pareto front" in capsys.readouterr().out
    names = {"trials.csv", "front.csv", "report.md", "report.html", "summary.json"}
    assert names <= {path.name for path in sweep_folder.iterdir()}


def test_values_for_people():
    assert show("val_accuracy", 0.98765) == "98.77%"
    assert show("val_accuracy", 0.98765, 0.001) == "98.77 ± 0.10%"
    assert show("num_params", 85002.0) == "85,002"
    assert show("latency_ms", 0.123456) == "0.1235"
    assert show("loss.temperature", None) == "-"
    assert show_gap("val_accuracy", 0.0123, 0.004) == "+1.23 ± 0.40"
    assert show_gap("test_rouge_l", -0.0123) == "-1.23"
    assert show_gap("test_nll", 0.5, sign="") == "0.5"


def test_the_report_imports_neither_torch_nor_optuna(sweep_folder):
    code = (
        "import sys; from kd_research.report.__main__ import main; "
        f"main([{str(sweep_folder)!r}]); "
        "sys.exit(str({'torch', 'optuna', 'wandb', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"
