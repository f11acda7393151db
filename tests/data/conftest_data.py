"""Small real files in the layouts that people have: Parquet as the Hub writes it, image folders."""

from pathlib import Path

import numpy as np
import pytest
from later import Later
from PIL import Image

datasets = Later("datasets")

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    """The folder of a real data set, or a skip that says why."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real {name} is not at {path}")
    return path


def pictures(num: int, size=(8, 6), channels=3, seed=0) -> np.ndarray:
    """(N, H, W, C) uint8; size is (width, height), as in PIL."""
    shape = (num, size[1], size[0], channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_parquet(root: Path, split: str, images, labels, names=("cat", "dog", "emu"), **columns):
    """One split as the Hub has it."""
    root.mkdir(parents=True, exist_ok=True)
    squeezed = [image[..., 0] if image.shape[-1] == 1 else image for image in images]
    rows = {"img": [Image.fromarray(image) for image in squeezed], "label": list(labels), **columns}
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
        | {name: datasets.ClassLabel(names=["x", "y"]) for name in columns}
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(root / f"{split}-00000-of-00001.parquet")
