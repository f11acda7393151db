"""Trouble from outside is not the trial's fault: it is put back, and the same command goes on."""

import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_disk import fill, fill_inodes, small_disk
from sqlalchemy.exc import OperationalError
from sweep_commands import NOOP, folder, processes_of, proposals, records, scripted, start, sweep

from kd_research.records.outside import PUT_BACK, OutsideError
from kd_research.records.record import RunRecord, write_text
from kd_research.sweep import storage as storages
from kd_research.sweep.storage import PatientStorage, open_storage

TOTAL = "sweep.n_trials=6"


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def break_in_mid_sweep(output_dir, action, done=None):
    """Do something to a sweep that has two trials done; what it gave back, and its last words.

    The others do not end before that, however slow the machine; then `done` is made, and they do,
    or without it never.
    """
    held = {"NOOP_HOLD": str(done or output_dir / "never")}
    process = start(output_dir, TOTAL, "sweep.workers=2", base=NOOP, environment=held)
    starts = folder(output_dir) / "trials"
    wait_for(lambda: len(records(output_dir)) == 2, process)
    wait_for(lambda: len(list(starts.glob("*/starts"))) == 4, process)
    found = action()
    if done:
        done.touch()
    printed, _ = process.communicate()
    assert process.returncode == PUT_BACK, printed
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].endswith("; the same command goes on from here")
    assert processes_of(output_dir) == []
    return found, printed.splitlines()[-1]


def check_goes_on(output_dir):
    code, printed = sweep(output_dir, TOTAL, "sweep.workers=2", base=NOOP)
    assert code == 0, printed
    found = records(output_dir)
    assert len(found) == 6
    assert {record["status"] for record in found.values()} == {"completed"}
    lost = list(folder(output_dir).glob("trials/*/.lost"))
    assert lost == [], "no try was counted"


@pytest.mark.parametrize("exhaust", [fill, pytest.param(fill_inodes, marks=pytest.mark.long)])
def test_a_disk_that_is_full_in_mid_sweep(exhaust, tmp_path):
    options = ("size=64m", "nr_inodes=600") if exhaust is fill_inodes else ("size=8m",)
    with small_disk(tmp_path / "disk", *options) as disk:
        output_dir = disk / "outputs"
        ballast, line = break_in_mid_sweep(output_dir, lambda: exhaust(disk), tmp_path / "done")
        # whichever notices first: the sweep's write, its storage, or the end of a trial
        assert any(said in line for said in ("disk", "does not answer")), line
        code, printed = sweep(output_dir, TOTAL, base=NOOP)
        assert code == PUT_BACK, "there is still no room"
        assert "Traceback" not in printed
        shutil.rmtree(ballast) if ballast.is_dir() else ballast.unlink()
        check_goes_on(output_dir)


def test_outputs_that_are_removed_in_mid_sweep(tmp_path):
    output_dir = tmp_path / "outputs"
    _, line = break_in_mid_sweep(output_dir, lambda: shutil.rmtree(folder(output_dir)))
    assert "was removed" in line
    check_goes_on(output_dir)


def test_a_trials_folder_that_is_removed_is_told(tmp_path):
    output_dir = tmp_path / "outputs"

    def remove():
        done = min(records(output_dir))
        shutil.rmtree(folder(output_dir) / "trials" / f"{done:04d}")

    _, line = break_in_mid_sweep(output_dir, remove, tmp_path / "done")
    assert "the folders of finished trials were removed: [" in line


class Server(BaseHTTPRequestHandler):
    """Answers as long as there is a network: until two trials are done, where it goes away."""

    def do_GET(self):
        away = self.server.goes_away and len(records(self.server.output_dir)) >= 2
        if not away:  # else the connection ends without a word
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_):
        pass


def test_a_network_that_goes_in_mid_sweep_costs_no_trial(tmp_path):
    pytest.importorskip("requests")
    output_dir = tmp_path / "outputs"
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.output_dir, server.goes_away = output_dir, True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        environment = {"NETWORKED_URL": url, "NO_PROXY": "127.0.0.1"}
        command = (TOTAL, "dataset._target_=networked.data")
        code, printed = sweep(output_dir, *command, environment=environment)
        assert code == PUT_BACK, printed
        assert "Traceback" not in printed
        assert "the network is away: " in printed.splitlines()[-1]
        assert printed.splitlines()[-1].endswith("; the same command goes on from here")
        assert 2 <= len(records(output_dir)) < 6
        server.goes_away = False
        code, printed = sweep(output_dir, *command, environment=environment)
        server.shutdown()
    assert code == 0, printed
    assert [record["status"] for record in records(output_dir).values()] == ["completed"] * 6
    assert list(folder(output_dir).glob("trials/*/.lost")) == []


