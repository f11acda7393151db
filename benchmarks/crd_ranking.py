"""The ranking of CRD's table on one CPU, teacher and sweep, by one command.

    python benchmarks/crd_ranking.py PUBLIC --cifar100 DIR

PUBLIC is akamaster's resnet56 for CIFAR-10: from nothing a teacher takes hours of a core. It gets
a new last layer and is trained for 12 epochs on a tenth of the training images, by the recipe of
`papers/crd_ranking` at those shares (`sweep.budget.epochs=0.05 sweep.budget.data=0.1`), on two
processes. The shortcuts of zeros, option A, are written as the convolutions that the sweep's net
has there, which changes none of its outputs. It is kept as TEACHER, and taken from there later.

Then the sweep runs as it was recorded. Stopped, the same command goes on; a teacher begins anew.
What else is typed is the sweep's: `output_dir=DIR sweep.workers=1`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import asked
import torch
from torch import Tensor, nn

from kd_research import hydra_plugin
from kd_research.configuration.overrides import as_whole, explain
from kd_research.models.resnet import ResNet
from kd_research.records.record import read_record
from kd_research.teacher.checkpoint import WEIGHTS_NAME, load_weights

CLASSES, IMAGE, DEPTH = 100, (3, 32, 32), 56
EPS = nn.BatchNorm2d(1).eps
INTERRUPTED = 130  # the exit code of Ctrl-C
TEACHER = Path("resnet56_from_cifar10.pt")
METHODS = ("kd", "fitnet", "at", "rkd", "pkt", "crd", "dkd", "lskd", "itrd", "dist", "ttm", "sp")
RUN = (sys.executable, "-m", "kd_research.run")
SHARES = ("sweep.budget.epochs=0.1", "sweep.budget.data=0.1")
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


def teacher(public: Path, out: Path, cifar100: str) -> None:
    """Train `out` on from the public weights, and print its accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.pt"
        net = ResNet(10, IMAGE, DEPTH, shortcut="pad")
        load_weights(net, public)
        torch.manual_seed(0)
        net.head = nn.Linear(net.head.in_features, CLASSES)
        torch.save(net.state_dict(), start)
        own = [f"dataset.root={cifar100}", f"student.checkpoint={start}"]
        own += [f"output_dir={folder}", f"hydra.run.dir={folder}/run"]
        code = subprocess.run([*RUN, *RECIPE, *own], check=False).returncode
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            sys.exit(code)  # it has said why
        run = Path(folder) / "run"
        model = ResNet(CLASSES, IMAGE, DEPTH)
        weights = torch.load(run / WEIGHTS_NAME, weights_only=True)
        model.load_state_dict(as_convolutions(weights, model))
        whole = out.with_name(f"{out.name}.tmp")  # a file that is there is whole
        torch.save(model.state_dict(), whole)
        whole.replace(out)
        accuracy = read_record(run).value("test_accuracy")
    print(f"{out}: {100 * (accuracy or 0):.2f} % on test", flush=True)  # the sweep takes our place


def sweep(checkpoint: Path, cifar100: str, typed: Sequence[str]) -> list[str]:
    """The sweep's command."""
    pair = "resnet56_resnet20"
    rows = ",".join(["resnet20_alone", *(f"{method}_{pair}" for method in METHODS)])
    own = [f"dataset.root={cifar100}", f"teacher.checkpoint={checkpoint}", f"sweep.only=[{rows}]"]
    return [*RUN, "-m", "+sweeps=papers/crd_ranking", *SHARES, *own, *typed]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("public", type=asked.there, help="akamaster's resnet56 for CIFAR-10")
    parser.add_argument("--cifar100", type=asked.there, required=True, help="a folder")
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="a file; made if not there")
    parser.add_argument("typed", nargs="*", help="the sweep's overrides: sweep.workers=1")
    given = parser.parse_intermixed_args()
    command = sweep(given.teacher, given.cifar100, given.typed)
    hydra_plugin.register()
    if problems := explain(as_whole(command[3:])):  # before the teacher is trained
        parser.error("\n".join(problems))
    if not given.teacher.exists():
        if not given.teacher.parent.is_dir():
            parser.error(f"there is no folder {given.teacher.parent} for the teacher")
        try:
            teacher(Path(given.public), given.teacher, given.cifar100)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        except KeyboardInterrupt:  # a run that is stopped names a folder, which is removed here
            print("the same command begins the teacher anew", file=sys.stderr)
            sys.exit(INTERRUPTED)
    try:
        load_weights(ResNet(CLASSES, IMAGE, DEPTH), given.teacher)  # the first row has no teacher
    except ValueError as error:
        parser.error(f"--teacher: {error}")
    os.execv(command[0], command)  # what stops it is the sweep's


if __name__ == "__main__":
    main()
