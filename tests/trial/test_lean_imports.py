"""What a run imports, and that what is left out is there when it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tiny import Compose

from kd_research.configuration.config import save
from kd_research.records.record import CONFIG_NAME

HEAVY = ["matplotlib", "scipy", "sklearn", "transformers", "torch._dynamo.config", "sympy"]
HEAVY += ["torch._inductor", "torch.distributed.fsdp", "pandas", "pyarrow", "datasets", "wandb"]

RUN = f"""
import json, sys
from kd_research.trial import run
assert run.main(sys.argv[1:]) == 0
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""

# Each question is asked in a fork of a process in which nothing was compiled yet.
ASKED = '''
import inspect, os, sys
import kd_research.trial
import torch
from lightning.fabric.wrappers import OptimizedModule
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(layer.parameters())
optimizer.zero_grad()
inspect.getmodule(inspect.currentframe())  # which looks at every module
assert "torch._dynamo.config" not in sys.modules and not isinstance(layer, OptimizedModule)

def after(question):
    exec(question, globals())
    import torch._dynamo.config
    import torch._dynamo as real
    assert sys.modules["torch._dynamo"] is torch._dynamo is real
    assert sys.modules["torch._dynamo.config"] is real.config
    assert isinstance(torch.compile(layer, backend="eager"), OptimizedModule)
    assert not isinstance(layer, OptimizedModule)
    kd_research.trial.lean_imports.leave_out()  # too late, and no harm
    assert sys.modules["torch._dynamo"] is real

for question in (
    "import torch._dynamo.config as config; assert config.cache_size_limit",
    "import torch.distributed.tensor; assert torch._dynamo.list_backends()",
    """
layer.weight.grad = torch.ones(2, 2)
torch.compile(optimizer.zero_grad, backend='eager')()
assert layer.weight.grad is None
""",
):
    pid = os.fork()
    if pid == 0:
        after(question)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, question

import scipy.signal
import torchmetrics
from lightning_utilities.core.imports import RequirementCache, package_available
assert torchmetrics.Accuracy("multiclass", num_classes=3)(torch.eye(3), torch.arange(3)) == 1
assert package_available("scipy") and RequirementCache("scipy")
'''


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_run_imports_none_of_what_it_does_not_need(tiny: Compose, tmp_path: Path) -> None:
    save(tiny(), tmp_path / CONFIG_NAME)
    assert json.loads(python(RUN, str(tmp_path)).splitlines()[-1]) == []


def test_what_is_left_out_is_there_when_it_is_asked_for() -> None:
    python(ASKED)
