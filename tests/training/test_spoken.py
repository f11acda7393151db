"""A run by hand says where it is, and after Ctrl-C how to go on."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from omegaconf import OmegaConf
from tiny import TINY
from tqdm.std import TqdmDefaultWriteLock, tqdm
from warm import Command

from kd_research.records.printing import SPOKEN
from kd_research.training import spoken


def test_an_epoch_is_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr(spoken.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(spoken.log, "propagate", True)
    epochs = spoken.Epochs("train", 30)
    with caplog.at_level(logging.INFO, SPOKEN):
        epochs.say({"epoch": 1, "train_loss": 0.4123, "val_accuracy": 0.951})
        epochs.say({"epoch": 2, "train_loss": 0.3})
    assert caplog.messages == [
        "train 2/30  loss 0.412  val 95.1 %  56 s left",
        "train 3/30  loss 0.3  54 s left",
    ]


def test_no_semaphore_is_left_behind_by_a_killed_run() -> None:
    assert not isinstance(tqdm.get_lock(), TqdmDefaultWriteLock)
    assert not isinstance(datasets.utils.tqdm.get_lock(), TqdmDefaultWriteLock)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (119, "119 s"), (600, "10 min"), (7300, "2 h")]
)
def test_what_is_left_is_in_a_unit_to_read(seconds: float, said: str) -> None:
    assert spoken.left(seconds) == said


@pytest.mark.parametrize(("sent", "ended"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_speaks_and_when_stopped_says_how_to_go_on(
    sent: signal.Signals, ended: int, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    typed = [
        *TINY,
        "trainer.max_epochs=100000",
        f"output_dir={tmp_path}",
        f"hydra.run.dir={folder}",
    ]
    command = [sys.executable, "-m", "kd_research.run", *typed]
    lines = []
    with Command(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.strip())
            if line.startswith("train 2/"):
                process.send_signal(sent)
                lines += map(str.strip, process.stderr)
        code = process.wait(600)
    spoken_lines = [line for line in lines if re.match(r"(teacher|train) \d", line)]
    assert re.fullmatch(r"teacher 1/2  loss \S+  val \S+ %  \d+ s left", spoken_lines[0])
    assert spoken_lines[1].startswith("teacher 2/2  loss ")
    assert re.fullmatch(r"train 1/100000  loss \S+  val \S+ %  \d+ \S+ left", spoken_lines[2])
    assert code == ended
    assert lines[-1].endswith(
        f"goes on after the last saved epoch: python -m kd_research.trial {folder}"
    )
    assert "Traceback" not in "\n".join(lines)
    assert not (folder / "record.json").exists()
    assert "trainer.max_epochs=100000" in OmegaConf.load(folder / "config.yaml").overrides
