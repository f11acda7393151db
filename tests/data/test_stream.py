"""Images decoded as they are asked for are those that are decoded once."""

import gc
import multiprocessing
import os
import signal
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from conftest_data import pictures, write_parquet
from forks import in_fork

from kd_research.data.build import images
from kd_research.data.module import DataModule


@pytest.fixture(scope="module", autouse=True)
def _no_server_is_left():
    """Later tests of this process start a fork server that has other modules loaded."""
    yield
    gc.collect()  # loaders that refer to themselves: a server ends after their workers
    forkserver._forkserver._stop()


def module(parquet, tmp_path, workers, **changes) -> DataModule:
    arguments = {
        "root": str(parquet),
        "path": None,
        "config_name": None,
        "splits": {},
        "input_column": None,
        "label_column": None,
        "resize": False,
        "input_shape": [3, 6, 8],
        "num_classes": 3,
        "store": str(tmp_path / "store"),
        "stream_workers": workers,
        "name": "made",
        "batch_size": 7,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "split_seed": 0,
        "seed": 0,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    return images(**(arguments | changes))


def test_a_stream_gives_the_batches_of_the_store(parquet, tmp_path):
    state = torch.get_rng_state()
    streamed, kept = (module(parquet, tmp_path, workers) for workers in (2, 0))
    assert streamed.train.is_streamed
    assert not kept.train.is_streamed
    for epoch in range(2):
        loaders = [data.train_dataloader() for data in (streamed, kept)]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        batches = [list(loader) for loader in loaders]
        assert len(batches[0]) == len(loaders[0]) == 4
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one.index, other.index)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(streamed.prepare(one).inputs, kept.prepare(other).inputs)
    assert torch.equal(torch.get_rng_state(), state)
    nothing = torch.tensor([], dtype=torch.int64)  # the last share of a rank may be empty
    assert streamed.train.take(nothing).inputs.shape == (0, 3, 6, 8)
    assert streamed.fingerprint() == module(parquet, tmp_path, 1).fingerprint()


def test_what_cannot_be_streamed_is_told(parquet, tmp_path):
    with pytest.raises(ValueError, match="a streamed set needs dataset.mean and dataset.std"):
        module(parquet, tmp_path, 2, mean=None)
    write_parquet(parquet, "train", [*pictures(27), *pictures(3, size=(4, 4))], [0, 1, 2] * 10)
    data = module(parquet, tmp_path, 2)
    with pytest.raises(
        ValueError, match="split 'train': image .* is 4x4, .*says 8x6; type dataset.resi"
    ):
        list(data.train_dataloader())
    resized = module(parquet, tmp_path, 2, resize=True)
    assert sum(len(batch.labels) for batch in resized.train_dataloader()) == 24


def gone(pid) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_killed_run_leaves_no_worker(parquet, tmp_path):
    noted = tmp_path / "workers"

    def killed():
        """A run with a fork server of its own kills itself while its workers decode."""
        forkserver._forkserver.__init__()
        before = multiprocessing.active_children()
        batches = iter(module(parquet, tmp_path, 2).train_dataloader())
        next(batches)
        workers = set(multiprocessing.active_children()) - set(before)
        noted.write_text(" ".join(str(worker.pid) for worker in workers))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_fork(killed) == -signal.SIGKILL
    workers = [int(pid) for pid in noted.read_text().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 600
    while not all(map(gone, workers)):
        assert time.monotonic() < deadline, "a worker outlived its run"
        time.sleep(0.05)
