"""What a sweep tries before its sampler is asked: defaults, and what another sweep found best."""

import json
import shutil
from pathlib import Path

import pytest
from sweep_commands import make_plan, scripted

from kd_research.configuration.config import ConfigError
from kd_research.records.record import RunRecord, write_json, write_text
from kd_research.report import write_report
from kd_research.sweep.opening import open_study
from kd_research.sweep.proposals import enqueued
from kd_research.sweep.start_from import most_volume

OWN = {
    "loss.temperature": 4.0,
    "loss.lambda": 0.9,
    "student.model.width": 32,
    "student.model.depth": 2,
}
GRID = ("loss.temperature=1,4", "loss.lambda=0.9", "student.model.width=8", "student.model.depth=1")


def run(directory):
    """Nothing is trained: a larger student is better."""
    params = json.loads((directory / "proposal.json").read_text())["params"]
    size = params.get("student.model.width", 32)
    record = RunRecord("completed", {}, 0, {"val_accuracy": size / 100}, {"num_params": size})
    return [], record


def other_sweep(folder: Path, settings, missing=(), objectives="{}") -> None:
    spec = f"name: {folder.name}\nn_trials: {len(settings)}\nobjectives: {objectives}\n"
    write_text(folder / "sweep.yaml", spec)
    for number, (params, accuracy, size) in enumerate(settings):
        trial = folder / "trials" / f"{number:04d}"
        write_json(trial / "proposal.json", {"number": number, "params": params})
        found = {"val_accuracy": accuracy, "num_params": size}
        found = {name: value for name, value in found.items() if name not in missing}
        record = {"status": "completed", "config": {}, "seed": 0, "metrics": found, "costs": {}}
        rest = {"selection": {}, "provenance": {}, "error": None, "schema": 1}
        write_json(trial / "record.json", {**record, **rest})


def test_the_published_defaults_are_tried_first(tmp_path: Path) -> None:
    report, _ = scripted(tmp_path, run, "sweep.n_trials=3")
    assert [trial.origin for trial in report.trials] == ["defaults", None, None]
    assert dict(report.trials[0].params) == OWN
    report, _ = scripted(tmp_path, run, "sweep.n_trials=4")
    assert [trial.origin for trial in report.trials] == ["defaults", None, None, None]


def test_every_method_that_is_searched_starts_with_its_own_defaults() -> None:
    plan = make_plan("loss=choice(kd,dkd)", "student.model.width=int(interval(40,50))")
    kd, dkd = plan.start_from
    assert (kd["loss"], kd["loss.temperature"], kd["loss.lambda (kd)"]) == ("kd", 4.0, 0.9)
    assert dkd["loss"] == "dkd"
    assert dkd["loss.non_target_weight"] == 8.0
    assert "student.model.width" not in kd  # 32 is outside of the range: the sampler's
    said = "note: the first trial has the defaults, but the sampler's value of student.model.width "
    assert [line for line in plan.all_notes() if "defaults" in line] == [
        f"{said}(32 is outside of int(interval(40,50)))"
    ]
    assert [
        params["loss"] for params in make_plan("loss=kd,dkd", "sweep.n_trials=1").start_from
    ] == ["kd"]


def test_what_a_person_gives_or_a_grid_counts_is_not_added_to() -> None:
    given = make_plan("sweep.start_from=[{loss.temperature: 3}]")
    assert given.start_from == [{"loss.temperature": 3}]
    assert given.origins == ["sweep.start_from"]
    assert make_plan("sampler=grid", *GRID).start_from == []
    typed = make_plan("student.model.width=choice(16,32)", "+extra=[8,16],[32]")
    assert typed.start_from == [OWN]


