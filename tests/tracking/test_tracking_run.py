"""Tracking mirrors runs into W&B's offline files, and whatever W&B does, the run goes on."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from offline_wandb import OfflineRun, read_runs

from kd_research.records.record import RunRecord, write_json
from kd_research.tracking import session, track
from kd_research.tracking.run import log_student

ROWS = [
    {"epoch": 0, "train_loss": 2.25, "val_accuracy": 0.5, "note": "warm-up"},
    {"epoch": 1, "train_loss": 1.5, "val_accuracy": 0.75, "val_nll": None},
    {"epoch": 2, "train_loss": 1.25, "val_accuracy": 0.625},
]


def record_of(config, status="completed", error=None):
    return RunRecord(
        status=status,
        config=config,
        seed=3,
        metrics={"val_accuracy": 0.75, "test_accuracy": None},
        costs={"num_params": 1234, "latency_ms": 0.25},
        selection={"epoch": 1, "metric": "val_accuracy"},
        provenance={"teacher_fingerprint": "abc123"},
        error=error,
    )


def only_run(config) -> OfflineRun:
    (run,) = read_runs(Path(config["output_dir"]))
    return run


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == session.__name__]


def test_a_trial_is_read_back_from_its_files(config, tmp_path, capfd):
    before = dict(os.environ)
    with track(config, tmp_path / "trials" / "0007") as tracker:
        for row in ROWS:
            tracker.log(row)
        tracker.finish(record_of(config))

    run = only_run(config)
    assert (run.run_id, run.name, run.group, run.job_type, run.project) == (
        "digits-t0007",
        "digits-t0007",
        "digits",
        "trial",
        "kd_research",
    )
    assert sorted(run.tags) == ["digits", "kd"]
    assert {key: run.config[key] for key in config} == config
    assert run.config["provenance"] == {"teacher_fingerprint": "abc123"}
    assert run.config["run_directory"] == str(tmp_path / "trials" / "0007")
    assert run.series("epoch") == [0, 1, 2]
    assert run.series("train_loss") == [2.25, 1.5, 1.25]
    assert run.series("val_nll") == []
    assert run.series("note") == ["warm-up"]
    assert run.step_metrics == {"epoch": "", "*": "epoch"}
    assert run.summary["val_accuracy"] == 0.75, "the selected epoch's, not the last one's"
    assert (run.summary["num_params"], run.summary["latency_ms"]) == (1234, 0.25)
    assert run.summary["status"] == "completed"
    assert "test_accuracy" not in run.summary
    assert run.exit_code == 0
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_error_in_the_body_ends_the_run_as_failed_and_is_raised(config, tmp_path):
    with pytest.raises(ZeroDivisionError), track(config, tmp_path) as tracker:  # noqa: PT012
        tracker.log(ROWS[0])
        tracker.log({"epoch": 1 // 0})
    run = only_run(config)
    assert run.exit_code == 1
    assert run.summary["status"] == "failed"
    assert run.summary["error"].startswith("ZeroDivisionError: integer division")
    assert run.series("epoch") == [0]


def test_a_failed_record_ends_the_run_as_failed(config, tmp_path):
    with track(config, tmp_path) as tracker:
        tracker.finish(record_of(config, "failed", "loss is not finite at step 3"))
    run = only_run(config)
    assert run.exit_code == 1
    assert run.summary["status"] == "failed"
    assert run.summary["error"] == "loss is not finite at step 3"


def test_each_trial_is_a_run_of_its_own(config, tmp_path):
    for number in (0, 1):
        own = {**config, "tracking": {**config["tracking"], "run_id": f"a/b-t000{number}"}}
        with track(own, tmp_path) as tracker:
            tracker.log({"epoch": number})
    runs = read_runs(Path(config["output_dir"]))
    assert [run.run_id for run in runs] == ["a-b-t0000", "a-b-t0001"]
    assert [run.name for run in runs] == ["a/b-t0000", "a/b-t0001"]
    assert [run.series("epoch") for run in runs] == [[0], [1]]


def test_a_trial_that_is_run_again_has_one_run(config, tmp_path):
    for epochs in (2, 3):
        with track(config, tmp_path) as tracker:
            for epoch in range(epochs):
                tracker.log({"epoch": epoch})
    assert only_run(config).series("epoch") == [0, 1, 2]


def test_variables_of_the_environment_do_not_redirect_a_run(config, tmp_path, monkeypatch):
    for name, value in {
        "WANDB_MODE": "disabled",
        "WANDB_RUN_ID": "other",
        "WANDB_PROJECT": "other",
        "WANDB_RUN_GROUP": "other",
        "WANDB_JOB_TYPE": "other",
        "WANDB_TAGS": "other",
        "WANDB_DIR": str(tmp_path / "elsewhere"),
    }.items():
        monkeypatch.setenv(name, value)
    with track(config, tmp_path) as tracker:
        tracker.log(ROWS[0])
    run = only_run(config)
    assert (run.run_id, run.project, run.group, run.job_type) == (
        "digits-t0007",
        "kd_research",
        "digits",
        "trial",
    )
    assert sorted(run.tags) == ["digits", "kd"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("variables", "tracked"),
    [
        ({"RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "2"}, False),
    ],
)
def test_only_the_first_rank_tracks(config, tmp_path, monkeypatch, variables, tracked):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with track(config, tmp_path) as tracker:
        tracker.log(ROWS[0])
    assert len(read_runs(Path(config["output_dir"]))) == int(tracked)


def test_disabled_writes_nothing(config, tmp_path):
    config["tracking"]["mode"] = "disabled"
    with track(config, tmp_path) as tracker:
        tracker.log(ROWS[0])
        tracker.finish(record_of(config))
    assert not Path(config["output_dir"]).exists()


def test_wandb_not_installed_is_one_warning(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with track(config, tmp_path) as tracker:
        tracker.log(ROWS[0])
        tracker.finish(record_of(config))
    (warning,) = warnings_of(caplog)
    assert "wandb" in warning
    assert "the run goes on" in warning


def test_a_folder_that_cannot_be_made_is_one_warning(config, tmp_path, caplog, capfd):
    Path(config["output_dir"]).write_text("a file where the folder should be")
    with track(config, tmp_path) as tracker:
        tracker.log(ROWS[0])
        tracker.finish(record_of(config))
    (warning,) = warnings_of(caplog)
    assert config["output_dir"] in warning
    assert capfd.readouterr() == ("", ""), "W&B was asked and said it writes elsewhere"


BEREFT = """
import logging, os, signal, sys
from pathlib import Path
from kd_research.tracking import track
logging.basicConfig(level=logging.INFO)
output_dir = sys.argv[1]
config = {"output_dir": output_dir, "tracking": {"mode": "offline", "project": "kd_research"}}
with track(config, Path(output_dir)) as tracker:
    tracker.log({"epoch": 0})
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)
    for epoch in range(1000):
        tracker.log({"epoch": epoch})
