"""Texts as they may be shown and written, and files as the umask wants them."""

import json
import os
import subprocess
import sys

import pytest

from kd_research.records.printable import masked, printable
from kd_research.records.record import RunRecord, read_record, write_record, write_text
from kd_research.report.load import load_sweep
from kd_research.report.text import print_summary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql+psycopg2://me:PW@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("postgresql://me:p@w/x:y@h:5/db?password=PW&x=1", "postgresql://me:***@h:5/db?password=***&x=1"),
        ("-m 'sweep.storage=mysql://me:PW@h/d' a=b", "-m 'sweep.storage=mysql://me:***@h/d' a=b"),
        ("postgresql://h/d?user=me;PASSWORD=PW", "postgresql://h/d?user=me;PASSWORD=***"),
        ("https://h/x?api_key=PW#y", "https://h/x?api_key=***"),
        ("postgresql://me:${oc.env:PW}@h/d", "postgresql://me:${oc.env:PW}@h/d"),
        ("postgresql://me@h:5432/d", "postgresql://me@h:5432/d"),
        ("https://github.com/a/b@c and me@x.y", "https://github.com/a/b@c and me@x.y"),
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
    ],
)  # fmt: skip
def test_passwords_are_masked(text, expected):
    assert masked(text) == expected
    assert printable(text) == expected


def test_control_characters_are_spelled_out():
    assert (
        printable("a\x1b[2J\x9b31m\r\x07\tb\n\udce9") == r"a\x1b[2J\x9b31m\x0d\x07" + "\tb\n\\udce9"
    )


EVIL = "\x1b]0;owned\x07\x1b[31mred"


def test_a_failed_trial_cannot_steer_the_terminal(tmp_path, capsys):
    """From its record, its proposal and the sweep's own file."""
    trial = tmp_path / "trials" / "0000"
    write_record(RunRecord("failed", {}, 0, error=f"ValueError: {EVIL}"), trial)
    assert "\x1b" not in str(read_record(trial).error)
    proposal = {"number": 0, "label": EVIL, "params": {f"a{EVIL}": EVIL}}
    (trial / "proposal.json").write_text(json.dumps(proposal))
    spec = {"name": EVIL, "objectives": {"val_accuracy": "maximize"}, "command": EVIL}
    (tmp_path / "sweep.yaml").write_text(json.dumps(spec))
    print_summary(load_sweep(tmp_path))
    printed = capsys.readouterr().out
    assert r"\x1b[31mred" in printed
    assert "\x1b" not in printed
    assert "\x07" not in printed


def test_a_failing_run_shows_its_traceback_without_escapes(tiny, tmp_path, monkeypatch, capfd):
    from kd_research.trial import run as trial

    def fail(*_):
        raise RuntimeError(EVIL)

    monkeypatch.setattr(trial, "fit_in_stages", fail)
    record = trial.run(tiny(), tmp_path)
    printed = capfd.readouterr().err
    assert "Traceback" in printed
    assert "\x1b" not in printed + str(record.error)


def test_the_umask_is_honoured(tmp_path):
    """Files of a run, of decoded data and of teacher outputs: private where a person wants that."""
    code = f"""
import os
from pathlib import Path
from kd_research.records.record import write_text
from kd_research.data.store import build_once
from kd_research.soft_targets.row_file import _create
os.umask(0o077)
at = Path({str(tmp_path)!r})
write_text(at / "private" / "a.json", "x")
_create(at / "private" / "view.bin", 64)
os.umask(0o002)
write_text(at / "shared" / "a.json", "x")
build_once(at / "shared" / "set", lambda folder: (folder / "meta.json").write_text("x"), "making")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    modes = {
        p.relative_to(tmp_path).as_posix(): p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")
    }
    assert modes["private/a.json"] == modes["private/view.bin"] == 0o600
    assert modes["private"] == 0o700
    assert modes["shared/a.json"] == 0o664
    assert modes["shared/set"] == 0o775


def test_a_write_leaves_nothing_beside(tmp_path):
    write_text(tmp_path / "a", "one")
    write_text(tmp_path / "a", "x://me:PW@h")
    assert (tmp_path / "a").read_text() == "x://me:***@h"
    assert os.listdir(tmp_path) == ["a"]
