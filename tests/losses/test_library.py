"""The losses without Hydra and Lightning, as docs/how-to/own_loop.md shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import kd_research.losses

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "own_loop.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


@pytest.mark.parametrize("block", BLOCKS, ids=["logits", "features"])
def test_an_example_trains_the_student_and_leaves_the_teacher(block: str) -> None:
    lines = [
        line for line in block.splitlines() if line and not line.startswith(("import", "from"))
    ]
    assert len(lines) <= 15
    torch.manual_seed(0)
    student, teacher = net(8), net(16).eval()
    inputs = torch.randn(64, 4)
    index = torch.arange(64)
    loader = [(inputs, teacher(inputs).argmax(1), index)] * 500
    before = [value.clone() for value in teacher.parameters()]
    names = {"student": student, "teacher": teacher, "loader": loader, "example": inputs}
    exec(block, names)
    assert all(map(torch.equal, before, teacher.parameters()))
    if "Hint" in block:
        with torch.no_grad():
            of_one = nn.functional.mse_loss(
                names["hint"].regressors[0](student[:2](inputs)), teacher[:2](inputs)
            )
        assert of_one < 0.5 * teacher[:2](inputs).square().mean()
    else:
        agreement = (student(inputs).argmax(1) == teacher(inputs).argmax(1)).float().mean()
        assert agreement > 0.9


def test_what_may_be_relied_on_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8").split("rely on")[1]))
    assert set(kd_research.losses.__all__) | {"Capture", "Batch", "Output"} == listed
    assert all(hasattr(kd_research.losses, name) for name in kd_research.losses.__all__)


def test_every_shipped_loss_is_exported() -> None:
    folder = Path(__file__).resolve().parents[2] / "conf" / "loss"
    named = {
        name
        for path in folder.glob("*.yaml")
        for name in re.findall(r"_target_: kd_research\.losses\.\w+\.(\w+)", path.read_text())
    }
    assert named <= set(kd_research.losses.__all__)


def test_it_brings_neither_hydra_nor_lightning() -> None:
    code = (
        "import kd_research.losses, kd_research.models, sys; "
        "print(*({'hydra', 'lightning', 'omegaconf', 'optuna', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
