"""What ends a run from outside is known by what it says, on a disk that is really full."""

import os
import shutil
import sqlite3
import subprocess
import sys

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from small_disk import fill, fill_inodes, small_disk

from kd_research.records import outside
from kd_research.records.outside import Held, OutsideError, ended_by, trouble
from kd_research.records.record import write_json


def _sqlite(path):
    with sqlite3.connect(path) as database:
        database.execute("create table t (x)")
        database.executemany("insert into t values (?)", [("x" * 1000,)] * 4000)


def _append(path):
    with path.open("a") as stream:
        stream.write("x" * 3_000_000)


WRITERS = {
    "json": lambda path: write_json(path, ["x" * 3_000_000]),
    "text": _append,
    "torch": lambda path: torch.save(torch.zeros(1_000_000), path),
    "npz": lambda path: np.savez(path, np.random.default_rng(0).random(400_000)),
    "npy": lambda path: np.save(path, np.zeros(1_000_000)),
    "large npy": lambda path: np.save(path, np.zeros(3_000_000)),
    "copy": lambda path: shutil.move(_large(path.parents[1] / "elsewhere"), path),
    "parquet": lambda path: pd.DataFrame(
        {"a": np.random.default_rng(0).random(400_000)}
    ).to_parquet(path),
    "sqlite": _sqlite,
}


def _large(path):
    path.write_bytes(bytes(3_000_000))
    return path


INODES = {
    "folder": lambda path: path.mkdir(),
    "lock": lambda path: filelock.FileLock(path).acquire(),
    "json": lambda path: write_json(path, []),
    "torch": lambda path: torch.save(torch.zeros(1), path),
    "sqlite": _sqlite,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_known_whatever_was_written(name, tmp_path):
    with small_disk(tmp_path / "disk", "size=2m") as disk:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each library's own
            WRITERS[name](disk / "file")
        line = trouble(caught.value, disk)
        assert line is not None, repr(caught.value)
        assert line.startswith(f"no room on the disk of {disk} (")
        assert "\n" not in line
        fill(disk)
        assert outside.is_full(disk)


def test_a_full_disk_is_the_reason_whatever_the_log_holds_of_it(tmp_path):
    said = "no room on the disk of /d (1 MB free); make some"
    end = "its process ended with exit code 1"
    assert ended_by(tmp_path, said, end) == said
    assert ended_by(tmp_path, "", end).startswith(f"{end} (")
    with small_disk(tmp_path / "disk", "size=2m") as disk:
        fill(disk)
        for cut in ("", "Traceback (most rec"):
            line = ended_by(disk, cut, end)
            assert line.startswith(f"no room on the disk of {disk} (0.0 MB"), line
        assert ended_by(disk, said, end) == said


@pytest.mark.parametrize("name", INODES)
def test_a_disk_without_inodes_is_known_too(name, tmp_path):
    with small_disk(tmp_path / "disk", "size=8m", "nr_inodes=40") as disk:
        fill_inodes(disk)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            INODES[name](disk / "file")
        line = trouble(caught.value, disk)
        assert line is not None, repr(caught.value)
        assert "no room" in line or "disk" in line


def test_the_errors_of_what_runs_are_its_own(tmp_path):
    own = [
        ValueError("bad"),
        FileNotFoundError(2, "No such file", "x"),
        RuntimeError("CUDA"),
        OSError("x"),
    ]
    assert [trouble(error, tmp_path) for error in own] == [None] * 4


def test_a_network_that_is_away_is_known(tmp_path):
    code = (
        "import requests\nfrom pathlib import Path\n"
        "from kd_research.records.outside import trouble\n"
        "try: requests.get('http://127.0.0.1:9', timeout=600)\n"
        "except Exception as error: print(trouble(error, Path()))"
    )
    pytest.importorskip("requests")
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.startswith("the network is away: "), done


def test_what_is_removed_or_replaced_is_noticed(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    held = Held(folder)
    held.check()
    shutil.rmtree(folder)
    with pytest.raises(OutsideError, match="was removed"):
        held.check()
    folder.mkdir()
    with pytest.raises(OutsideError, match="was removed or replaced"):
        held.check()
    held.close()


def test_a_folder_that_is_not_ours_to_write(tmp_path):
    error = PermissionError(13, "Permission denied", str(tmp_path / "run" / "record.json"))
    assert trouble(error, tmp_path) == f"{tmp_path / 'run'} cannot be written (Permission denied)"
    assert trouble(error, tmp_path / "elsewhere") is None, "a data set that cannot be read"