def test_another_sweeps_front_is_tried_next_and_marked(tmp_path: Path) -> None:
    settings = [
        ({"loss.temperature": 2.0, "student.model.width": 8}, 0.5, 10),
        ({"loss.temperature": 90.0, "student.model.width": 16}, 0.9, 20),
        ({"loss.temperature": 7.0, "student.model.width": 64}, 0.4, 30),  # dominated
        ({"optimizer.lr": 0.1, "student.model.width": 16}, 0.9, 20),  # the same, as far as it goes
        ({"optimizer.lr": 0.1}, 0.3, 5),  # nothing that is searched here
    ]
    other_sweep(tmp_path / "sweeps" / "before", settings)
    plan = make_plan(f"output_dir={tmp_path}", "sweep.n_trials=9", "sweep.start_from=before")
    assert plan.all_notes() == [
        "note: 2 of the 4 settings on the front of before are tried; not taken: "
        "loss.temperature outside of tag(log, interval(1, 20)), optimizer.lr (not searched here)"
    ]
    report, _ = scripted(tmp_path, run, "sweep.n_trials=9", "sweep.start_from=before")
    origins = ["defaults", "before, trial 1", "before, trial 0"]
    assert [trial.origin for trial in report.trials[:4]] == [*origins, None]
    assert report.trials[1].params["student.model.width"] == 16
    assert 1 <= report.trials[1].params["loss.temperature"] <= 20  # 90 is not: the sampler's
    assert report.trials[2].params["loss.temperature"] == 2.0
    # Its results are this sweep's own: nothing of the other's counts.
    assert [trial.mean("val_accuracy") for trial in report.trials[:3]] == [0.32, 0.16, 0.08]
    assert len(report.trials) == 9
    written = write_report(report.directory)
    assert written is not None
    page = (report.directory / "report.md").read_text()
    assert "- settings from the sweep before, run anew here: trials 1, 2" in page
    assert "settings from the sweep before" in (report.directory / "report.html").read_text()
    assert "before, trial 1" in (report.directory / "trials.csv").read_text()


def test_another_sweep_that_cannot_be_started_from_is_told_before_a_folder_is_made(
    tmp_path: Path,
) -> None:
    here = f"output_dir={tmp_path}"
    other_sweep(tmp_path / "sweeps" / "lr", [({"optimizer.lr": 0.1}, 0.5, 10)])
    with pytest.raises(ConfigError, match=r"there are: lr; try sweep.start_from=lr") as caught:
        make_plan(here, "sweep.start_from=nowhere", "sweep.constraints=['size <= 1']")
    assert "size" in str(caught.value)  # all problems at once
    with pytest.raises(ConfigError, match=r"nothing to try here: optimizer.lr \(not searched here"):
        make_plan(here, "sweep.start_from=lr")
    settings = [({"loss.lambda": 0.1}, 0.5, 10)]
    other_sweep(tmp_path / "sweeps" / "a", settings, ["num_params"], "{val_accuracy: maximize}")
    with pytest.raises(ConfigError, match=r"a: none of its trials has num_params; give another"):
        make_plan(here, "sweep.start_from=a")
    other_sweep(tmp_path / "sweeps" / "hot", [({"loss.temperature": 90.0}, 0.5, 10)])
    with pytest.raises(ConfigError, match=r"nothing to try here: loss.temperature outside of tag"):
        make_plan(here, "sweep.start_from=hot")
    other_sweep(tmp_path / "sweeps" / "b", [])
    with pytest.raises(ConfigError, match="no trial has completed"):
        make_plan(here, "sweep.start_from=b")
    with pytest.raises(ConfigError, match="is this sweep itself"):
        make_plan(here, "sweep.name=lr", f"sweep.start_from={tmp_path / 'sweeps' / 'lr'}")
    with pytest.raises(ConfigError, match="this sweep tries every point, in an order of its own"):
        make_plan(here, "sampler=grid", *GRID, "sweep.start_from=lr")
    with pytest.raises(ConfigError, match="a list of settings, or another sweep, got 3"):
        make_plan(here, "sweep.start_from=3")
    for nowhere in ("~nobody/lr", "x" * 300):
        with pytest.raises(ConfigError, match=f"sweep.start_from={nowhere} is no sweep's folder"):
            make_plan(here, f"sweep.start_from='{nowhere}'")
    with pytest.raises(ConfigError, match="sweep.start_from='' is no sweep's folder; there are: "):
        make_plan(here, "sweep.start_from=''")


