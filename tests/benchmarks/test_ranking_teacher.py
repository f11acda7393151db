"""The ranking's teacher has public weights, whose shortcuts of zeros become convolutions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kd_research.models.resnet import ResNet

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_shortcuts_of_zeros_written_as_convolutions_change_no_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = __import__("ranking_teacher")
    torch.manual_seed(0)
    zeros, convolutions = (ResNet(10, (3, 8, 8), 8, shortcut=kind) for kind in ("pad", "conv"))
    zeros(torch.randn(16, 3, 8, 8))  # gives the norms their moments
    convolutions.load_state_dict(script.as_convolutions(zeros.state_dict(), convolutions))
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(convolutions.eval()(images), zeros.eval()(images))
