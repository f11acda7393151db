"""The ranking's teacher has public weights; then the sweep runs as it was recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from kd_research.models.resnet import ResNet

ROOT = Path(__file__).resolve().parents[2]


def test_shortcuts_of_zeros_written_as_convolutions_change_no_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = __import__("crd_ranking")
    torch.manual_seed(0)
    zeros, convolutions = (ResNet(10, (3, 8, 8), 8, shortcut=kind) for kind in ("pad", "conv"))
    zeros(torch.randn(16, 3, 8, 8))  # gives the norms their moments
    convolutions.load_state_dict(script.as_convolutions(zeros.state_dict(), convolutions))
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(convolutions.eval()(images), zeros.eval()(images))


def test_the_sweep_is_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = __import__("crd_ranking")
    ledger = json.loads((ROOT / "docs/reproductions/ledgers/crd_ranking.json").read_text())
    command = script.sweep(script.TEACHER, "DIR", ["output_dir=there"])
    sweep, *typed = command[command.index("-m", 3) + 1 :]
    assert sweep == "+sweeps=papers/crd_ranking"
    assert sorted(typed) == sorted([*ledger["typed"], "dataset.root=DIR", "output_dir=there"])


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["sweep.worker=1"], "did you mean sweep.workers?"),
        (["--techer=x.pt"], "unrecognized arguments: --techer=x.pt"),
        (["--teacher=nowhere/x.pt"], "there is no folder nowhere"),
        ([], "PUBLIC is not a checkpoint"),
        (["--teacher=PUBLIC"], "--teacher: PUBLIC is not a checkpoint"),
    ],
)
def test_a_slip_is_told_before_anything_is_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: list[str],
    told: str,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    Path("PUBLIC").write_text("no weights")
    monkeypatch.setattr(sys, "argv", ["crd_ranking.py", "PUBLIC", "--cifar100", ".", *typed])
    with pytest.raises(SystemExit) as ended:
        __import__("crd_ranking").main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