def test_a_sweep_whose_settings_cannot_be_read_lends_and_that_is_told(tmp_path: Path) -> None:
    before = tmp_path / "sweeps" / "before"
    other_sweep(before, [({"student.model.width": 8}, 0.5, 10)])
    write_text(before / "sweep.yaml", "garbage: [")
    plan = make_plan(f"output_dir={tmp_path}", "sweep.n_trials=9", "sweep.start_from=before")
    (note,) = plan.all_notes()
    assert note.startswith("note: 1 of the 1 settings on the front of before are tried; ")
    assert "sweep.yaml is damaged" in note


def test_what_is_tried_first_is_tried_once_however_often_the_sweep_is_started(
    tmp_path: Path,
) -> None:
    before = tmp_path / "sweeps" / "before"
    other_sweep(before, [(OWN, 0.9, 20), ({"student.model.width": 8}, 0.5, 10)])
    wanted = ("sweep.n_trials=6", "sweep.start_from=before")
    first = [OWN, {"student.model.width": 8}]  # the defaults are on its front: once is enough
    plan = make_plan(f"output_dir={tmp_path}", "sweep.name=s", "sampler=random", *wanted)
    plan.directory.mkdir()
    for _ in range(2):  # two sweepers
        with open_study(plan) as study:
            assert enqueued(study) == first
    report, _ = scripted(tmp_path, run, *wanted, stop_after=2)
    assert report.trials[1].origin == "before, trial 1"
    other_sweep(before, [({"student.model.depth": 1}, 0.9, 2)])  # it went on, then it is gone
    scripted(tmp_path, run, *wanted, stop_after=0)
    shutil.rmtree(before)
    report, _ = scripted(tmp_path, run, *wanted)
    assert [trial.origin for trial in report.trials] == ["defaults", "before, trial 1", *[None] * 4]
    with pytest.raises(ConfigError, match="is no sweep's folder"):  # what waits would be lost
        make_plan(f"output_dir={tmp_path}", "sweep.name=s", *wanted, "sweep.rebuild=true")
    rebuilt = ("sweep.n_trials=7", "sweep.rebuild=true")
    report, _ = scripted(tmp_path, run, *rebuilt)
    assert [trial.origin for trial in report.trials] == ["defaults", "before, trial 1", *[None] * 5]


def test_a_first_proposal_survives_a_kill_in_the_middle_of_it(tmp_path: Path) -> None:
    plan = make_plan(f"output_dir={tmp_path}", "sweep.name=s", "sampler=random")
    plan.directory.mkdir(parents=True)
    with open_study(plan) as study:
        killed = study.ask(3)
        assert killed is not None
        killed.suggest_float("loss.temperature", 1, 20, log=True)
        study.release([killed])
    report, _ = scripted(tmp_path, run, "sweep.n_trials=3")
    assert [dict(trial.params) for trial in report.trials if trial.origin == "defaults"] == [OWN]
    assert len(report.trials) == 3


def test_of_a_long_front_what_is_worth_most_is_tried_first() -> None:
    ways = ["maximize", "minimize"]
    points = [[0.9, 90.0], [0.8, 20.0], [0.7, 10.0], [0.2, 1.0]]
    # Alone 0.4 * 10, 0.3 * 80 and 0.2 * 90; to the second 0.1 * 10 and 0.2 * 10; outside: the last.
    assert most_volume(points, ways, [0.5, 100.0], 9) == [1, 2, 0]
    assert most_volume(points, ways, [0.5, 100.0], 2) == [1, 2]
    assert most_volume(points, ways, [0.95, 100.0], 3) == [0]  # all outside: the best one
    # From (-0.5, 179): alone 1.3 * 159; then 0.7 * 19, 0.1 * 89, and 0.5 * 10.
    assert most_volume(points, ways, [None, None], 9) == [1, 3, 0, 2]
    assert most_volume([[0.9, 90.0]], ways, [None, None], 2) == [0]
