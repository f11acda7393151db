"""Tries out a sweep's parts in a worker, so that a mistake costs no trial."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from kd_research.configuration.config import ConfigError, save
from kd_research.pools.local import Pool
from kd_research.records.locks import alone
from kd_research.records.outside import OutsideError, ended_by, is_full
from kd_research.records.printable import printable
from kd_research.records.record import CONFIG_NAME, LOG_NAME, read_text
from kd_research.sweep.composition import part_of
from kd_research.sweep.folders import last_line
from kd_research.sweep.plan import Plan

POLL_SECONDS = 0.5
LONG = ("dataset", "teacher", "transfer")  # what trials share once it is made


def prepared(plan: Plan) -> DictConfig:
    """The configuration to try out: what takes hours is the first trial's, the rest is stated.

    A teacher, or a transfer set, that no trial asks for would be made for nothing; and a student
    that does not fit the machine is one trial's failure.
    """
    values = {item.key: item.probes()[0] for item in plan.space}
    for params, _ in plan.first()[:1]:
        values |= params
    params = plan.composition.propose(values.__getitem__)
    taken = {i.key for i in plan.space if i.is_new or part_of(i.config_key) in LONG}
    return plan.composition.compose({k: v for k, v in params.items() if k in taken})


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
        (directory / LOG_NAME).unlink(missing_ok=True)
        print("teacher: trained now, or loaded if it was trained before", flush=True)
        if config.get("transfer"):
            print("transfer set: made now, or loaded if it was made before", flush=True)
        handle = pool.submit(directory, "prepare")
        try:
            while not pool.wait([handle], POLL_SECONDS):
                beat()
        except BaseException:
            pool.kill([handle])
            raise
        path = directory / LOG_NAME
        log = printable(read_text(path).strip()) if path.exists() else ""
    end = handle.end()
    if end is not None and (end.put_back or (end.failed and is_full(directory))):
        raise OutsideError(ended_by(directory, last_line(directory), end.reason))
    if end is not None and end.failed:
        raise ConfigError([log or f"preparing the sweep failed: {end.reason}"])
    print(log, flush=True)
