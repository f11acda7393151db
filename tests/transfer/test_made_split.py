"""What a made training split is beside the data set's own: kept, coloured, exported."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import Compose, plain
from torch import Tensor

from kd_research.configuration.config import ConfigError
from kd_research.data.augment import Augment
from kd_research.data.module import DataModule
from kd_research.data.sources import Split, Splits
from kd_research.export.raw_inputs import raw_inputs
from kd_research.trial.assembly import Parts

IMPRESSIONS = (
    "transfer=class_impressions",
    "transfer.num_examples=20",
    "transfer.iterations=1",
    "transfer.variants=1",
)


def test_a_damaged_set_is_named(tiny: Compose, tmp_path: Path) -> None:
    config = plain(tiny(f"output_dir={tmp_path}", *IMPRESSIONS))
    Parts(config)
    path = next(tmp_path.glob("transfer/*/inputs.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"inputs.npy is damaged .* delete .* made anew"):
        Parts(config)
    path.write_bytes(content[:-8])
    with pytest.raises(ConfigError, match=r"inputs.npy is damaged"):
        Parts(config)


def of_bytes() -> DataModule:
    """Images of bytes, and made ones in place of those of the training split."""
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    split = Split(images.byte(), torch.arange(40) % 2)
    data = DataModule(
        "bytes",
        lambda: Splits(split, test=split),
        num_classes=2,
        batch_size=8,
        val_fraction=0.2,
        test_fraction=0.2,
        split_seed=0,
        seed=0,
        input_shape=[1, 8, 8],
        mean=[0.5],
        std=[0.25],
        augment=partial(Augment, colour=torch.neg),
    )
    scale, shift = data.normalisation
    return data.with_train(Split((torch.ones(4, 1, 8, 8) - shift) / scale, torch.zeros(4)), "made")


def test_made_images_are_coloured_as_pixels_of_bytes_are() -> None:
    """An augmentation of colours takes images from 0 to 1, whatever the training split was."""
    data = of_bytes()
    batch = next(iter(data.batches(data.train)))
    coloured = data.prepare(batch, view=0).inputs
    assert isinstance(coloured, Tensor)  # a prepared 1 is a pixel of 0.75
    torch.testing.assert_close(coloured, torch.full((4, 1, 8, 8), (-0.75 - 0.5) / 0.25))


def test_a_student_of_made_images_is_exported_for_those_of_the_data() -> None:
    raw = raw_inputs(of_bytes())
    assert raw is not None
    assert raw.dtype == torch.uint8
