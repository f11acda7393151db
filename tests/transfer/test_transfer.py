"""Distillation without data: what is made, and that no real image reaches the student."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import Compose, plain
from torch import Tensor, nn

from kd_research.configuration import trust
from kd_research.configuration.config import ROOT, ConfigError, save
from kd_research.data.module import DataModule
from kd_research.data.sources import Split
from kd_research.models.mlp import MLP
from kd_research.records.printing import SPOKEN
from kd_research.training.fit import fit
from kd_research.transfer.generator import Generated, Generator
from kd_research.transfer.impressions import ClassImpressions, similarities
from kd_research.transfer.variants import kinds, of_each
from kd_research.trial import assembly
from kd_research.trial.assembly import Parts

IMPRESSIONS = (
    "transfer=class_impressions",
    "transfer.num_examples=40",
    "transfer.iterations=3",
    "transfer.variants=2",
    "student=cnn",
    "loss.lambda=1",
)
GENERATOR = (
    "transfer=generator",
    "transfer.num_examples=40",
    "transfer.steps=3",
    "transfer.batch_size=16",
    "transfer.width=4",
    "student=cnn",
    "loss.lambda=1",
)


def teacher() -> nn.Module:
    torch.manual_seed(0)
    net = MLP([1, 8, 8], 10, width=32, depth=1).eval().requires_grad_(False)
    net.head.weight.mul_(10)  # sure of its classes
    return net


def test_an_impression_is_what_the_teacher_takes_for_its_target() -> None:
    net = teacher()
    make = ClassImpressions(num_examples=20, iterations=300, lr=0.05, temperature=2.0)
    images, labels = make(net, [1, 8, 8], 10, seed=3)
    assert images.shape == (20, 1, 8, 8)
    targets = make.targets(similarities(net, 10), torch.Generator().manual_seed(3))
    assert torch.equal(labels, targets.argmax(1))
    said = (net(images) / 2.0).softmax(1)
    noise = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = (targets - (net(noise) / 2.0).softmax(1)).abs().sum(1).mean()
    assert (targets - said).abs().sum(1).mean() < 0.25 * before


def test_the_kinds_of_variants_are_the_authors() -> None:
    """Against torch's own operations, on an image whose centre and mirror images are exact."""
    image = torch.arange(1.0, 101.0).reshape(1, 1, 10, 10)

    def seen(kind: int) -> Tensor:
        grid = F.affine_grid(kinds()[[kind]], [1, 1, 10, 10], align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)

    assert kinds().shape == (102, 2, 3)
    cut = F.interpolate(image[..., 2:8, 2:8], size=(10, 10), mode="bilinear")
    torch.testing.assert_close(seen(2)[..., 2:8, 2:8], cut[..., 2:8, 2:8])
    left = torch.cat([image[..., 2:], torch.zeros(1, 1, 10, 2)], dim=3)
    torch.testing.assert_close(seen(3), left)
    torch.testing.assert_close(seen(7), image.rot90(-1, [2, 3]))
    torch.testing.assert_close(seen(16), image.rot90(1, [2, 3]))
    torch.testing.assert_close(seen(17), image.flip(3))
    torch.testing.assert_close(seen(18), image.flip(2))
    torch.testing.assert_close(seen(19), image.transpose(2, 3))
    shifted_and_turned = 20 + 12
    torch.testing.assert_close(seen(shifted_and_turned), left.rot90(-1, [2, 3]))


def test_variants_are_different_and_the_teacher_names_them() -> None:
    net = teacher()
    make = ClassImpressions(num_examples=6, iterations=1, variants=102)
    images, labels = make(net, [1, 8, 8], 10, seed=3)
    alone, classes = ClassImpressions(num_examples=6, iterations=1)(net, [1, 8, 8], 10, seed=3)
    assert torch.equal(images[:6], alone)
    assert torch.equal(labels[:6], classes)
    assert torch.equal(labels[6:], net(images[6:]).argmax(1))
    ours = {each.numpy().tobytes() for each in images[6 : 6 + 102]}
    assert len(ours) == 102
    few = torch.cat([*of_each(alone, 2, torch.Generator().manual_seed(0))])
    assert len(few) == 12
    assert all(each.numpy().tobytes() in ours for each in few[:2])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (ClassImpressions(num_examples=80, iterations=1, batch_size=2), "impressions: 2 of 80"),
        (Generated(num_examples=4, steps=2, batch_size=4), "generator: step 1 of 2"),
    ],
)
def test_whoever_started_it_sees_how_far_it_is(
    make: Any, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger(SPOKEN), "propagate", True)
    with caplog.at_level(logging.INFO, SPOKEN):
        make(teacher(), [1, 8, 8], 10, seed=3)
    assert said in caplog.text


