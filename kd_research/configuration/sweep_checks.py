"""Checks of the values of `sweep.*`, and of what its objectives need. Imports no torch."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from kd_research.configuration.constraints import FORM
from kd_research.configuration.parts_checks import teacher_for
from kd_research.configuration.values import is_count, is_number, is_whole, plain
from kd_research.records.measures import OF_TEXTS

MAX_NAME = 100
# What only a run with a teacher measures.
OF_TEACHER = (
    "teacher_",
    "accuracy_retention",
    "copied_error_share",
    "compression_ratio",
    "speedup",
    "energy_ratio",
)
ENERGY = ("energy_joules", "energy_ratio", "teacher_energy_joules")
COUNTERS = ("/sys/class/powercap/intel-rapl:0", "/dev/nvidiactl")
# SQLAlchemy's driver -> the module that it imports.
DRIVERS = {"postgresql": "psycopg2", "mysql": "MySQLdb", "mariadb": "MySQLdb"}
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "grpc": 13000}
SECONDS = 1.0  # that a server may take to answer


def sweep_value_problems(config: DictConfig) -> Iterator[str]:
    """What is wrong with the values of `sweep`, a line a problem."""
    sweep = plain(config.sweep)
    rules: dict[str, tuple[Callable[[Any], bool], str, str]] = {
        "baseline": (lambda v: isinstance(v, bool), "true or false", "true"),
        "trial_timeout": (
            lambda v: v is None or is_number(v, above=0),
            "seconds > 0, or null for none",
            "600",
        ),
        "max_retries": (lambda v: is_whole(v) and v >= 0, "a whole number >= 0", "2"),
        "devices_per_trial": (
            lambda v: v is None or is_count(v),
            "a whole number >= 1, or null",
            "null",
        ),
        "constraints": (
            lambda v: v is None or isinstance(v, list),
            "a list",
            "'[num_params <= 20000]'",
        ),
        "start_from": (
            lambda v: (
                v is None
                or isinstance(v, str)
                or (isinstance(v, list) and all(isinstance(each, Mapping) for each in v))
            ),
            "a list of settings, or another sweep",
            "'[{loss.temperature: 4}]'",
        ),
        "space": (lambda v: v is None or isinstance(v, Mapping), "a mapping", "{}"),
        "objectives": (
            lambda v: v is None or isinstance(v, Mapping),
            "a mapping of metrics to maximize or minimize",
            "'{val_accuracy: maximize}'",
        ),
    }
    for name, (is_right, what, example) in rules.items():
        if name in sweep and not is_right(sweep[name]):
            key = f"sweep.{name}"
            yield f"{key} must be {what}, got {sweep[name]!r}; try {key}={example}"
    point = sweep.get("reference_point") or {}
    for name, value in point.items() if isinstance(point, Mapping) else ():
        if not is_number(value):
            key = f"sweep.reference_point.{name}"
            yield f"{key} must be a number, got {value!r}; try {key}=0.5"
    if len(str(sweep.get("name"))) > MAX_NAME:
        yield (
            f"sweep.name has {len(str(sweep['name']))} characters, a folder's name at most "
            f"{MAX_NAME}; try sweep.name=mine"
        )
    yield from _storage_problems(sweep.get("storage"))
    yield from _objective_problems(config, sweep)


def _objective_problems(config: DictConfig, sweep: Mapping[str, Any]) -> Iterator[str]:
    """Objectives and limits that no run of this configuration on this machine can measure."""
    objectives = sweep.get("objectives") or {}
    names = {str(name): f"sweep.objectives.{name}" for name in objectives}
    limits = sweep.get("constraints") or []
    for text in limits if isinstance(limits, list) else ():
        if match := FORM.fullmatch(str(text)):
            names.setdefault(match[1], "sweep.constraints")
    stated: Any = OmegaConf.to_container(config.teacher)  # of a run that is not there, too
    has_teacher = bool(stated.get("model")) or "teacher" in (sweep.get("space") or {})
    local = str((config.get("pool") or {}).get("_target_", "")).endswith("LocalPool")
    for name, key in names.items():
        if name.startswith(OF_TEACHER) and not has_teacher:
            fitting = teacher_for(config.dataset)
            yield f"{key}: {name} needs a teacher, got teacher=none; try teacher={fitting}"
        if name.endswith(OF_TEXTS) and not _writes(config):
            yield (
                f"{key}: {name} is measured of texts, and text_evaluation.num_prompts is 0; "
                "type text_evaluation.num_prompts=100"
            )
        if name in ENERGY and find_spec("zeus") is None:
            yield (
                f"{key}: {name} is read by Zeus, which is not installed; "
                "type pip install 'kd_research[energy]', or leave it out by ~" + key
            )
        elif name in ENERGY and local and not any(map(_readable, COUNTERS)):
            yield (
                f"{key}: this machine has no energy counter that can be read "
                f"({' or '.join(COUNTERS)}); try macs or latency_ms"
            )


def _writes(config: DictConfig) -> bool:
    return (config.get("text_evaluation") or {"num_prompts": 0}).get("num_prompts") != 0


def _readable(counter: str) -> bool:
    path = Path(counter)
    try:
        if path.is_dir():
            (path / "energy_uj").read_text(encoding="utf-8")
        return path.exists()
    except OSError:
        return False


def _storage_problems(url: Any) -> Iterator[str]:
    """A storage that cannot be asked: of another form, without its driver, away."""
    if url is None:
        return
    example = "try sweep.storage=null, or postgresql+psycopg2://user@host/name"
    match = re.match(r"([a-z0-9]+)(\+\w+)?://", str(url))
    if match is None:
        yield (
            f"sweep.storage must be a URL, or null for SQLite in the folder, got {url!r}; {example}"
        )
        return
    scheme, driver = match[1], (match[2] or "")[1:]
    if scheme == "sqlite":
        file = (
            str(url).removeprefix("sqlite:///").partition("?")[0]
        )  # or SQLite's file:PATH?uri=true
        folder = Path(re.sub(r"^file:(//(localhost)?(?=/))?", "", file)).parent
        if not folder.is_dir():
            yield f"sweep.storage: there is no folder {folder} for its file; type mkdir -p {folder}"
        return
    if scheme not in PORTS:
        yield f"sweep.storage: {scheme}:// is no storage of a study; {example}"
        return
    module = driver or DRIVERS.get(scheme, "grpc")
    if find_spec(module) is None:
        yield (
            f"sweep.storage={scheme}://... needs {module}, which is not installed; type "
            "pip install 'kd_research[servers]'"
        )
        return
    try:
        parts = urlsplit(str(url))
        host, port = parts.hostname, parts.port or PORTS[scheme]
    except ValueError as error:
        yield f"sweep.storage: {error}; {example}"
        return
    if host is None:  # a socket in the file system, or PGHOST
        return
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        yield (
            f"sweep.storage: no answer from {host}:{port} ({reason}); start the server, or "
            "type sweep.storage=null for SQLite"
        )
