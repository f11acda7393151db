"""Any file of a sweep's folder may be damaged: the report names it and shows the rest."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from sweep_folders import make_sweep

from kd_research.records.record import write_json
from kd_research.report.__main__ import main
from kd_research.report.load import load_sweep

TRIAL = "trials/0004"
FILES = [
    "sweep.yaml",
    *(
        f"{TRIAL}/{name}"
        for name in (
            "proposal.json",
            "record.json",
            "metrics.jsonl",
            "evaluation.json",
            "export.json",
            "predictions.npz",
        )
    ),
]
NOBODY = 65534


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep of 12 trials with every kind of file that a report reads."""
    folder = make_sweep(tmp_path_factory.mktemp("whole") / "s", num_trials=12)
    labels = np.arange(10)
    for trial in folder.glob("trials/*"):
        arrays = {f"{split}_{who}": labels for split in ("val", "test") for who in ("labels",)}
        np.savez_compressed(trial / "predictions.npz", **arrays, test_student=labels)
        write_json(trial / "export.json", {"metrics": {"onnx_val_accuracy": 0.9}, "costs": {}})
    return folder


@pytest.fixture
def sweep(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "s"))


def missing(path):
    path.unlink()


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3].rstrip() + b"\n")


def empty(path):
    path.write_bytes(b"")


def folder(path):
    path.unlink()
    path.mkdir()


def another_type(path):
    path.write_text('["a list", 3]\n')


def another_encoding(path):
    path.write_bytes(path.read_bytes().replace(b":", b":\xff", 3))


def wide(path):
    path.write_bytes(path.read_text(encoding="latin-1").encode("utf-16"))


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(3000))


def loop(path):
    path.unlink()
    path.symlink_to(path)


WAYS = [missing, truncated, empty, folder, another_type, another_encoding, wide, noise, loop]
# An export is no part of a run; a curve or a set of bytes may end early, or hold nothing yet.
FINE = {
    ("export.json", "missing"),
    ("metrics.jsonl", "empty"),
    ("predictions.npz", "another_encoding"),
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", FILES)
def test_it_is_named_and_the_rest_is_shown(whole, sweep, name, way, capsys):
    before = {trial.number: trial for trial in load_sweep(whole).trials}
    way(sweep / name)
    assert main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    if (Path(name).name, way.__name__) == ("record.json", "missing"):
        assert "without a record, running or cut off: 4, 11" in printed
    elif (Path(name).name, way.__name__) not in FINE:
        assert name in printed
    found = load_sweep(sweep)
    assert [trial.number for trial in found.trials] == list(before)
    for trial in found.trials:
        if (trial.number, Path(name).name) != (4, "record.json"):
            assert trial.state == before[trial.number].state
            assert trial.records == before[trial.number].records or name.endswith("export.json")
    assert "Pareto front" in printed
    assert (sweep / "report.html").stat().st_size > 1_000_000


def test_all_of_it_at_once(sweep, capsys):
    for trial in sweep.glob("trials/*"):
        for path in trial.iterdir():
            noise(path)
    noise(sweep / "sweep.yaml")
    assert main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert "12 trials: 1 running, 11 failed" in " ".join(printed.split())
    assert "more files cannot be read" in printed


def test_a_text_where_a_record_has_a_number(sweep, capsys):
    path = sweep / TRIAL / "record.json"
    text = path.read_text()
    at = text.index('"val_accuracy": ') + len('"val_accuracy": ')
    path.write_text(text[:at] + '"high"' + text[text.index(",", at) :])
    assert main([str(sweep)]) == 0
    assert "trial 4 failed" in (printed := capsys.readouterr().out)
    assert "metrics.val_accuracy is 'high', no number" in printed


def test_half_a_character_of_a_path_in_a_reason(sweep, capsys):
    path = sweep / TRIAL / "record.json"
    failed = path.read_text().replace('"completed"', '"failed"')
    path.write_text(failed.replace('"error": null', '"error": "no image caf\\udce9.png"'))
    assert main([str(sweep)]) == 0
    assert "no image caf\\udce9.png" in capsys.readouterr().out


def as_nobody(action):
    """Do it in a process without root's rights; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.seteuid(NOBODY)
            code = action()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def others(whole):
    """A colleague's sweep: it can be read, and not be changed."""
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    place.chmod(0o755)
    yield Path(shutil.copytree(whole, place / "s"))
    shutil.rmtree(place)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as root may")


@needs_root
@pytest.mark.parametrize("name", [*FILES, TRIAL])
def test_a_file_that_is_not_ours_to_read(others, name, capfd):
    (others / name).chmod(0)
    assert as_nobody(lambda: main([str(others)])) == 1
    printed = capfd.readouterr().out
    assert f"{others / name}" in printed
    assert "12 trials" in printed or "12 of" in printed


@needs_root
def test_a_colleagues_sweep_is_shown_and_what_was_not_written_said(others, capfd):
    assert as_nobody(lambda: main([str(others)])) == 1
    printed = capfd.readouterr()
    assert "Pareto front" in printed.out
    for name in ("trials.csv", "trials.parquet", "front.csv", "report.md", "report.html"):
        assert f"{others / name} was not written (" in printed.out
    assert "(Permission denied)" in printed.out
    assert "Traceback" not in printed.out + printed.err
    assert as_nobody(lambda: main([str(others), str(others)])) == 0
    assert "was not written (Permission denied)" in capfd.readouterr().out


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_locale_without_an_en_dash(sweep, locale):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    environment |= {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = sweep / "sweep.yaml"
    path.write_text(path.read_text().replace("name: ", "name: x – "), encoding="utf-8")
    command = [sys.executable, "-m", "kd_research.report", str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Pareto front" in done.stdout
    assert (sweep / "report.html").read_text(encoding="utf-8").count("–")
