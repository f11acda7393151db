"""Checks of what goes to Lightning's Trainer, without Lightning: the student's and the teacher's.

A run is made of whole epochs whose last is validated; an option that leaves no validated epoch is
refused before anything is trained.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kd_research.configuration.values import is_count, is_number, plain

# As Lightning names them; a strategy may also be one of the names with a suffix, as ddp_spawn.
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
STRATEGIES = ("auto", "ddp", "fsdp", "deepspeed", "single", "xla")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
ALIASES = ("32", "bf16", "16")  # of the same
FULL_OR_HALF = ("16-true", "bf16-true", "64-true", "64")
OURS = ("default_root_dir", "callbacks", "logger", "enable_model_summary", "num_sanity_val_steps")
GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
CPU_FILE = "/proc/cpuinfo"
FAST_BF16 = ("avx512bw", "avx_ne_convert")  # either; what oneDNN has bfloat16 kernels for on x86


def trainer_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `trainer` and `teacher.trainer`, a line a problem."""
    own = plain(config.get("trainer"))
    if not isinstance(own, Mapping):
        yield f"trainer must be a mapping of Lightning's options, got {own!r}; try trainer=default"
        return
    teacher = plain((config.get("teacher") or {}).get("trainer"))
    local = str((config.get("pool") or {}).get("_target_", "")).endswith("LocalPool")
    yield from _option_problems("trainer", own, own, local)
    if isinstance(teacher, Mapping):
        yield from _option_problems("teacher.trainer", teacher, {**own, **teacher}, local)


def precision_notes(config: Mapping[str, Any]) -> Iterator[str]:
    """That bfloat16 is slow on this machine's processor, for each of the trainers that ask for it.

    Args:
        config: a configuration without problems; other machines' processors are not known.
    """
    own, pool = config.get("trainer") or {}, str((config.get("pool") or {}).get("_target_", ""))
    if not pool.endswith("LocalPool") or _has_gpu() or not _lacks_bf16():
        return
    for at, stated in (
        ("trainer", own),
        ("teacher.trainer", (config.get("teacher") or {}).get("trainer") or {}),
    ):
        if (precision := str(stated.get("precision"))).startswith("bf16"):
            yield (
                f"note: {at}.precision={precision} on a processor without AVX-512, where it takes "
                f"several times as long as float32; {at}.precision=32-true is fast here"
            )


def _option_problems(
    at: str, stated: Mapping[str, Any], options: Mapping[str, Any], local: bool
) -> Iterator[str]:
    """Of the options that `stated` has; `options` are these and those that they stand beside."""
    yield from _unknown_problems(at, stated)
    epochs, every = options.get("max_epochs"), options.get("check_val_every_n_epoch", 1)
    if "check_val_every_n_epoch" in stated or "max_epochs" in stated:
        if not is_count(every):
            yield (
                f"{at}.check_val_every_n_epoch must be a whole number >= 1, got {every!r}; "
                f"try {at}.check_val_every_n_epoch=1"
            )
        elif is_count(epochs) and every > epochs:
            yield (
                f"{at}.check_val_every_n_epoch={every} is above max_epochs={epochs}: no epoch "
                f"would be validated; try {at}.check_val_every_n_epoch=1"
            )
    if options.get("fast_dev_run") and "fast_dev_run" in stated:
        yield (
            f"{at}.fast_dev_run keeps no student; for a quick try type {at}.max_epochs=1 "
            "dataset.subset=0.1"
        )
    if stated.get("max_steps") not in (None, -1):
        yield (
            f"{at}.max_steps={stated['max_steps']}: a run is made of whole epochs, whose last is "
            f"validated; type {at}.max_epochs=N instead"
        )
    for name in ("limit_train_batches", "limit_val_batches"):
        value = stated.get(name)
        share = isinstance(value, float) and is_number(value, above=0) and value <= 1
        if value is not None and not share and not is_count(value):
            yield (
                f"{at}.{name} must be a whole number of batches >= 1, or a share above 0.0 and at "
                f"most 1.0, got {value!r}; try {at}.{name}=1.0"
            )
    clip = stated.get("gradient_clip_val")
    if clip is not None and not is_number(clip, above=0):
        yield (
            f"{at}.gradient_clip_val must be > 0, or null for none, got {clip!r}; "
            f"try {at}.gradient_clip_val=1"
        )
    every = stated.get("accumulate_grad_batches", 1)
    if not is_count(every):
        yield f"{at}.accumulate_grad_batches must be a whole number >= 1, got {every!r}; try 1"
    yield from _device_problems(at, stated, options, local)