class Away:
    """A storage of which some calls fail."""

    def __init__(self, storage, times):
        self.storage, self.times, self.calls = storage, times, 0

    def __getattr__(self, name):
        def call(*arguments, **named):
            self.calls += 1
            if self.times > 0:
                self.times -= 1
                raise OperationalError("select", {}, Exception("connection refused"))
            return getattr(self.storage, name)(*arguments, **named)

        return call


def test_a_call_is_tried_again_until_the_storage_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storages, "WAIT_SECONDS", 0.01)
    patient = PatientStorage(Away(open_storage(None, tmp_path).storage, 3))
    assert patient.get_all_studies() == []
    assert patient.outages == 1
    assert capsys.readouterr().out.count("does not answer (") == 1


def test_after_minutes_it_is_said_and_putting_back_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(storages, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(storages, "PATIENCE_SECONDS", 0.05)
    away = Away(None, 10_000)
    patient = PatientStorage(away)
    with pytest.raises(OutsideError, match="the study's storage does not answer .*refused"):
        patient.get_all_studies()
    calls = away.calls
    assert calls > 1
    with pytest.raises(OutsideError):
        patient.get_all_studies()
    assert away.calls == calls + 1


def test_an_error_that_is_no_outage_is_not_tried_again(tmp_path):
    patient = open_storage(None, tmp_path)
    with pytest.raises(KeyError):
        patient.get_trial(12)
    assert patient.outages == 0


def curve(directory):
    """The rows of a run that trains nothing, and its record."""
    rows = [{"epoch": epoch, "val_accuracy": 0.5, "num_params": 10} for epoch in range(3)]
    return rows, RunRecord("completed", {}, 0, {"val_accuracy": 0.5}, {"num_params": 10})


def test_a_sweep_goes_on_beside_damaged_files(tmp_path):
    overrides = ("sweep.n_trials=6", "sweep.early_stopping=0.5")
    scripted(tmp_path, curve, *overrides, slots=1, stop_after=3)
    trials = folder(tmp_path) / "trials"
    (trials / "0000" / "metrics.jsonl").write_bytes(b'{"epoch": 0, "val_accuracy": 0.5}\n\xff\n')
    (trials / "0001" / "proposal.json").write_text("{")
    (trials / "0002" / "metrics.jsonl").write_text('{"epoch": 0, "val_accuracy": "high"}\n')
    report, _ = scripted(tmp_path, curve, *overrides, slots=1)
    assert report.counts["completed"] == 6
    named = "\n".join(report.damaged)
    for name in ("0000/metrics.jsonl", "0001/proposal.json", "0002/metrics.jsonl"):
        assert name in named


def test_a_sweep_whose_folder_was_moved_goes_on_there(tmp_path):
    scripted(tmp_path / "here", curve, "sweep.n_trials=6", slots=1, stop_after=3)
    done, proposed = set(records(tmp_path / "here")), proposals(tmp_path / "here")
    assert 0 < len(done) < 6
    shutil.move(tmp_path / "here", tmp_path / "there")
    report, pool = scripted(tmp_path / "there", curve, "sweep.n_trials=6", slots=1)
    assert report.counts == {"completed": 6, "running": 0, "failed": 0, "pruned": 0}
    assert proposals(tmp_path / "there").items() >= proposed.items()
    again = {path.name for path in pool.started} & {f"{number:04d}" for number in done}
    assert not again, "what was finished is not run again"
    assert not (tmp_path / "here").exists()


def test_a_record_that_cannot_be_read_is_a_failed_trial(tmp_path):
    def run(directory):
        if directory.name == "0001":
            write_text(directory / "record.json", '{"schema": 1, "status": "comp')
            return [], None
        return curve(directory)

    report, _ = scripted(tmp_path, run, "sweep.n_trials=4", slots=1)
    assert report.counts == {"completed": 3, "running": 0, "failed": 1, "pruned": 0}
    assert "is not JSON" in str(report.trials[1].error)
