"""W&B's temporary folders go with their process."""

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from kd_research.tracking import track


def _run(config, temporary, ready, end):
    os.environ["TMPDIR"], tempfile.tempdir = temporary, None
    if end == "broken":
        Path(temporary, "wandb.py").write_text("raise RuntimeError")
        sys.path.insert(0, temporary)
    with track(config, Path(config["output_dir"])) as tracker:
        tracker.log({"epoch": 0, "val_accuracy": 0.5})
        Path(ready).touch()
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    if end == "raises":
        raise SystemExit(3)


@pytest.mark.parametrize("end", ["ends", "raises", "killed", "broken"])
def test_a_run_leaves_none_wherever_it_ends(config, tmp_path, end):
    temporary, ready = tmp_path / "tmp", tmp_path / "ready"
    temporary.mkdir()
    spawn = multiprocessing.get_context("spawn")  # as a forked trial, it runs no farewells

    def run(how):
        process = spawn.Process(target=_run, args=(config, str(temporary), str(ready), how))
        process.start()
        process.join()
        assert ready.exists()
        return process.exitcode

    assert run(end) == {"raises": 3, "killed": -signal.SIGKILL}.get(end, 0)
    assert [path.name for path in temporary.glob("tmp*wandb-*")] == []
    left = list((Path(config["output_dir"]) / "wandb" / "tmp").iterdir())
    assert len(left) == (1 if end == "killed" else 0)
    if end == "killed":
        assert run("ends") == 0
        assert list((Path(config["output_dir"]) / "wandb" / "tmp").iterdir()) == []