def _device_problems(
    at: str, stated: Mapping[str, Any], options: Mapping[str, Any], local: bool
) -> Iterator[str]:
    accelerator = str(options.get("accelerator", "auto"))
    if "accelerator" in stated and accelerator not in ACCELERATORS:
        yield (
            f"{at}.accelerator must be one of {', '.join(ACCELERATORS)}, got {accelerator}; "
            f"try {at}.accelerator=auto"
        )
    elif "accelerator" in stated and accelerator in ("gpu", "cuda") and local and not _has_gpu():
        yield (
            f"{at}.accelerator={accelerator}, but this machine shows no GPU "
            f"({GPU_FILES[0]} is not there); try {at}.accelerator=cpu"
        )
    devices = stated.get("devices", "auto")
    some = is_count(devices) or devices in (-1, "-1", "auto")
    if isinstance(devices, str):  # "0,1", as Lightning takes it
        some = some or all(part.strip().isdigit() for part in devices.split(","))
    if isinstance(devices, list):
        some = bool(devices) and all(isinstance(n, int) and n >= 0 for n in devices)
    if not some or isinstance(devices, bool):
        yield (
            f"{at}.devices must be a whole number >= 1, a list of numbers, -1 or auto, got "
            f"{devices!r}; try {at}.devices=1"
        )
    strategy = stated.get("strategy", "auto")
    if isinstance(strategy, str) and strategy.split("_")[0] not in STRATEGIES:
        yield (
            f"{at}.strategy must be one of {', '.join(STRATEGIES)}, or one of Lightning's own "
            f"longer names, got {strategy!r}; try {at}.strategy=auto"
        )
    precision = str(stated.get("precision", "32-true"))
    if precision in FULL_OR_HALF:
        yield (
            f"{at}.precision must leave the inputs float32, got {stated['precision']!r}; "
            f"try {at}.precision=32-true, {at}.precision=bf16-mixed or {at}.precision=16-mixed"
        )
    elif precision not in (*PRECISIONS, *ALIASES) and "transformer" not in precision:
        close = difflib.get_close_matches(precision, PRECISIONS, n=1, cutoff=0.3)
        yield (
            f"{at}.precision must be one of {', '.join(PRECISIONS)}, got "
            f"{stated['precision']!r}; try {at}.precision={(close or PRECISIONS)[0]}"
        )
    elif precision in ("16", "16-mixed") and accelerator == "cpu":
        yield (
            f"{at}.precision={precision} needs a GPU, got {at}.accelerator=cpu; "
            f"try {at}.precision=bf16-mixed"
        )


def _unknown_problems(at: str, stated: Mapping[str, Any]) -> Iterator[str]:
    for name in stated:
        if name in OURS:
            yield f"{at}.{name} is set by kd_research itself; leave it out"
    names = option_defaults()
    for name in stated:
        if names and name not in names and name not in OURS:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {at}.{close[0]}? " if close else ""
            yield f"{at}.{name} is no option of Lightning's Trainer; {hint}leave it out"


@cache
def option_defaults() -> Mapping[str, Any]:
    """The Trainer's arguments with their defaults, out of its file: importing it takes seconds."""
    spec = find_spec("lightning")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, "pytorch", "trainer", "trainer.py")
        tree = ast.parse(file.read_text(encoding="utf-8")) if file.exists() else ast.Module([], [])
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == "Trainer":
                (made,) = [f for f in node.body if getattr(f, "name", "") == "__init__"]
                options: Any = made.args  # type: ignore[attr-defined]
                pairs = zip(options.kwonlyargs, options.kw_defaults, strict=True)
                return {each.arg: ast.literal_eval(value) for each, value in pairs}
    return {}


def _lacks_bf16() -> bool:
    """Whether this is an x86 processor, and says that it has no such kernels."""
    try:
        lines = Path(CPU_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), None)
    return flags is not None and not set(FAST_BF16) & set(flags)


def _has_gpu() -> bool:
    return any(Path(path).exists() for path in GPU_FILES)
