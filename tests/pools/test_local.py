"""What may happen to the processes of a sweep, with trials that train nothing."""

import gc
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from sweep_commands import NOOP, PATHS, folder, processes_of, proposals, records, start, sweep
from warm import run

from kd_research.pools import local
from kd_research.pools.local import LocalPool, cores, visible_gpus
from kd_research.sweep.folders import count_loss

KILLED = "its process was killed by signal 9 (SIGKILL)"

SEGFAULT = "its process was killed by signal 11 (SIGSEGV)"


@pytest.fixture(scope="module", autouse=True)
def _no_server_is_left():
    """Later tests of this process start a fork server that has other modules loaded."""
    yield
    gc.collect()  # loaders that refer to themselves: a server ends after their workers
    forkserver._forkserver._stop()


def noop(output_dir, *overrides, trouble="", seconds="0", run=sweep):
    environment = {"NOOP_TROUBLE": trouble, "NOOP_SECONDS": seconds}
    return run(output_dir, "sweep.workers=2", *overrides, base=NOOP, environment=environment)


def starts(output_dir, number):
    return (folder(output_dir) / "trials" / f"{number:04d}" / "starts").read_text().split()


def wait_for(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def check_whole(output_dir, total):
    """Exactly `total` trials, each told once, none proposed twice, no half-written file."""
    storage = f"sqlite:///{folder(output_dir)}/study.db"
    study = optuna.load_study(study_name="s", storage=storage)
    counted = [trial for trial in study.trials if "discarded" not in trial.user_attrs]
    assert len(counted) == total
    assert all(trial.state.is_finished() for trial in study.trials)
    found = proposals(output_dir)
    assert sorted(found) == sorted(records(output_dir)) == [trial.number for trial in counted]
    assert found == {trial.number: trial.params for trial in counted}
    assert len({tuple(params.values()) for params in found.values()}) == total
    assert processes_of(output_dir) == []


def test_a_lost_process_or_one_that_hangs_costs_its_trial_alone(tmp_path):
    ends = [  # trouble, how often lost before under another sweeper, status, error, starts
        ("killed once", 0, "completed", None, 2),
        ("killed always", 1, "failed", f"{KILLED}, 3 times", 2),
        ("segfault", 2, "failed", f"{SEGFAULT}, 3 times; see log.txt", 1),
        ("exits", 0, "failed", "its process ended with exit code 3; see log.txt", 1),
        ("hangs", 0, "failed", "it ran longer than sweep.trial_timeout=10 seconds", 1),
    ]
    trials = folder(tmp_path) / "trials"
    for number, (_, lost_before, *_) in enumerate(ends, 1):
        for _ in range(lost_before):
            count_loss(trials / f"{number:04d}")
    trouble = ",".join(name for name, *_ in ends)
    code, printed = noop(tmp_path, "sweep.n_trials=7", "sweep.trial_timeout=10", trouble=trouble)
    assert code == 0, printed
    found = records(tmp_path)
    for number, (_, _, status, error, num_starts) in enumerate(ends, 1):
        assert (found[number]["status"], found[number]["error"]) == (status, error)
        assert len(starts(tmp_path, number)) == num_starts, error
    log = (trials / "0003" / "log.txt").read_text()
    assert "Fatal Python error: Segmentation fault" in log
    assert "noop_trial.py" in log
    assert [found[number]["status"] for number in (0, 6)] == ["completed"] * 2
    check_whole(tmp_path, 7)


@pytest.mark.parametrize(("first", "twice"), [(signal.SIGINT, False), (signal.SIGHUP, True)])
def test_an_interrupt_puts_the_trials_back_and_leaves_nothing_running(tmp_path, first, twice):
    """Ctrl-C, or the terminal is closed: the same command then ends with exactly `n_trials`."""
    process = noop(
        tmp_path, "sweep.n_trials=4", trouble="hangs" if twice else "", seconds="100", run=start
    )
    wait_for(lambda: len(list(folder(tmp_path).glob("trials/*/starts"))) == 2)
    process.send_signal(first)
    if twice:  # while it waits for a trial that does not end when it is asked to
        wait_for(lambda: list(folder(tmp_path).glob("trials/*/asked")))
        process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "the same command goes on from here" in printed
    assert "Traceback" not in printed
    wait_for(lambda: processes_of(tmp_path) == [])
    assert records(tmp_path) == {}
    code, printed = noop(tmp_path, "sweep.n_trials=4")
    assert code == 0, printed
    check_whole(tmp_path, 4)


def test_the_trials_of_a_killed_sweeper_die_with_it(tmp_path):
    process = noop(tmp_path, "sweep.n_trials=4", seconds="100", run=start)
    wait_for(lambda: len(list(folder(tmp_path).glob("trials/*/starts"))) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: processes_of(tmp_path) == [])
    process.communicate()
    assert processes_of(tmp_path) == []
    assert records(tmp_path) == {}


def test_two_sweepers_share_one_study(tmp_path, monkeypatch):
    monkeypatch.setenv("NOOP_MEET", f"{tmp_path / 'met'}:2")  # none is done before both have one
    both = [noop(tmp_path, "sweep.n_trials=6", run=start) for _ in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    ran = [sum(line.startswith("trial ") for line in text.splitlines()) for text in printed]
    check_whole(tmp_path, 6)
    assert min(ran) > 0


def test_one_sweeper_takes_up_what_another_one_left(tmp_path):
    both = [noop(tmp_path, "sweep.n_trials=8", seconds="1", run=start) for _ in range(2)]
    wait_for(lambda: len(list(folder(tmp_path).glob("trials/*/starts"))) >= 4)
    both[0].kill()
    both[0].communicate()
    printed, _ = both[1].communicate(timeout=600)
    assert both[1].returncode == 0, printed
    check_whole(tmp_path, 8)


@pytest.mark.parametrize(
    ("slots", "devices_per_trial", "seen"),
    [
        (None, 2, ["0,1", "2,3", "4,5", "6,7"]),
        (None, 1, ["0", "1", "2", "3", "4", "5", "6", "7"]),
        (10, 1, ["0", "0", "1", "1", "2", "3", "4", "5", "6", "7"]),
    ],
)
def test_every_slot_sees_its_own_gpus(tmp_path, monkeypatch, slots, devices_per_trial, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    pool = LocalPool(slots, devices_per_trial, program="noop_trial")
    assert pool.slots == len(seen)
    running = []
    for index in range(pool.slots):
        (tmp_path / str(index)).mkdir()
        running.append(pool.submit(tmp_path / str(index), "write_devices"))
    wait_for(lambda: all(handle.end() for handle in running))
    assert sorted(path.read_text() for path in tmp_path.glob("*/devices")) == seen
    freed = running[3]
    assert pool.wait([freed], 10) == [freed]
    again = pool.submit(tmp_path / "3", "write_devices")
    variable = (tmp_path / "3" / "devices").read_text()
    wait_for(lambda: again.end())
    assert (tmp_path / "3" / "devices").read_text() == variable  # of the slot that was free
    pool.wait(running, 10)


def test_kills_at_every_step_lose_nothing(tmp_path):
    total, place = "sweep.n_trials=50", str(Path(__file__).parent)
    command = [sys.executable, "-m", "kill_sweeps", "24", "3", *NOOP, f"output_dir={tmp_path}"]
    environment = {"PYTHONPATH": f"{PATHS}{os.pathsep}{place}", "NOOP_SECONDS": "0.05"}
    killed = run(
        [*command, total, "sweep.workers=2"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert killed.returncode == 0, killed.stdout
    before = len(records(tmp_path))
    code, printed = noop(tmp_path, total)
    assert code == 0, printed
    assert before > 10
    check_whole(tmp_path, 50)


def test_the_study_starts_from_what_is_known_and_hears_of_limits(tmp_path):
    code, printed = noop(
        tmp_path,
        "sweep.n_trials=4",
        "sweep.start_from=[{loss.temperature: 4, student.model.width: 11}]",
        "sweep.constraints=['num_params <= 200']",
    )
    assert code == 0, printed
    check_whole(tmp_path, 4)
    assert proposals(tmp_path)[0]["loss.temperature"] == 4
    assert proposals(tmp_path)[0]["student.model.width"] == 11
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder(tmp_path)}/study.db")
    for trial in study.trials:
        assert trial.constraints == {"num_params <= 200": trial.values[1] - 200}


@pytest.mark.parametrize(("build", "gpus"), [("13.0", ["0", "1"]), (None, [])])
def test_gpus_count_only_where_torch_can_use_them(tmp_path, monkeypatch, build, gpus):
    """A machine with two of NVIDIA's, and a torch with CUDA, or without."""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:02:00.0").mkdir()
    (tmp_path / "version.py").write_text(f"cuda = {build!r}\n")
    torch = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(local, "NVIDIA_GPUS", str(tmp_path / "gpus"))
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: torch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == gpus
    assert LocalPool().slots == (len(gpus) or cores())


def test_the_build_of_the_installed_torch_is_read_without_importing_it():
    code = (
        "import sys; from kd_research.pools.local import torch_has_cuda; "
        "print(torch_has_cuda(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import torch

    assert done.stdout.split() == [str(torch.version.cuda is not None), "False"]
