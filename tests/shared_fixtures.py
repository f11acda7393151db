"""Shared fixtures: the real configuration, shrunk to a tiny size, and a check for leaks."""

from __future__ import annotations

import copy
import gc
import os
import signal
from collections.abc import Iterator
from functools import cache, wraps
from pathlib import Path

import pytest
import quick_configs
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from tiny import TINY, Compose, composed
from warm import SET_BY_LIBRARIES

import kd_research.trial  # noqa: F401  # as every run does, before Lightning

quick_configs.install()
# It is there for when the power goes, which no test waits for, and takes milliseconds a file.
os.fsync = lambda fd: None
# Without a device every seed would be noted for later, with the stack that it came from.
if not torch.cuda.is_available():
    for device in (torch.cuda, torch.cuda.random, torch.xpu, torch.xpu.random, torch.mtia):
        device._lazy_call = lambda *_, **__: None

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MayChange = (  # libraries' own
    "PYTEST_CURRENT_TEST",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "CRC32C_SW_MODE",  # tensorboardX
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # Lightning
    *SET_BY_LIBRARIES,
)


def pytest_collection_finish() -> None:
    """What is imported stays: the collector of garbage need not look through it time and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def digits_are_read_once() -> None:
    """Every run of this process gets a copy: reading their text takes longer than to train."""
    from kd_research.data import sources

    read = cache(sources.digits)
    sources.digits = wraps(sources.digits)(lambda: copy.deepcopy(read()))


@pytest.fixture(scope="session", autouse=True)
def a_hang_up_is_heard() -> None:
    """By what tests start, under nohup too: what is ignored is inherited, and a handler is not."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(scope="module", autouse=True)
def no_handlers_left() -> Iterator[None]:
    """What a module sets up for all its tests takes its handlers of signals back."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    yield
    gc.collect()  # which is seldom else
    gc.freeze()  # what is left is imports and caches: the next one need not look through them
    left = {number: signal.getsignal(number) for number in HANDLED}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert left == handlers


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test leaves environment variables or an initialised Hydra behind.

    A command that runs in process sets handlers of signals, as it would in its own.
    """
    before = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    after = dict(os.environ)
    changed = [
        name
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name not in MayChange
    ]
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    assert not changed, f"the test leaks environment variables: {changed}"
    assert not GlobalHydra.instance().is_initialized()


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny runs write: one folder for the session, so that they share their teachers."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def tiny(outputs: Path) -> Compose:
    """Composes the tiny configuration with further overrides."""

    def make(*overrides: str) -> DictConfig:
        return composed(*TINY, f"output_dir={outputs}", *overrides)

    return make
