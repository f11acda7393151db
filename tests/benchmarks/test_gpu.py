"""`benchmarks/gpu.py` in miniature: what needs a GPU must at least run, and survive what fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm import run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
ALONE = "the part itself"


def bench(
    out: Path, *arguments: str, forked: tuple[str, ...] = ()
) -> tuple[int, str, list[dict[str, object]]]:
    """`gpu.py` as a person starts it, or `forked`: as gpu_miniature.py says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    places = (ROOT, ROOT / "tests", Path(__file__).parent, SCRIPT.parent)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, places))
    program = ("-m", "gpu_miniature", *forked) if forked else (str(SCRIPT),)
    command = [sys.executable, *program, "--cpu", "--out", str(out), *arguments]
    start = run if forked else subprocess.run
    done = start(command, capture_output=True, text=True, env=environment, cwd=out.parent)
    assert (out / "table.md").exists(), done.stdout + done.stderr
    lines = (out / "results.jsonl").read_text().splitlines()
    return done.returncode, done.stdout + done.stderr, [json.loads(line) for line in lines]


@pytest.mark.long  # it distils on resnets, a sweep among it; to be run before a GPU's time is spent
@pytest.mark.timeout(1800)  # on a busy machine
def test_every_part_runs_in_miniature(tmp_path: Path) -> None:
    given = ("--limit", "800", "--minutes", "60")
    code, printed, rows = bench(tmp_path / "out", *given, forked=("here",))
    wrong = [row for row in rows if row.get("ok") is False]
    assert not wrong, f"{wrong}\n{printed[-4000:]}"
    assert code == 0, printed[-4000:]
    parts = list(dict.fromkeys(row["part"] for row in rows))
    assert parts == [
        *("machine", "correctness", "server", "ranks", "speed"),
        *("at_once", "pair", "energy", "language"),
    ]
    found = {str(row["what"]): row for row in rows}
    assert found["an MLP: GPU float32 against CPU"]["value"] == 0.0  # here they are one device
    assert found["trials completed"]["value"] == 4
    assert found["a trial after kill -9"]["value"] == "goes on"
    assert 0 < found["gloo, two ranks on one GPU, against one rank"]["value"] < 1e-3  # type: ignore[operator]
    speeds = [row for row in rows if row["part"] == "speed" and row["unit"] == "images/s"]
    assert len(speeds) >= 11
    assert all(row["value"] > 0 for row in speeds)  # type: ignore[operator]
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.rstrip() in printed, "the table comes last"
    assert table.count("\n") == len(rows) + 2
    assert "ended" not in table


def test_a_part_that_fails_or_hangs_costs_itself_alone(tmp_path: Path) -> None:
    """The images' folder holds no images; then a limit that no start of Python meets."""
    (tmp_path / "data" / "cifar100").mkdir(parents=True)
    out = tmp_path / "out"
    data = ("--data", str(tmp_path / "data"))
    code, _, rows = bench(
        out, *data, "--only", "energy", "language", "--limit", "120", forked=("apart",)
    )
    ends = {row["part"]: row for row in rows if row["what"] == ALONE}
    assert code == 1
    assert ends["energy"]["ok"] is False
    assert str(ends["energy"]["note"]).startswith("exit code 1, see log.txt: ")
    assert ends["language"]["ok"] is True
    code, printed, rows = bench(out, "--only", "energy", "language", "--limit", "0.2")
    notes = [row["note"] for row in rows if row["what"] == ALONE]
    assert code == 1
    assert notes == ["ended at its limit of 0 s"] * 2
    assert printed.count("| energy | the part itself |") == 2, "as it comes, and in the table"
