"""The test accuracy by a paper's own choice of the epoch, beside ours by validation.

Many published tables quote the last epoch, or the best epoch on the test set. To compare like with
like, `paper_rule=last_epoch` or `best_epoch` reads the test split during the fit as well. Nothing
is chosen by it: the student that is kept is the one that validation chose.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kd_research.configuration.checks import PAPER_RULES
from kd_research.data.module import DataModule
from kd_research.evaluation.positions import accuracy
from kd_research.training.callbacks import PerEpoch
from kd_research.training.distill import Distiller


class PaperRule(PerEpoch, Callback):
    """Reads the test split after the last epoch, or after each.

    Args:
        rule: "last_epoch" or "best_epoch".
        data: whose test split.

    Raises:
        ValueError: an unknown rule.
    """

    def __init__(self, rule: str, data: DataModule):
        if rule not in PAPER_RULES:
            raise ValueError(f"paper_rule must be null, {' or '.join(PAPER_RULES)}, got {rule!r}")
        self.rule, self.data, self.accuracies = rule, data, list[float]()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the epoch's last step."""
        assert isinstance(pl_module, Distiller)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.is_global_zero and (last or self.rule == "best_epoch"):
            self.accuracies.append(accuracy(pl_module.student, self.data, self.data.test))

    def state_dict(self) -> dict[str, Any]:
        """For a fit that goes on after it was cut off."""
        return {"accuracies": self.accuracies}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The epochs before the cut."""
        self.accuracies = list(state_dict["accuracies"])

    def metrics(self) -> dict[str, float | None]:
        """test_accuracy_last_epoch or test_accuracy_best_epoch."""
        return {f"test_accuracy_{self.rule}": max(self.accuracies, default=None)}
