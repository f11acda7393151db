"""What the rule for epochs of equal validation accuracy gives: lowest val_nll, then the latest.

    python benchmarks/selection.py [--seeds 16]

The default run on the digits, one fit a seed; both the student that the rule keeps and the one of
the earliest of the best epochs, as it was before, are read on test. The teacher is the same. Prints
mean and standard deviation of each over the seeds, and the paired difference with its 95 % t
interval.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from pathlib import Path
from typing import Any

import asked
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer, seed_everything
from omegaconf import OmegaConf
from scipy.stats import t
from torch import Tensor

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT, register_resolvers
from kd_research.training import fit as fits
from kd_research.training.selection import KeepSelected
from kd_research.trial.assembly import Parts
from kd_research.trial.run import quiet

METRICS = ("test_accuracy", "test_nll")
earliest: dict[str, Any] = {}


class KeepBoth(KeepSelected):
    """Keeps the weights of the earliest of the best epochs as well, in `earliest`."""

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        if current is not None and float(current) > earliest.get("value", -1.0):
            weights = copy.deepcopy(trainer.lightning_module.student.state_dict())
            earliest.update(value=float(current), weights=weights)
        return super().check_monitor_top_k(trainer, current)


def both(seed: int, output_dir: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of the earliest and of the kept epoch's student."""
    given = [f"seed={seed}", f"output_dir={output_dir}", "tracking=disabled"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config: Any = compose("config", [*given, "trainer.enable_progress_bar=false"])
    config = OmegaConf.to_container(config, resolve=True)
    parts = Parts(config)
    earliest.clear()
    seed_everything(seed, verbose=False)
    directory = Path(output_dir) / f"seed-{seed}"
    fits.fit(parts.module, parts.data, config["trainer"], directory, lambda row: None)
    kept = parts.evaluate().metrics
    parts.student.load_state_dict(earliest["weights"])
    return parts.evaluate().metrics, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=asked.count, default=16)
    num = parser.parse_args().seeds
    quiet()
    register_resolvers()
    hydra_plugin.register()
    fits.KeepSelected = KeepBoth  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as output_dir:
        pairs = [both(seed, output_dir) for seed in range(num)]
    for name in METRICS:
        before, after = ([pair[side][name] for pair in pairs] for side in (0, 1))
        gaps = [late - early for early, late in zip(before, after, strict=True)]
        width = t.ppf(0.975, num - 1) * statistics.stdev(gaps) / num**0.5
        shown = [f"{statistics.mean(x):.4f} ± {statistics.stdev(x):.4f}" for x in (before, after)]
        gap = statistics.mean(gaps)
        print(
            f"{name}: earliest {shown[0]}, kept {shown[1]} (standard deviation, n = {num}); "
            f"difference {gap:+.4f}, 95 % {gap - width:+.4f} to {gap + width:+.4f}"
        )


if __name__ == "__main__":
    main()
