"""Gradient checkpointing: blocks keep their input alone, and run again in the backward pass.

Chen et al. 2016 (arXiv:1604.06174), a segment being a block. The gradients are those without it;
dropout draws the same again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kd_research.models.prompted import Prefixed

LISTS = (nn.ModuleList, nn.Sequential)


def checkpoint_blocks(model: nn.Module) -> nn.Module:
    """The model itself, whose lists of two or more blocks of one kind are checkpointed.

    Args:
        model: changed in place; in training mode alone it computes otherwise than before.

    Raises:
        ValueError: it has no such list, or a cache that a second run would fill twice.
    """
    if isinstance(model, Prefixed):
        raise ValueError(
            "a prefix fills a cache, which a block that runs again would fill twice; type "
            "student.gradient_checkpointing=false, or adapter@student.adapter=prompt_tuning"
        )
    lists = block_lists(model)
    if not lists:
        raise ValueError(
            f"{type(model).__name__} has no list of equal blocks to checkpoint; "
            "type student.gradient_checkpointing=false"
        )
    for each in lists:
        for block in each.children():
            kind = type(block)
            block.__class__ = type(kind.__name__, (_Checkpointed, kind), {})
    return model


def block_lists(model: nn.Module) -> list[nn.Module]:
    """A model's lists of two or more blocks of one kind; not those inside of a block."""
    found = [each for each in model.modules() if isinstance(each, LISTS) and _is_of_blocks(each)]
    inside = {id(part) for each in found for block in each.children() for part in block.modules()}
    return [each for each in found if id(each) not in inside]


def _is_of_blocks(found: nn.Module) -> bool:
    blocks = list(found.children())
    return (
        len(blocks) > 1
        and len({type(block) for block in blocks}) == 1
        and all(any(True for _ in block.children()) for block in blocks)
        and any(True for _ in found.parameters())
    )


class _Checkpointed(nn.Module):
    """Stands before a block's own class."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        run = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return run(*arguments, **options)
        return checkpoint(run, *arguments, use_reentrant=False, **options)
