import pytest
from sweep_folders import make_sweep


@pytest.fixture
def sweep_folder(tmp_path):
    return make_sweep(tmp_path / "digits-kd")


@pytest.fixture
def seeds_folder(tmp_path):
    return make_sweep(tmp_path / "digits-seeds", num_trials=12, seeds=3)
