"""`trainer.strategy=fsdp`: student and live teacher, each spread over the processes (FSDP2).

Lightning's own FSDPStrategy is for GPUs alone and would wrap what is in the LightningModule, which
the teacher is not. Here `fully_shard` (Zhao et al. 2023, arXiv:2304.11277) takes the blocks of both
nets, on any device; after the fit each process has them whole again, as its evaluation needs them.
A fit that was cut off starts from its first epoch.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from kd_research.losses.positions import count_valid
from kd_research.models.checkpointing import block_lists

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_load_state_dict_post_hooks")


class Sharded(DDPStrategy):
    """As DDP, but that no process holds the weights, gradients and moments of all."""

    def __init__(self) -> None:
        super().__init__()
        self._before: list[tuple[nn.Module, type[nn.Module], dict[str, dict[Any, Any]]]] = []
        self._nets: list[nn.Module] = []

    def configure_ddp(self) -> None:
        """Spread the nets; a teacher whose outputs are cached is asked too seldom to wait for."""
        module: Any = self.lightning_module
        self._nets = [module.student]
        if any(True for _ in module.objective.parameters()):
            self._nets.append(module.objective)
        if module._teacher is not None and module.cached is None:
            self._nets.append(module._teacher.model.to(self.root_device))
        # about in-place operations on what a block returns, of which there are none
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for net in self._nets:
            blocks = [block for each in block_lists(net) for block in each.children()]
            for part in net.modules():
                hooks = {name: dict(getattr(part, name)) for name in HOOKS}
                self._before.append((part, type(part), hooks))
            for part in [*blocks, net]:
                fully_shard(part, mesh=mesh, reshard_after_forward=True)

    def validation_step(self, *arguments: Any, **options: Any) -> Any:
        """A process without examples takes part, since the others wait for its share of weights."""
        module: Any = self.lightning_module
        batch = arguments[0]
        if not count_valid(batch.labels):
            module._student(batch.inputs)
        return super().validation_step(*arguments, **options)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, in every process."""
        state = super().lightning_module_state_dict()
        return {name: _whole(value) for name, value in state.items()}

    @torch.no_grad()
    def teardown(self) -> None:
        """Give every process the whole nets back."""
        for net in self._nets:
            whole: dict[int, nn.Parameter] = {}
            for part in net.modules():
                for name, value in list(part._parameters.items()):
                    if isinstance(value, DTensor):
                        made = nn.Parameter(_whole(value), requires_grad=value.requires_grad)
                        part._parameters[name] = whole.setdefault(id(value), made)
        for part, kind, hooks in self._before:
            part.__class__ = kind
            for name, own in hooks.items():
                held = getattr(part, name)
                for key in [key for key in held if key not in own]:
                    del held[key]
        self._nets, self._before = [], []
        super().teardown()


def _whole(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value
    found: Tensor = value.full_tensor()
    return found
