"""Fixtures of the data tests."""

from pathlib import Path

import pytest
from conftest_data import pictures, write_parquet
from later import Later

datasets = Later("datasets")


@pytest.fixture
def parquet(tmp_path) -> Path:
    """Thirty training and nine test images, 8 wide and 6 high, of three classes."""
    write_parquet(tmp_path / "set", "train", pictures(30), [i % 3 for i in range(30)])
    write_parquet(tmp_path / "set", "test", pictures(9, seed=1), [i % 3 for i in range(9)])
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def _quiet_datasets():
    datasets.disable_progress_bars()
