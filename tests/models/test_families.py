"""The benchmark's networks: published sizes, shapes, paths, and what a bad argument says."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import nn

from kd_research.models.capture import Capture
from kd_research.models.layers import Conv

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"

# (parameters, multiply-accumulates of convolutions and linear layers) at 100 classes, 3x32x32:
# the distillation benchmark's own code (Tian, Krishnan, Isola 2020), measured once.
PUBLISHED = {
    "resnet8": (83_892, 12_507_392),
    "resnet14": (181_108, 26_663_168),
    "resnet20": (278_324, 40_818_944),
    "resnet32": (472_756, 69_130_496),
    "resnet44": (667_188, 97_442_048),
    "resnet56": (861_620, 125_753_600),
    "resnet110": (1_736_564, 253_155_584),
    "resnet8x4": (1_233_540, 177_071_104),
    "resnet32x4": (7_433_860, 1_083_040_768),
    "resnet50": (23_705_252, 1_298_014_208),
    "wrn_16_1": (180_916, 26_663_168),
    "wrn_16_2": (703_284, 101_118_464),
    "wrn_40_1": (569_780, 83_286_272),
    "wrn_40_2": (2_255_156, 327_610_880),
    "vgg8": (3_965_028, 96_192_512),
    "vgg11": (9_277_284, 209_438_720),
    "vgg13": (9_462_180, 284_936_192),
    "vgg16": (14_774_436, 398_182_400),
    "vgg19": (20_086_692, 511_428_608),
    "mobilenetv2": (812_836, 6_523_648),
    "shufflenetv1": (949_258, 38_691_456),
    "shufflenetv2": (1_355_528, 44_504_448),
}
# The ImageNet nets of He et al. 2016 as every library counts them.
IMAGENET = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}
MOBILENET = 4_231_976  # Howard et al. 2017, table 8: 4.2 million


def load(name: str, num_classes: int = 100, shape=(3, 32, 32), **changes) -> nn.Module:
    arguments = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    arguments["num_classes"] = num_classes
    if "vocab_size" not in arguments:
        arguments["input_shape"] = list(shape)
    return instantiate(arguments | changes)


def count_macs(model: nn.Module, shape=(3, 32, 32)) -> int:
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        is_conv = isinstance(module, nn.Conv2d)
        macs += output[0].numel() * module.weight[0].numel() if is_conv else module.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return macs


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name):
    with torch.device("meta"):
        model = load(name)
        macs = count_macs(model)
    assert (sum(p.numel() for p in model.parameters()), macs) == PUBLISHED[name]


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_size(name):
    with torch.device("meta"):
        model = load(name, num_classes=1000, shape=(3, 224, 224), small_images=False)
    assert sum(p.numel() for p in model.parameters()) == IMAGENET[name]


def test_mobilenet_on_imagenet():
    with torch.device("meta"):
        model = load("mobilenetv1", num_classes=1000, shape=(3, 224, 224))
        macs = count_macs(model, (3, 224, 224))
        last = Capture(model, ["stages.-1"])(torch.zeros(2, 3, 224, 224)).features["stages.-1"]
    assert sum(p.numel() for p in model.parameters()) == MOBILENET
    assert 560e6 < macs < 575e6  # 569 million there
    assert last.shape == (2, 1024, 7, 7)


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet8x4", "wrn_16_1", "vgg8", "mobilenetv1", "mobilenetv2"]
)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_any_image_gives_finite_logits_and_gradients(name, shape):
    torch.manual_seed(0)
    model = load(name, num_classes=7, shape=shape)
    logits = model(torch.randn(4, *shape))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "vgg8", "mobilenetv2", "shufflenetv1"])
def test_the_paths_that_losses_use(name):
    with torch.device("meta"):
        model = load(name)
        output = Capture(model.eval(), ["stages.0", "stages.1", "stages.2", "pool", "head"])(
            torch.zeros(2, 3, 32, 32)
        )
    features = output.features
    assert features["stages.0"].ndim == features["stages.2"].ndim == 4
    assert features["stages.0"].shape[-1] >= features["stages.2"].shape[-1]
    assert features["pool"].shape == (2, model.head.in_features)
    assert features["head"] is output.logits


def test_a_stage_of_a_resnet_shows_the_activation_before_and_after_its_relu():
    torch.manual_seed(0)
    model = load("resnet8")
    features = Capture(model, ["stages.1", "stages.1.blocks"])(torch.randn(2, 3, 32, 32)).features
    assert (features["stages.1.blocks"] < 0).any()
    assert torch.equal(features["stages.1"], features["stages.1.blocks"].relu())


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet8", 5), ("wrn_16_1", 3), ("vgg8", 7), ("mobilenetv2", 8), ("shufflenetv1", 48)]
    + [("mobilenetv1", 5)]
    + [("shufflenetv2", 10), ("resnet18", 6)],
)
def test_width_is_a_number_to_sweep(name, width):
    with torch.device("meta"):
        assert load(name, width=width)(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet20", {"depth": 21}, "depth must be 6n + 2 (8, 14, 20, ...), got 21; try 20"),
        ("wrn_16_2", {"depth": 5}, "depth must be 6n + 4 (10, 16, 22, ...), got 5; try 10"),
        ("vgg8", {"depth": 9}, "depth must be one of [8, 11, 13, 16, 19], got 9"),
        ("resnet50", {"depth": 51}, "depth must be one of [18, 34, 50, 101, 152], got 51"),
        ("resnet20", {"width": 0}, "width must be a whole number >= 1, got 0"),
        ("mobilenetv2", {"width": 1}, "width must be >= 2"),
        ("shufflenetv1", {"width": 50}, "try width=240, groups=3"),
        ("shufflenetv2", {"width": 9}, "width must be even, got 9; try 10"),
        ("vgg8", {"shape": (64,)}, "try student=mlp for vectors"),
    ],
)
def test_bad_sizes_say_what_to_type(name, changes, message):
    with pytest.raises(Exception, match=re.escape(message)):
        load(name, **changes)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "shufflenetv2"])
def test_channels_last_gives_the_same_logits(name):
    torch.manual_seed(0)
    model = load(name).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    given = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [4, 16])
def test_a_strided_convolution_of_one_tap_is_torchs_and_does_not_crash(channels):
    torch.manual_seed(0)
    plain, ours = (kind(channels, 8, 1, stride=2, bias=False) for kind in (nn.Conv2d, Conv))
    ours.load_state_dict(plain.state_dict())
    ours.to(memory_format=torch.channels_last)
    given, weights = torch.randn(16, channels, 57, 56), torch.randn(16, 8, 29, 28)
    found = []
    for conv, layout in ((plain, torch.contiguous_format), (ours, torch.channels_last)):
        inputs = given.clone(memory_format=layout).requires_grad_()
        output = conv(inputs)
        (output * weights).sum().backward()
        found.append((output, inputs.grad, conv.weight.grad))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
