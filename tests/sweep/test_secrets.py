"""A marked password, put wherever one may be, is found in no file, output or child's arguments."""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
import warm
from postgres import running
from sweep_commands import NOOP, PATHS, TINY, folder, records, start

MARK = "s3cr3t-MARKED-pa55"
KEY = "abcdef0123456789abcdef0123456789MARKED00"  # as long as W&B's
TRACKED = [*TINY, "tracking=offline", "sweep.n_trials=1", "sweep.workers=1"]


def command_of(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def children_of(pid):
    """The processes that the threads of one have started, and that live."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found


class Children:
    """The arguments of every process below one, as /proc tells them while it runs."""

    def __init__(self, process):
        self.process, self.seen = process, set()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        while self.process.poll() is None:
            own, below = command_of(self.process.pid), children_of(self.process.pid)
            while below:
                pid = below.pop()
                below += children_of(pid)
                if command := command_of(pid):
                    self.seen.add(command)
            self.seen.discard(own)  # of one that has yet to become another
            time.sleep(0.05)


def run(process):
    children = Children(process)
    printed, _ = process.communicate(timeout=600)
    children.thread.join()
    return process.returncode, printed, children.seen


def found_in(place):
    """The files below a folder whose name or content has a mark."""
    marks = (MARK.encode(), KEY.encode())
    files = [path for path in place.rglob("*") if path.is_file()]
    assert files
    return [
        path for path in files if any(m in path.read_bytes() + str(path).encode() for m in marks)
    ]


def look_at(output_dir, *module, **more):
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "WANDB_API_KEY": KEY}
    environment |= more
    done = warm.run(
        [sys.executable, "-m", *map(str, module)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=output_dir,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("form", ["typed", "environment"])
def test_a_password_stays_where_it_was(form, tmp_path):
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    url = f"sqlite:///file:{output_dir}/other.db?uri=true&password={MARK}"
    environment = {"WANDB_API_KEY": KEY, "KD_STORAGE": url, "KD_NOTE": f"note {MARK}"}
    given = url if form == "typed" else "${oc.env:KD_STORAGE}"
    overrides = [f"sweep.storage='{given}'", "+tracking.notes=${oc.env:KD_NOTE}"]
    process = start(output_dir, *overrides, base=TRACKED, environment=environment)
    code, printed, children = run(process)
    assert code == 0, printed
    assert (output_dir / "other.db").exists()
    assert [record["status"] for record in records(output_dir).values()] == ["completed"]
    assert list((output_dir / "wandb").glob("offline-run-*-s-sweep"))
    trial = folder(output_dir) / "trials" / "0000"
    code, report = look_at(output_dir, "kd_research.report", folder(output_dir))
    assert code == 0, report
    code, export = look_at(output_dir, "kd_research.export", trial)
    assert "KD_NOTE" in export, "the folder says what it needs, and does not have it"
    if form == "environment":  # with it, to its end
        pytest.importorskip("onnxruntime", reason="needs kd_research[export]")
        code, more = look_at(output_dir, "kd_research.export", trial, "--trust", **environment)
        assert code == 0, more
        assert (trial / "export" / "student.int8.onnx").is_file()
        assert list((output_dir / "wandb").glob("*export*"))
        export += more
    assert len(children) > 1
    for text in (printed, report, export, *map(os.fsdecode, children)):
        assert MARK not in text
        assert KEY not in text
    assert found_in(output_dir) == []
    config = (trial / "config.yaml").read_text()
    assert "${oc.env:KD_NOTE}" in config
    assert ("${oc.env:KD_STORAGE}" if form == "environment" else "password=***") in config


def test_a_password_is_no_argument_of_what_a_sweep_starts(tmp_path):
    """By an interpreter of its own: its children have the arguments that they have with all."""
    url = f"sqlite:///file:{tmp_path}/other.db?uri=true&password={MARK}"
    overrides = [f"sweep.storage='{url}'", "tracking=offline", "sweep.n_trials=1"]
    given = {"WANDB_API_KEY": KEY}
    code, printed, children = run(
        start(tmp_path / "out", *overrides, base=NOOP, environment=given, real=True)
    )
    assert code == 0, printed
    assert any(b"multiprocessing.forkserver" in command for command in children)
    assert any(b"wandb" in command for command in children)
    for text in (printed, *map(os.fsdecode, children)):
        assert MARK not in text
        assert KEY not in text


def test_the_password_of_a_postgresql_that_asks_for_it_stays_where_it_was(tmp_path):
    with running(MARK) as database:
        output_dir = tmp_path / "out"
        overrides = [f"sweep.storage='{database.url}'", "tracking=offline", "sweep.n_trials=2"]
        key = {"WANDB_API_KEY": KEY}
        process = start(output_dir, *overrides, base=NOOP, environment=key)
        code, printed, _ = run(process)
        assert code == 0, printed
        assert optuna.load_study(study_name="s", storage=database.url).best_trials
        wrong = database.url.replace(MARK, f"{MARK}-not")
        process = start(output_dir, f"sweep.storage='{wrong}'", base=NOOP)
        code, refused, _ = run(process)
        assert code != 0
        assert "password authentication failed" in refused
    assert list((output_dir / "wandb").glob("offline-run-*-s-sweep"))
    code, report = look_at(output_dir, "kd_research.report", folder(output_dir))
    assert code == 0, report
    for text in (printed, refused, report):
        assert MARK not in text
    assert found_in(output_dir) == []
    assert "postgres:***@127.0.0.1" in (folder(output_dir) / "sweep.yaml").read_text()


def test_a_password_is_not_told_where_the_storage_fails(tmp_path):
    url = f"postgresql+psycopg2://user:{MARK}@127.0.0.1:1/none"
    code, printed, _ = run(start(tmp_path, f"sweep.storage='{url}'", base=TRACKED))
    assert code != 0
    assert MARK not in printed
    assert MARK not in "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_a_password_that_a_folder_would_need_is_refused(tmp_path):
    overrides = [f"+dataset.proxy=http://user:{MARK}@host/", "trainer.max_epochs=1"]
    code, printed, _ = run(start(tmp_path, *overrides, base=TRACKED))
    assert code == 1
    assert printed.startswith(
        "dataset.proxy=http://user:***@host/ holds a password, which is never"
    )
    assert "oc.env:NAME" in printed


def test_a_report_does_not_resolve_the_readers_environment(tmp_path):
    from kd_research.records.record import SWEEP_NAME

    (tmp_path / SWEEP_NAME).write_text(
        "name: ${oc.env:KD_READER}\nobjectives: {val_accuracy: maximize}\n"
        "command: ${oc.env:KD_READER}\n"
    )
    os.environ["KD_READER"] = MARK
    try:
        code, printed = look_at(tmp_path, "kd_research.report", tmp_path)
    finally:
        del os.environ["KD_READER"]
    assert code == 0, printed
    assert MARK not in printed
    assert found_in(tmp_path) == []
