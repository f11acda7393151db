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
import kd_research.export  # a run's own imports, and what an export imports before it writes
from kd_research.trial import run
assert run.main(sys.argv[1:]) == 0
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""

# Each question is asked in a fork of a process in which nothing was compiled yet; a line each.
ASKED = """
import inspect, json, os, sys
import kd_research.remeasure  # which imports no more
import torch
from lightning.fabric.wrappers import OptimizedModule

def tell(**facts):
    print(json.dumps(facts), flush=True)

def after(question):
    exec(question, globals())
    import torch._dynamo.config
    import torch._dynamo as real
    one = sys.modules["torch._dynamo"] is torch._dynamo is real
    kd_research.trial.lean_imports.leave_out()  # too late
    modes.extend([utils.get_optimize_ddp_mode(), real.utils.get_optimize_ddp_mode()])
    tell(
        one_module=one and sys.modules["torch._dynamo"] is real,
        one_part=sys.modules["torch._dynamo.config"] is real.config,
        compiled=isinstance(torch.compile(layer, backend="eager"), OptimizedModule),
        plain=isinstance(layer, OptimizedModule),
        gradient=layer.weight.grad is not None,
        same=len(set(modes)) == 1 and utils.dynamo_timed is real.utils.dynamo_timed,
    )

layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(layer.parameters())
layer.weight.grad = torch.ones(2, 2)
optimizer.zero_grad()
modes = [torch._dynamo.utils.get_optimize_ddp_mode()]  # as a rank of several asks
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0,
                                     world_size=1)
torch.nn.parallel.DistributedDataParallel(layer)(torch.ones(1, 2)).sum().backward()
torch.distributed.destroy_process_group()
optimizer.zero_grad()
utils = torch._dynamo.utils
inspect.getmodule(inspect.currentframe())  # which looks at every module
tell(
    compiler="torch._dynamo.config" in sys.modules,
    plain=isinstance(layer, OptimizedModule),
    gradient=layer.weight.grad is not None,
)
layer.weight.grad = torch.ones(2, 2)
for question in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        after(question)
        os._exit(0)
    os.waitpid(pid, 0)

import torchmetrics
from lightning_utilities.core.imports import RequirementCache, package_available
accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
tell(
    accuracy=accuracy(torch.eye(3), torch.arange(3)).item(),
    installed=[package_available("scipy"), bool(RequirementCache("scipy"))],
)
"""


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_run_imports_none_of_what_it_does_not_need(tiny: Compose, tmp_path: Path) -> None:
    save(tiny(), tmp_path / CONFIG_NAME)
    assert json.loads(python(RUN, str(tmp_path)).splitlines()[-1]) == []


def test_what_is_left_out_is_there_when_it_is_asked_for() -> None:
    questions = [
        "import torch.distributed.tensor, torch._dynamo.config as config; config.cache_size_limit;"
        "torch._dynamo.list_backends()",  # by the name of a part
        "torch.compile(optimizer.zero_grad, backend='eager')()",  # by an attribute
    ]
    before, *found, metrics = map(json.loads, python(ASKED, *questions).splitlines())
    assert before == {"compiler": False, "plain": False, "gradient": False}
    there = {"one_module": True, "one_part": True, "compiled": True, "plain": False}
    there["same"] = True
    gradients = [True, False]  # the last question takes it away
    assert found == [{**there, "gradient": gradient} for gradient in gradients]
    assert metrics == {"accuracy": 1.0, "installed": [True, True]}
