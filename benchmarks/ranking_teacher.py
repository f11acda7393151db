"""A teacher for CIFAR-100 from public weights for CIFAR-10: from nothing it takes hours of a core.

    python benchmarks/ranking_teacher.py PUBLIC OUT.pt --cifar100 DIR

PUBLIC is akamaster's resnet56. It gets a new last layer and is trained for 12 epochs on a tenth of
the training images, by the recipe of `papers/crd_ranking` at those shares
(`sweep.budget.epochs=0.05 sweep.budget.data=0.1`), on two processes. OUT.pt is for
`teacher.checkpoint=OUT.pt` beside `teacher=resnet56`: the shortcuts of zeros, option A, are written
as the convolutions that this net has there, which changes none of its outputs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import asked
import torch
from torch import Tensor, nn

from kd_research.models.resnet import ResNet
from kd_research.records.record import read_record
from kd_research.teacher.checkpoint import WEIGHTS_NAME, load_weights

CLASSES, IMAGE, DEPTH = 100, (3, 32, 32), 56
EPS = nn.BatchNorm2d(1).eps
RECIPE = (
    *("dataset=cifar100", "dataset.batch_size=64", "dataset.val_fraction=0.05"),
    *("dataset.subset=0.1", "student=resnet56_a", "teacher=none", "loss=ce", "optimizer=sgd"),
    *("scheduler=multistep", "scheduler.milestones=[8,9,10]", "trainer.max_epochs=12"),
    *("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "tracking=disabled"),
)


def as_convolutions(weights: dict[str, Tensor], model: ResNet) -> dict[str, Tensor]:
    """The weights of a net with shortcuts of zeros, for `model`, which has convolutions there.

    Every stride-th pixel with channels of zeros on both sides is a 1x1 convolution with a stride,
    and a batch norm that has seen a mean of 0 and a variance of 1 changes nothing in evaluation.
    """
    found = dict(weights)
    for name, value in model.state_dict().items():
        if name in weights:
            continue
        new = torch.zeros_like(value)  # also for the bias, the mean and the number of batches
        if value.dim() == 4:
            out, inner = value.shape[:2]
            channels = torch.arange(inner)
            new[(out - inner) // 2 + channels, channels] = 1
        elif name.endswith("running_var"):
            new += 1 - EPS
        elif name.endswith("weight"):
            new += 1
        found[name] = new
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("public", type=asked.there)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cifar100", type=asked.there, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.pt"
        net = ResNet(10, IMAGE, DEPTH, shortcut="pad")
        load_weights(net, Path(given.public))
        torch.manual_seed(0)
        net.head = nn.Linear(net.head.in_features, CLASSES)
        torch.save(net.state_dict(), start)
        own = [f"dataset.root={given.cifar100}", f"student.checkpoint={start}"]
        own += [f"output_dir={folder}", f"hydra.run.dir={folder}/run"]
        subprocess.run([sys.executable, "-m", "kd_research.run", *RECIPE, *own], check=True)
        run = Path(folder) / "run"
        model = ResNet(CLASSES, IMAGE, DEPTH)
        weights = torch.load(run / WEIGHTS_NAME, weights_only=True)
        model.load_state_dict(as_convolutions(weights, model))
        torch.save(model.state_dict(), given.out)
        accuracy = read_record(run).value("test_accuracy")
    print(f"{given.out}: {100 * (accuracy or 0):.2f} % on test")


if __name__ == "__main__":
    main()
