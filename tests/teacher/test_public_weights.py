"""Public CIFAR-10 weights make the published errors through this harness.

`python -m pytest tests/teacher/test_public_weights.py -m long` reads the weights and CIFAR-10's
test set from `../shared/data`; without it one net sees a thousand images of them.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.utils import instantiate
from tiny import composed, plain
from torch import Tensor, nn

from kd_research.models.resnet import ResNet
from kd_research.teacher.checkpoint import load_weights
from kd_research.trial.assembly import Parts

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ERRORS = {20: 827, 32: 737, 44: 689, 56: 661}  # of 10,000; akamaster/pytorch_resnet_cifar10
PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018}


@pytest.fixture
def first_thousand(tmp_path: Path) -> Path:
    """The first 1,000 rows of each file of CIFAR-10 alone: the whole is a minute of work."""
    for file in (SHARED / "cifar10").glob("*.parquet"):
        rows = next(pq.ParquetFile(file).iter_batches(1000))
        pq.write_table(pa.Table.from_batches([rows]), tmp_path / file.name)
    return tmp_path


def errors(depth: int, root: Path, out: Path) -> tuple[int, int]:
    """How many test images the public net gets wrong through the harness, and of how many."""
    weights = SHARED / "akamaster_resnet_cifar10" / f"resnet{depth}.safetensors"
    if not weights.exists():
        pytest.skip(f"there is no {weights}")
    config = composed(
        f"output_dir={out}",
        "dataset=cifar10",
        f"dataset.root={root}",
        "dataset.mean=imagenet",
        "dataset.std=imagenet",
        "student=resnet8",
        f"teacher=resnet{depth}_a",
        f"teacher.checkpoint={weights}",
    )
    parts = Parts(plain(config))
    logits, labels = parts.teacher_logits("test"), parts.data.test.labels
    return int((logits.argmax(1) != labels).sum()), len(labels)


@pytest.mark.slow  # CIFAR-10's 60,000 images are decoded once, a deep net sees 15,000
@pytest.mark.long
@pytest.mark.parametrize("depth", ERRORS)
def test_the_published_errors(depth: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.getbasetemp() / "public_weights"  # decoded once for all four
    assert errors(depth, SHARED / "cifar10", out) == (ERRORS[depth], 10_000)


def test_of_the_first_thousand_the_smallest_errs_on_as_many_as_it_should(
    first_thousand: Path, tmp_path: Path
) -> None:
    assert errors(20, first_thousand, tmp_path / "out") == (85, 1_000)


@pytest.mark.parametrize("depth", PARAMETERS)
def test_shortcuts_of_zeros_have_no_weights(depth: int) -> None:
    config = plain(composed("dataset=cifar10", f"student=resnet{depth}_a"))
    net = instantiate(config["student"]["model"])
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[depth]


def test_the_shortcut_of_option_a() -> None:
    net = ResNet(10, [3, 8, 8], depth=8, width=4, shortcut="pad")
    shortcut = net.stages[1].get_submodule("blocks.0.shortcut")
    x = torch.randn(2, 4, 8, 8)
    out = shortcut(x)
    assert out.shape == (2, 8, 4, 4)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()
    with pytest.raises(ValueError, match="shortcut must be conv or pad"):
        ResNet(10, [3, 8, 8], depth=8, shortcut="zeros")


class PublicBlock(nn.Module):
    """A basic block under the names of akamaster's, RepDistiller's and torchvision's code."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.downsample(x)).relu()  # type: ignore[no-any-return]


class PublicResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(PublicBlock(4, 4, 1))
        self.layer2 = nn.Sequential(PublicBlock(4, 8, 2))
        self.layer3 = nn.Sequential(PublicBlock(8, 16, 2))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_under_public_names_are_those_of_the_net(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    public = PublicResNet()
    images = torch.randn(4, 3, 8, 8)
    public(images)  # moves the running statistics
    state = {f"{prefix}{name}": value for name, value in public.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "public.pt")
    net = ResNet(10, [3, 8, 8], depth=8, width=4)
    load_weights(net, tmp_path / "public.pt")
    torch.testing.assert_close(net.eval()(images), public.eval()(images))
    with pytest.raises(ValueError, match="of another architecture"):
        load_weights(ResNet(10, [3, 8, 8], depth=14, width=4), tmp_path / "public.pt")


def test_a_normalisation_by_name(tmp_path: Path) -> None:
    from kd_research.configuration.moment_checks import KNOWN
    from kd_research.data.moments import check_moments

    assert check_moments("imagenet", "imagenet", 3) == KNOWN["imagenet"]
    assert check_moments("half", [0.2], 3) == ([0.5], [0.2])
    with pytest.raises(ValueError, match=r"or one of imagenet, .*got 'imagnet'"):
        check_moments("imagnet", [0.5], 3)
    with pytest.raises(ValueError, match="must be 1 numbers"):
        check_moments("imagenet", "imagenet", 1)
