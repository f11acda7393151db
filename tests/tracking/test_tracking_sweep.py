"""The summary run of a sweep says what its report says, and its teachers have runs."""

from pathlib import Path

import pytest
from offline_wandb import read_runs

from kd_research.records.record import RunRecord, write_json, write_record
from kd_research.tracking import track_sweep


def summary_run(config):
    (run,) = [r for r in read_runs(Path(config["output_dir"])) if r.job_type == "sweep"]
    return run


def test_a_sweep_is_one_summary_run(sweep_directory, config, settings, capfd, caplog):
    track_sweep(sweep_directory, settings)
    run = summary_run(config)
    assert (run.run_id, run.group, run.job_type) == ("digits-sweep", "digits", "sweep")
    assert run.config["sweep"]["objectives"] == {
        "val_accuracy": "maximize",
        "num_params": "minimize",
    }
    assert run.exit_code == 0
    assert run.series("num_trials") == [1, 2, 3, 4]
    assert run.step_metrics["hypervolume"] == "num_trials"
    # 0.5 x (1000 - 200) = 400; and (0.75 - 0.5) x (1000 - 600) = 100 more by the second trial
    assert run.series("hypervolume") == [400.0, 500.0, 500.0, 500.0]
    assert run.summary["hypervolume"] == 500.0
    assert (run.summary["num_completed"], run.summary["num_failed"]) == (3, 1)
    assert (run.summary["best_val_accuracy"], run.summary["best_num_params"]) == (0.75, 200)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_tables_of_a_sweep_are_those_of_its_folder(sweep_directory, config, settings):
    track_sweep(sweep_directory, settings)
    run = summary_run(config)
    trials, front = table_of(run.media("trials")), table_of(run.media("front"))
    assert [row["trial"] for row in trials] == [0, 1, 2, 3]
    assert [row["loss.temperature"] for row in trials] == [2.0, 3.0, 4.0, 5.0]
    assert [row["val_accuracy"] for row in trials] == [0.5, 0.75, 0.5, None]
    assert trials[3]["error"] == "RuntimeError: out of memory"
    assert [(row["trial"], row["val_accuracy"]) for row in front] == [(1, 0.75), (0, 0.5)]


def table_of(content):
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def test_the_chart_of_a_sweep_shows_the_front_and_the_settings(sweep_directory, config, settings):
    track_sweep(sweep_directory, settings)
    chart = summary_run(config).media("front_chart")
    traces = {trace["name"]: trace for trace in chart["data"]}
    assert traces["Pareto front"]["y"] == [0.5, 0.75]
    assert traces["Pareto front"]["x"] == [200, 600]
    assert traces["dominated"]["y"] == [0.5]
    assert "loss.temperature 4" in traces["dominated"]["text"][0]
    assert [shape["y0"] for shape in chart["layout"]["shapes"]] == [0.875]
    assert chart["layout"]["yaxis"]["title"]["text"] == "val_accuracy"


def test_a_resumed_sweep_has_one_summary_run_of_all_its_trials(sweep_directory, config, settings):
    last = sweep_directory / "trials" / "0003"
    last.rename(sweep_directory / "0003")
    track_sweep(sweep_directory, settings)
    assert summary_run(config).series("num_trials") == [1, 2, 3]
    (sweep_directory / "0003").rename(last)
    track_sweep(sweep_directory, settings)
    assert summary_run(config).series("num_trials") == [1, 2, 3, 4]


def test_a_disabled_sweep_writes_nothing(sweep_directory, config, settings):
    track_sweep(sweep_directory, {**settings, "mode": "disabled"})
    assert not (Path(config["output_dir"]) / "wandb").exists()


def test_the_teacher_of_a_sweep_is_one_run_with_its_weights(sweep_directory, config, settings):
    for _ in range(2):
        track_sweep(sweep_directory, settings)
    runs = read_runs(Path(config["output_dir"]))
    (teacher,) = [run for run in runs if run.job_type == "teacher"]
    assert (teacher.run_id, teacher.group) == ("teacher-0123456789abcdef", "teachers")
    assert teacher.config["recipe"] == {"max_epochs": 1}
    assert teacher.series("val_accuracy") == [0.5]
    assert teacher.summary["val_accuracy"] == 0.875
    assert [(a.type, a.name) for a in teacher.artifacts] == [
        ("teacher", "teacher-0123456789abcdef")
    ]


def test_importances_are_shown_once_there_are_enough_trials(sweep_directory, config, settings):
    for number in range(4, 16):
        folder = sweep_directory / "trials" / f"{number:04d}"
        params = {"loss.temperature": float(number), "student.model.width": 8 * (number % 3)}
        write_json(folder / "proposal.json", {"number": number, "params": params})
        metrics, costs = {"val_accuracy": number / 20}, {"num_params": 100 * (number % 3)}
        write_record(RunRecord("completed", {}, 0, metrics, costs), folder)
    track_sweep(sweep_directory, settings)
    bars = summary_run(config).media("importances")["data"]
    assert [bar["name"].split()[0] for bar in bars] == ["val_accuracy", "num_params"]
    assert bars[0]["y"] == ["loss.temperature", "student.model.width"], "the accuracy's cause first"
    assert sum(bars[0]["x"]) == pytest.approx(1)