with track(config, Path(output_dir)) as tracker:
    tracker.log({"epoch": 5000})
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds W&B's service by /proc")
def test_the_death_of_its_service_is_one_warning_and_the_next_run_is_tracked(config):
    command = [sys.executable, "-c", BEREFT, config["output_dir"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    (warning,) = done.stderr.splitlines()
    assert "the run goes on" in warning
    assert [5000] in [run.series("epoch") for run in read_runs(Path(config["output_dir"]))]


@pytest.mark.parametrize("reason", ["no login", "no server"])
def test_online_that_is_not_possible_is_offline(config, tmp_path, monkeypatch, caplog, reason):
    config["tracking"]["mode"] = "online"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    if reason == "no server":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        start = session._init

        def impatient(tracking, mode, *rest):  # towards the server alone
            with monkeypatch.context() as patch:
                if mode == "online":
                    patch.setattr(session, "INIT_SECONDS", 1)
                return start(tracking, mode, *rest)

        monkeypatch.setattr(session, "_init", impatient)
    with track(config, tmp_path) as tracker:
        tracker.log(ROWS[0])
        tracker.finish(record_of(config))
    (warning,) = warnings_of(caplog)
    assert "tracking offline" in warning
    assert ("wandb login" if reason == "no login" else "127.0.0.1:9") in warning
    assert only_run(config).summary["num_params"] == 1234


SLEEPER = """
import sys, time
from pathlib import Path
from kd_research.tracking import track
output_dir, ready = sys.argv[1:]
config = {"output_dir": output_dir, "tracking": {"mode": "offline", "project": "kd_research"}}
with track(config, Path(output_dir)) as tracker:
    tracker.log({"epoch": 0, "val_accuracy": 0.5})
    Path(ready).touch()
    time.sleep(10_000)
"""


def test_sigterm_finishes_the_run(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/gone/socket")  # as inherited from a dead parent
    ready = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, config["output_dir"], str(ready)])
    try:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        assert process.wait(600) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    run = only_run(config)
    assert run.series("val_accuracy") == [0.5]
    assert run.exit_code == 1
    assert run.summary["status"] == "failed"


def test_the_service_of_a_dead_parent_is_asked_by_no_run(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/gone/socket")
    for name in ("a", "b"):  # the first imports W&B
        config["tracking"]["run_id"] = name
        with track(config, tmp_path) as tracker:
            tracker.log(ROWS[0])
        assert session.run_files(Path(config["output_dir"]), name)
    assert warnings_of(caplog) == []


def finished_run(directory, teacher_path):
    """What a run leaves in its folder before it is shown at the end."""
    directory.mkdir(parents=True)
    (directory / "weights.pt").write_bytes(b"a student")
    counts = [[10, 2], [3, 25]]
    write_json(directory / "evaluation.json", {"val": {"teacher_confusion": counts}})
    teacher_path.parent.mkdir(parents=True, exist_ok=True)
    teacher_path.write_bytes(b"a teacher")
    origin = {"teacher_fingerprint": "0123456789abcdef" * 4, "teacher_path": str(teacher_path)}
    return RunRecord(
        status="completed",
        config={},
        seed=0,
        metrics={"val_accuracy": 0.75, "teacher_val_accuracy": 0.875},
        costs={"num_params": 1234, "teacher_num_params": 85002},
        provenance=origin,
    )


def test_the_student_is_an_artifact_that_names_its_teacher(config, tmp_path):
    directory = tmp_path / "run"
    record = finished_run(directory, tmp_path / "teacher" / "weights.pt")
    with track(config, directory) as tracker:
        tracker.finish(record)
    (student,) = [a for a in only_run(config).artifacts if a.type == "student"]
    assert student.name == "student-digits-t0007"
    metadata = json.loads(student.metadata)
    assert (metadata["val_accuracy"], metadata["num_params"]) == (0.75, 1234)
    assert metadata["teacher"] == "teacher-0123456789abcdef"
    (entry,) = student.manifest.contents
    assert entry.path == "weights.pt"
    assert entry.local_path == str(directory / "weights.pt"), "not copied"


def test_online_the_student_is_made_from_its_teacher(config, tmp_path):
    directory = tmp_path / "run"
    record = finished_run(directory, tmp_path / "teacher" / "weights.pt")
    run = OnlineRun()
    log_student(run, directory, record)
    assert [(verb, artifact.type, artifact.name) for verb, artifact in run.done] == [
        ("use", "teacher", "teacher-0123456789abcdef"),
        ("log", "student", "student-digits-t0007"),
    ]


class OnlineRun:
    """The part of W&B's run that lineage needs; a server would be needed for a real one."""

    id, offline = "digits-t0007", False

    def __init__(self):
        self.done = []

    def use_artifact(self, artifact):
        self.done.append(("use", artifact))

    def log_artifact(self, artifact):
        self.done.append(("log", artifact))


def test_the_confusion_of_student_against_teacher_is_a_chart(config, tmp_path):
    directory = tmp_path / "run"
    record = finished_run(directory, tmp_path / "teacher" / "weights.pt")
    with track(config, directory) as tracker:
        tracker.finish(record)
    chart = only_run(config).media("student_against_teacher")
    assert chart["data"][0]["z"] == [[None, 2], [3, None]]
    assert chart["data"][0]["customdata"] == [[10, 2], [3, 25]]
    assert "agrees on 35 of 40" in chart["layout"]["title"]["text"]


def test_dataset_and_method_are_tags(config, tmp_path):
    config["dataset"] = {"name": "mnist"}
    config["loss"]["terms"] = {"kd": {"weight": 0.5}, "dkd": {"weight": 1.0}}
    with track(config, tmp_path):
        pass
    assert sorted(only_run(config).tags) == ["digits", "dkd", "kd", "mnist"]


def test_csv_holds_the_rows(config, tmp_path):
    config["tracking"]["mode"] = "csv"
    for _ in range(2):  # a second run of the folder replaces the first
        with track(config, tmp_path) as tracker:
            for row in ROWS:
                tracker.log(row)
            tracker.finish(record_of(config))
    with (tmp_path / "csv" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["step"], row["val_accuracy"]) for row in rows] == [
        ("0", "0.5"),
        ("1", "0.75"),
        ("2", "0.625"),
    ]
    assert "temperature: 4.0" in (tmp_path / "csv" / "hparams.yaml").read_text()
    assert not Path(config["output_dir"]).exists()


def test_tensorboard_holds_the_rows_and_the_result(config, tmp_path):
    config["tracking"]["mode"] = "tensorboard"
    with track(config, tmp_path) as tracker:
        for row in ROWS:
            tracker.log(row)
        tracker.finish(record_of(config))
    values = tensorboard_values(tmp_path / "tensorboard")
    assert values["val_accuracy"][:3] == [(0, 0.5), (1, 0.75), (2, 0.625)]
    assert values["num_params"] == [(0, 1234.0)]
    assert not Path(config["output_dir"]).exists()


def tensorboard_values(directory):
    """Tag -> (step, value) of every scalar: records of <length u64><crc u32><data><crc u32>."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    values = {}
    for file in sorted(directory.rglob("events.out.*")):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                values.setdefault(value.tag, []).append((event.step, value.simple_value))
    return values