def test_targets_follow_the_similarity_of_classes() -> None:
    similar = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    make = ClassImpressions(num_examples=3000, concentrations=[1.0])
    targets = make.targets(similar, torch.Generator().manual_seed(0))
    torch.testing.assert_close(targets.sum(1), torch.ones(3000))
    mean = targets.mean(0)
    torch.testing.assert_close(mean, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    third = targets[targets[:, 2] > 0.9]
    assert len(third) == pytest.approx(1000, abs=60), "the class that is like no other stands alone"
    assert float((targets[:, 0] * targets[:, 1]).mean()) > 0.05


def test_similarities_are_cosines_from_0_to_1() -> None:
    net = teacher()
    found = similarities(net, 10)
    weight = net.get_submodule("head").get_parameter("weight")
    row = torch.cosine_similarity(weight[4].unsqueeze(0), weight)
    torch.testing.assert_close(found[4], (row - row.min()) / (row.max() - row.min()))
    with pytest.raises(ValueError, match="last layer is linear"):
        similarities(nn.Sequential(nn.Linear(4, 10)), 10)


def test_the_generator_s_loss() -> None:
    make = Generated(activation_weight=0.5, entropy_weight=2.0)
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    feature = torch.tensor([[1.0, -3.0], [2.0, 0.0]])
    sure = torch.log1p(torch.exp(torch.tensor(-9.0)))
    expected = sure - 0.5 * 1.5 - 2.0 * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(make.loss(logits, feature), expected)
    one_class = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    assert make.loss(one_class, feature) > make.loss(logits, feature)


def test_a_trained_generator_makes_the_teacher_sure() -> None:
    net = teacher()
    settings: dict[str, Any] = {"num_examples": 64, "batch_size": 32, "width": 8, "noise": 8}
    trained, _ = Generated(steps=60, **settings)(net, [1, 8, 8], 10, seed=0)
    untrained, _ = Generated(steps=1, **settings)(net, [1, 8, 8], 10, seed=0)
    sure = [net(images).softmax(1).amax(1).mean() for images in (trained, untrained)]
    assert sure[0] > sure[1] + 0.1
    assert Generator([3, 28, 28], 5, 4)(torch.randn(2, 5)).shape == (2, 3, 28, 28)


@pytest.mark.parametrize("stated", [IMPRESSIONS, GENERATOR], ids=["impressions", "generator"])
def test_no_real_image_reaches_the_student(
    stated: tuple[str, ...], tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very same student where every training pixel is another once there is a teacher."""
    config = plain(tiny(f"output_dir={tmp_path / 'a'}", *stated))
    first = Parts(config)
    assert first.teacher is not None
    seen: list[Tensor] = []
    first.student.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].clone()) if module.training else None
    )
    fit(first.module, first.data, config["trainer"], tmp_path / "fit", lambda row: None)
    batches = first.data.batches(first.data.train)
    made = torch.cat([first.data.prepare(each).inputs for each in batches])
    rows = {each.numpy().tobytes() for each in made}
    assert seen
    assert all(each.numpy().tobytes() in rows for batch in seen for each in batch)

    make_data = assembly.make_data

    def poisoned(given: Any) -> DataModule:
        data = make_data(given)
        inputs = data.train.inputs
        assert isinstance(inputs, Tensor)
        split = Split(torch.rand_like(inputs), data.train.labels, data.train.rows)
        return data.with_train(split, "poisoned")

    monkeypatch.setattr(assembly, "make_data", poisoned)
    weights = {"checkpoint": str(first.teacher.path)}
    other = {
        **config,
        "output_dir": str(tmp_path / "b"),
        "teacher": {**config["teacher"], **weights},
    }
    second = Parts(other)
    fit(second.module, second.data, config["trainer"], tmp_path / "fit2", lambda row: None)
    for ours, theirs in zip(first.student.parameters(), second.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_transfer_set_is_made_once_and_is_part_of_what_is_cached(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = f"output_dir={tmp_path}"
    first = Parts(plain(tiny(here, *IMPRESSIONS)))
    plainly = Parts(plain(tiny(here, "student=cnn", "loss.lambda=1")))
    with monkeypatch.context() as patch:
        patch.setattr(ClassImpressions, "__call__", lambda *_: pytest.fail("made again"))
        again = Parts(plain(tiny(here, *IMPRESSIONS, "student.model.width=9")))
    assert first.data.fingerprint() == again.data.fingerprint() != plainly.data.fingerprint()
    assert first.module.cached is not None
    assert plainly.module.cached is not None
    assert first.module.cached.key != plainly.module.cached.key
    assert len(first.data.train) == 40 * 3, "each has two variants"
    assert first.data.val.labels.equal(plainly.data.val.labels)
    made = first.data.prepare(next(iter(first.data.batches(first.data.train))))
    assert isinstance(made.inputs, Tensor)
    assert made.inputs.mean().abs() < 0.2, "prepared again, they are as they were made"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("transfer=class_impressions", "transfer.lr=0"), "transfer.lr must be > 0"),
        (("transfer=class_impressions", "transfer.variants=103"), "from 0 to 102, got 103; try 9"),
        (("transfer=generator", "transfer.batch_size=1"), "transfer.batch_size must be a whole"),
    ],
)
def test_settings_that_cannot_be(
    given: tuple[str, ...], message: str, tiny: Compose, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        Parts(plain(tiny(f"output_dir={tmp_path}", *given)))


@pytest.mark.parametrize("stated", ["class_impressions", "generator"])
def test_what_cannot_be_made_is_told_before_the_teacher_is_trained(
    stated: str, tmp_path: Path
) -> None:
    from tiny import composed

    table = tmp_path / "table.csv"
    lines = [f"{n % 7},{n % 5},{n % 2}" for n in range(40)]
    table.write_text("\n".join(["a,b,y", *lines]))
    config = composed(
        f"output_dir={tmp_path}",
        *("dataset=table", f"dataset.root={table}", "dataset.label_column=y"),
        *("dataset.input_shape=[2]", "dataset.num_classes=2", "teacher=mlp", "student=mlp"),
        *(f"transfer={stated}", "loss.lambda=1"),
    )
    with pytest.raises(ConfigError, match=r"variants=0|try transfer=class_impressions"):
        Parts(plain(config))
    assert not (tmp_path / "teachers").exists()


@pytest.mark.parametrize(
    ("stated", "message"),
    [(IMPRESSIONS, "last layer is linear"), (GENERATOR, "type transfer.activation_weight=0")],
    ids=["impressions", "generator"],
)
def test_a_teacher_of_which_none_can_be_made_is_not_trained(
    stated: tuple[str, ...], message: str, tiny: Compose, tmp_path: Path
) -> None:
    members = "+teacher.members={a: {seed: 1}, b: {seed: 2}}"
    with pytest.raises(ConfigError, match=message) as told:
        Parts(plain(tiny(f"output_dir={tmp_path}", *stated, members)))
    assert str(told.value).count("\n") <= 1
    assert not (tmp_path / "teachers").exists()


def test_a_set_larger_than_the_memory_is_told_before_the_teacher_is_trained(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 18}  # 1 GiB
    for stated, message in (
        (
            (*IMPRESSIONS, "transfer.num_examples=100000", "transfer.variants=102"),
            "10,300,000 examples of [1, 8, 8] are 2.5 GiB, and this machine has 1.0; "
            "try transfer.num_examples=10180, or fewer transfer.variants",
        ),
        ((*GENERATOR, "transfer.num_examples=10000000"), "try transfer.num_examples=1048576"),
    ):
        config = plain(tiny(f"output_dir={tmp_path}", *stated))
        with monkeypatch.context() as patch:
            patch.setattr("kd_research.transfer.size.os.sysconf", pages.__getitem__)
            with pytest.raises(ConfigError) as told:
                Parts(config)
        assert message in str(told.value)
    assert not (tmp_path / "teachers").exists()


@pytest.mark.parametrize("stated", [(), IMPRESSIONS, GENERATOR], ids=["none", "zskd", "dafl"])
def test_a_folder_of_such_a_run_is_trusted(
    stated: tuple[str, ...], tiny: Compose, tmp_path: Path
) -> None:
    save(tiny(*stated), tmp_path / "config.yaml")
    assert trust.problem(tmp_path / "config.yaml", ROOT / "conf") is None
