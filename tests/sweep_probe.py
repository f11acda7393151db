"""A student that looks at the process it is built in."""

import os
import time

import torch
from hydra.core.hydra_config import HydraConfig

from kd_research.models.mlp import MLP


class Probe(MLP):
    """Raises unless the process is what a trial's should be."""

    def __init__(self, *, trouble: str | None = None, **options):
        super().__init__(**options)
        if HydraConfig.initialized():
            raise RuntimeError("a trial must be no Hydra application")
        if torch.get_num_threads() != 1:
            raise RuntimeError(f"a trial has one thread, not {torch.get_num_threads()}")
        self.trouble = trouble

    def forward(self, inputs):
        if self.trouble == "stuck" and self.training:  # learns nothing, then hangs
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps > 80:  # in the fifth epoch
                time.sleep(10_000)
            return super().forward(inputs) * 1e-3
        if self.trouble == "raises" and self.training:
            raise ArithmeticError("the student raises")
        logits = super().forward(inputs)
        return logits * float("nan") if self.trouble == "non-finite" else logits


class FailsOnRankOne(MLP):
    """Raises on the second process of the trial with this temperature."""

    def __init__(self, *, on: int, **options):
        super().__init__(**options)
        self.on = on

    def forward(self, inputs):
        if self.on and self.training and os.environ.get("RANK") == "1":
            raise ArithmeticError("only here")
        return super().forward(inputs)
