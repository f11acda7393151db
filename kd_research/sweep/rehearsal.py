"""Tries out a sweep's parts in a worker, so that a mistake costs no trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd_research.configuration.config import ConfigError, save
from kd_research.configuration.rows import ROW_KEY
from kd_research.configuration.teacher_content import teacher_content
from kd_research.pools.local import Pool
from kd_research.records.locks import alone
from kd_research.records.outside import OutsideError, ended_by, is_full
from kd_research.records.printable import printable
from kd_research.records.record import CONFIG_NAME, LOG_NAME, SPOKEN_NAME, read_text
from kd_research.records.spent import note_spent, spent
from kd_research.sweep.composition import part_of
from kd_research.sweep.folders import last_line
from kd_research.sweep.plan import Plan

POLL_SECONDS = 0.5
SPOKEN_SECONDS = 15.0  # between two lines about how far it is
LONG = ("dataset", "teacher", "transfer")  # what trials share once it is made


def prepared(plan: Plan) -> DictConfig:
    """The configuration to try out: what takes hours is the first trial's, the rest is stated.

    A teacher, or a transfer set, that no trial asks for would be made for nothing; and a student
    that does not fit the machine is one trial's failure. A choice that is stated and not searched
    (the default student of `student=cnn,resnet8`) is no trial's, and may not fit the rest.
    """
    values = {item.key: item.probes()[0] for item in plan.space}
    for params, _ in plan.first()[:1]:
        values |= params
    if plan.rows:
        values[ROW_KEY] = _row(plan)
    composition = plan.composition
    params = composition.propose(values.__getitem__)
    choices = composition.master.hydra.runtime.choices
    taken = {
        item.key
        for item in plan.space
        if item.is_new
        or part_of(item.config_key) in LONG
        or (item.is_group and not item.holds(choices.get(item.key)))
    }
    first = composition.compose(params)
    stated = composition.compose({key: value for key, value in params.items() if key in taken})
    return stated if _made(stated) == _made(first) else first


def _row(plan: Plan) -> str:
    """The first row; but the first with a teacher where that one is read, not trained.

    Rows from labels alone come first in many papers: a damaged file would fail all others in turn.
    """
    labels = list(plan.rows)
    for label in labels:
        teacher = plan.composition.compose({ROW_KEY: label}).teacher
        if teacher.model:
            return label if teacher.checkpoint else labels[0]
    return labels[0]


def _made(config: DictConfig) -> list[Any]:
    """What decides what is made before the student is trained; it may refer to anything."""
    student: Any = OmegaConf.to_container(config.student, resolve=True)
    plain = [OmegaConf.to_container(config[part], resolve=True) for part in LONG if config[part]]
    started = student if student.get("pretraining") else None
    return [config.seed, teacher_content(config), plain, started, config.loss.get("text")]


def prepare(plan: Plan, pool: Pool, beat: Callable[[], None]) -> None:
    """Build data, teacher, student and loss once; the teacher is trained by that.

    Args:
        plan: of the sweep.
        pool: where its runs happen.
        beat: called while it lasts.

    Raises:
        ConfigError: with what the worker said.
        OutsideError: it was ended from outside.
    """
    directory = plan.directory / "prepare"
    with alone(plan.directory / "prepare.lock", "preparing this sweep"):
        config = prepared(plan)
        save(config, directory / CONFIG_NAME)
        for name in (LOG_NAME, SPOKEN_NAME):
            (directory / name).unlink(missing_ok=True)
        print("teacher: trained now, or loaded if it was trained before", flush=True)
        if config.get("transfer"):
            print("transfer set: made now, or loaded if it was made before", flush=True)
        began = time.monotonic() - spent(plan.directory)
        handle = pool.submit(directory, "prepare")
        shown, due = "", time.monotonic() + SPOKEN_SECONDS
        try:
            while not pool.wait([handle], POLL_SECONDS):
                beat()
                if time.monotonic() < due:
                    continue
                due = time.monotonic() + SPOKEN_SECONDS
                note_spent(plan.directory, time.monotonic() - began)
                if (line := printable(last_line(directory, SPOKEN_NAME))) != shown:
                    print(line, flush=True)
                    shown = line
        except BaseException:
            pool.kill([handle])
            raise
        note_spent(plan.directory, time.monotonic() - began)
        path = directory / LOG_NAME
        log = printable(read_text(path).strip()) if path.exists() else ""
    end = handle.end()
    if end is not None and (end.put_back or (end.failed and is_full(directory))):
        raise OutsideError(ended_by(directory, last_line(directory), end.reason))
    if end is not None and end.failed:
        raise ConfigError([log or f"preparing the sweep failed: {end.reason}"])
    print(log, flush=True)
