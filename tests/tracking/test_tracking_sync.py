"""What would be uploaded, in which order, and the dashboard, all without a server."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from offline_wandb import read_run, read_runs

from kd_research.records.record import write_text
from kd_research.report.load import load_sweep
from kd_research.tracking import track, track_export, track_sweep
from kd_research.tracking.__main__ import find_runs, link, main


@pytest.fixture
def tracked_sweep(sweep_directory, config, settings):
    """All but the third trial tracked offline, the second exported; summarised."""
    for number in (0, 1, 3):
        folder = sweep_directory / "trials" / f"{number:04d}"
        own = {**config, "tracking": {**config["tracking"], "run_id": f"digits-t{number:04d}"}}
        write_text(folder / "config.yaml", yaml.safe_dump(own))
        with track(own, folder):
            pass
        if number == 1:
            (folder / "student.onnx").write_bytes(b"an exported student")
            track_export(own, folder, [folder / "student.onnx"], {"onnx_bytes": 19})
    track_sweep(sweep_directory, settings)
    return sweep_directory


def test_what_is_used_is_uploaded_before_its_users(tracked_sweep, capsys):
    assert main(["sync", str(tracked_sweep), "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {tuple(line[:2]) for line in lines} == {("wandb", "sync")}
    ids = [[read_run(file).run_id for file in files_of(line)] for line in lines]
    assert ids == [
        ["teacher-0123456789abcdef"],
        ["digits-t0000", "digits-t0001", "digits-t0003"],
        ["digits-t0001-export", "digits-sweep"],
    ]


def files_of(line):
    return [next(Path(folder).glob("*.wandb")) for folder in line[2:]]


def test_without_a_login_sync_says_what_to_do(tracked_sweep, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert main(["sync", str(tracked_sweep)]) == 1
    assert "wandb login" in capsys.readouterr().out


def test_nothing_tracked_and_no_folder_are_told(tmp_path, capsys):
    assert main(["sync", str(tmp_path)]) == 1
    assert "no run below it was tracked offline" in capsys.readouterr().out
    assert main(["sync", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().out


def test_synced_runs_are_linked_to_what_they_were_made_from(tracked_sweep):
    api = Api()
    link(api, "team", find_runs(tracked_sweep))
    teacher = "team/kd_research/teacher-0123456789abcdef:latest"
    assert api.used == [
        ("team/kd_research/digits-t0000", teacher),
        ("team/kd_research/digits-t0001", teacher),
        (
            "team/kd_research/digits-t0001-export",
            "team/kd_research/student-digits-t0001:latest",
        ),
    ], "not the failed trial, which has no teacher, nor the one that was not tracked"


def test_a_run_whose_teacher_has_no_run_is_not_linked(tracked_sweep):
    api = Api()
    link(api, "team", find_runs(tracked_sweep / "trials" / "0000")[1:])
    assert api.used == []


class Api:
    """The two calls of W&B's API that lineage takes; they need a server."""

    def __init__(self):
        self.used = []

    def artifact(self, name):
        return name

    def run(self, path):
        return UsedBy(path, self.used)


class UsedBy:
    def __init__(self, path, used):
        self.path, self.used = path, used

    def use_artifact(self, artifact):
        self.used.append((self.path, artifact))


def test_the_workspace_has_the_front_the_settings_and_the_curves(sweep_directory):
    pytest.importorskip("wandb_workspaces")
    from kd_research.tracking.workspace import specification, workspace

    found = specification(workspace(load_sweep(sweep_directory), "team", "kd_research"))
    assert (found["entity"], found["project"]) == ("team", "kd_research")
    assert found["displayName"] == "sweep digits"
    section = found["spec"]["section"]
    panels = {
        bank["name"]: [(panel["viewType"], panel["config"]) for panel in bank["panels"]]
        for bank in section["panelBankConfig"]["sections"]
    }
    assert list(panels) == ["Front", "Settings", "Curves", "Faithfulness"]
    view, scatter = panels["Front"][0]
    assert view == "Scatter Plot"
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:num_params", "summary:val_accuracy")
    assert scatter["showMaxYAxisLine"]
    view, parallel = panels["Settings"][0]
    assert view == "Parallel Coordinates Plot"
    assert [column["accessor"] for column in parallel["columns"]] == [
        "config:loss.value.temperature",
        "config:student.value.model.width",
        "summary:val_accuracy",
        "summary:num_params",
    ]
    curves = [config["metrics"] for view, config in panels["Curves"]]
    assert ["val_accuracy"] in curves
    assert {config["xAxis"] for view, config in panels["Curves"]} == {"epoch"}
    (filtered,) = section["runSets"][0]["filters"]["filters"]
    assert (filtered["key"]["name"], filtered["value"]) == ("group", "digits")


def test_the_workspace_is_told_to_be_missing(tracked_sweep, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    from kd_research.tracking import __main__ as command

    monkeypatch.setattr("wandb.Api", Api)
    monkeypatch.setattr(Api, "default_entity", "team", raising=False)
    assert command._finish(tracked_sweep, find_runs(tracked_sweep)) == 1
    assert "kd_research[workspaces]" in capsys.readouterr().out


def test_an_export_is_an_artifact_that_names_its_student(tracked_sweep):
    (run,) = [r for r in read_runs(tracked_sweep.parents[1]) if r.job_type == "export"]
    assert run.group == "digits"
    assert run.summary["onnx_bytes"] == 19
    (artifact,) = run.artifacts
    assert (artifact.type, artifact.name) == ("export", "export-digits-t0001")
    assert json.loads(artifact.metadata) == {"onnx_bytes": 19, "student": "student-digits-t0001"}
    assert [entry.path for entry in artifact.manifest.contents] == ["student.onnx"]
