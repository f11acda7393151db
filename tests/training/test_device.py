"""A device that cannot be used, or not hold a run, costs a line: devices and errors pretended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from sweep_commands import TINY, make_plan, records
from tiny import Compose

from kd_research.configuration.config import ConfigError, save
from kd_research.records.record import CONFIG_NAME, read_record
from kd_research.sweep.run import run_sweep
from kd_research.training import device as devices
from kd_research.training.device import check_device, memory_problem
from kd_research.trial import run as trial

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel ..."
BUSY = "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might ..."
FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 3.90 GiB of "
    "which 1.20 GiB is free. Including non-PyTorch memory, this process has 2.60 GiB in use."
)
CUDA = torch.device("cuda", 0)
CONFIG = {"dataset": {"batch_size": 64, "input_shape": [3, 32, 32]}}


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning sees one GPU, which this torch cannot use."""
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 1))
    monkeypatch.setattr(
        "lightning.fabric.utilities.device_parser._get_all_available_gpus", lambda **_: [0]
    )
    monkeypatch.setattr("lightning.fabric.accelerators.cuda.num_cuda_devices", lambda: 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this one can be used")
def test_auto_on_a_gpu_that_this_torch_cannot_use_is_a_line(
    a_gpu: None, tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tiny(), tmp_path / CONFIG_NAME)
    assert trial.main([str(tmp_path)]) == 1
    error = read_record(tmp_path).error
    assert error is not None
    assert error.startswith("trainer.accelerator=auto chose cuda:0, which cannot be used: ")
    assert error.endswith("; free it, or type trainer.accelerator=cpu")
    assert "\n" not in error
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert trial.prepare([str(tmp_path)]) == 2, "a sweep is told before its first trial"
    assert capsys.readouterr().out.strip() == error


@pytest.mark.parametrize("told", [NO_KERNEL, BUSY, FULL])
def test_what_cuda_says_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError(told)

    monkeypatch.setattr(devices.torch, "ones", refused)
    with pytest.raises(ConfigError) as caught:
        check_device(CUDA, "auto")
    (line,) = caught.value.problems
    assert told.splitlines()[0] in line
    assert "type trainer.accelerator=cpu" in line


def test_a_device_that_computes_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones  # the "GPU" here is this processor
    monkeypatch.setattr(devices.torch, "ones", lambda *s, device, **how: ones(*s, **how))
    check_device(CUDA, "auto")
    check_device(torch.device("cpu"), "auto")


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError(FULL), ("on cuda", "it asked for 2.50 GiB")),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), ("on cuda",)),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), ("on cuda",)),
        (
            RuntimeError(
                "MPS backend out of memory (MPS allocated: 8.00 GiB, max allowed: 9.07 GiB). "
                "Tried to allocate 1.50 GiB on private pool."
            ),
            ("on mps", "it asked for 1.50 GiB"),
        ),
        (MemoryError(), ("on the processor", "GiB are free")),
    ],
)
def test_memory_that_ends_is_told_with_the_sizes(error: Exception, wanted: tuple[str, ...]) -> None:
    line = memory_problem(error, CONFIG)
    assert line is not None
    assert "\n" not in line
    for part in (*wanted, "dataset.batch_size=64", "an input is [3, 32, 32]", "sweep.workers"):
        assert part in line


def test_free_memory_is_read_from_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gib, 8 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 6 * gib)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Pretended 8 GB")
    line = memory_problem(torch.OutOfMemoryError(FULL), CONFIG)
    assert line is not None
    assert "on cuda (Pretended 8 GB)" in line
    assert "1.00 of 8.00 GiB are free, 6.00 its own" in line


def test_other_errors_are_not_of_memory() -> None:
    assert memory_problem(RuntimeError("CUDA error: device-side assert triggered"), CONFIG) is None
    assert memory_problem(ValueError("out of memory"), CONFIG) is None


def test_out_of_memory_in_training_is_recorded_without_a_trace(
    tiny: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr("kd_research.training.distill.Distiller.training_step", full)
    record = trial.run(tiny(), tmp_path)
    assert record.status == "failed"
    assert record.error is not None
    assert "out of memory on cuda" in record.error
    assert "dataset.batch_size=64" in record.error
    assert "Traceback" not in capfd.readouterr().err


def test_a_sweep_goes_on_after_a_student_that_no_machine_holds(tmp_path: Path) -> None:
    """The machine's own refusal, of 256 TB; nothing is pretended."""
    run_sweep(
        make_plan(
            *(item for item in TINY if not item.startswith(("loss.temperature", "sampler"))),
            f"output_dir={tmp_path}",
            "student.model.width=choice(1000000000000,8)",
            "loss.temperature=4",
            "sampler=brute_force",
            "sweep.n_trials=2",
            "pool._target_=in_process.HerePool",
        )
    )
    found = {
        record["config"]["student"]["model"]["width"]: record
        for record in records(tmp_path).values()
    }
    assert found[8]["status"] == "completed"
    assert found[10**12]["status"] == "failed"
    error = found[10**12]["error"]
    assert error.startswith("out of memory on the processor: it asked for 238418.58 GiB"), error
    assert "dataset.batch_size=64" in error


def test_the_warm_server_never_starts_cuda() -> None:
    """What it imports asks no GPU anything: a process forked after that could use none."""
    code = """
import torch
def asked(*_):
    raise SystemExit("CUDA was asked before the fork")
torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = asked
import kd_research.trial.run, kd_research.pools.child
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
