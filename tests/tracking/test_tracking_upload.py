"""What `sync` posts of a sweep of four trials, as a server on loopback receives it."""

import json
import shlex

import pytest
import yaml
from wandb_server import Server

from kd_research.records.record import read_record, write_text
from kd_research.tracking import tell_offline, track, track_export, track_sweep
from kd_research.tracking.__main__ import main

pytest.importorskip("wandb_workspaces", reason="needs kd_research[workspaces]")

TEACHER = "teacher-0123456789abcdef"
TRIALS = [f"digits-t{number:04d}" for number in range(4)]


@pytest.fixture
def posted(sweep_directory, config, settings, tmp_path_factory, monkeypatch, capfd):
    """The server after the upload; every trial was tracked, the second exported."""
    for number, run_id in enumerate(TRIALS):
        folder = sweep_directory / "trials" / f"{number:04d}"
        own = {**config, "tracking": {**config["tracking"], "run_id": run_id}}
        write_text(folder / "config.yaml", yaml.safe_dump(own))
        write_text(folder / "weights.pt", f"the student of trial {number}")
        with track(own, folder) as tracker:
            for epoch in range(2):
                tracker.log({"epoch": epoch, "val_accuracy": 0.25 * (epoch + 1)})
            tracker.finish(read_record(folder))
        if number == 1:
            (folder / "student.onnx").write_bytes(b"an exported student")
            track_export(own, folder, [folder / "student.onnx"], {"onnx_bytes": 19})
    track_sweep(sweep_directory, settings)
    stand = tmp_path_factory.mktemp("stand")
    monkeypatch.chdir(stand)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/gone/socket")  # of a parent that has ended
        code = main(["sync", str(sweep_directory)])
        assert code == 0, capfd.readouterr()
    assert not list(stand.iterdir()), "W&B's logs of the upload are left where one stands"
    assert server.unanswered == []
    return server


def test_an_upload_has_the_runs_their_tables_files_and_links(posted):
    runs, artifacts = posted.runs, posted.artifacts
    assert set(runs) == {TEACHER, *TRIALS, "digits-t0001-export", "digits-sweep"}
    assert posted.order[0] == TEACHER, "what is used is there before its users"
    assert set(posted.order[1:5]) == set(TRIALS)
    assert {run.project for run in runs.values()} == {"kd_research"}
    assert {name: run.job_type for name, run in runs.items()} == {
        TEACHER: "teacher",
        **dict.fromkeys(TRIALS, "trial"),
        "digits-t0001-export": "export",
        "digits-sweep": "sweep",
    }
    assert {run.group for name, run in runs.items() if name != TEACHER} == {"digits"}
    second = runs["digits-t0001"]
    assert [row["val_accuracy"] for row in second.history if "val_accuracy" in row] == [0.25, 0.5]
    assert second.summary["val_accuracy"] == 0.75, "the record's, not the last epoch's"
    assert (second.summary["num_params"], second.summary["status"]) == (600, "completed")
    assert second.config["loss"] == {"temperature": 4.0, "lambda": 0.5}
    assert (second.exit_code, runs["digits-t0003"].exit_code) == (0, 1)
    assert runs["digits-t0003"].summary["error"] == "RuntimeError: out of memory"

    sweep = runs["digits-sweep"]
    assert sweep.summary["hypervolume"] == 500.0
    assert [row["hypervolume"] for row in sweep.history if "hypervolume" in row][-1] == 500.0
    assert [row["val_accuracy"] for row in sweep.table("trials")] == [0.5, 0.75, 0.5, None]
    assert [row["trial"] for row in sweep.table("front")] == [1, 0]
    chart = json.loads(sweep.files[sweep.summary["front_chart"]["path"]])
    assert {trace["name"] for trace in chart["data"]} >= {"Pareto front", "dominated"}

    students = {f"student-{name}" for name in TRIALS[:3]}
    files = {name: set(found.files) for name, found in artifacts.items() if found.type != "job"}
    tables = {name for name in files if artifacts[name].type == "run_table"}
    assert set(files) - tables == {TEACHER, *students, "export-digits-t0001"}
    assert artifacts["student-digits-t0001"].files["weights.pt"] == b"the student of trial 1"
    assert artifacts["export-digits-t0001"].files["student.onnx"] == b"an exported student"
    assert artifacts["student-digits-t0001"].metadata["val_accuracy"] == 0.75
    assert all(found.committed for found in artifacts.values())
    assert {name: run.used for name, run in runs.items() if run.used} == {
        **{name: [TEACHER] for name in TRIALS[:3]},
        "digits-t0001-export": ["student-digits-t0001"],
    }
    (workspace,) = posted.views.values()
    assert '"group"' in json.dumps(workspace)


def test_after_an_offline_run_a_person_knows_what_uploads_it(config, tmp_path, capsys):
    folder = tmp_path / "outputs" / "runs" / "my run"
    own = {**config, "tracking": {**config["tracking"], "job_type": "run", "run_id": None}}
    tell_offline(own, folder)
    assert capsys.readouterr().out == "", "nothing was tracked"
    with track(own, folder):
        pass
    tell_offline({**own, "tracking": {**own["tracking"], "job_type": "trial"}}, folder)
    assert capsys.readouterr().out == "", "its sweep says it"
    tell_offline(own, folder)
    said, command = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "outputs" / "wandb") in said
    assert command == f"  python -m kd_research.tracking sync '{folder}'"
    write_text(folder / "config.yaml", yaml.safe_dump(own))
    assert main([*shlex.split(command)[3:], "--dry-run"]) == 0
    assert "wandb sync" in capsys.readouterr().out


def test_after_an_offline_sweep_too(sweep_directory, settings, capsys):
    track_sweep(sweep_directory, settings)
    own = {**settings, "job_type": "run", "run_id": "digits-sweep"}
    tell_offline({"tracking": own, "output_dir": settings["output_dir"]}, sweep_directory)
    assert f"tracking sync {sweep_directory}" in capsys.readouterr().out
