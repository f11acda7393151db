"""Opens a sweep's study: the folder's own, or anew from what the folder's trials say.

The study is a view of the folders. One that was deleted, damaged or replaced is not gone on with
beside folders that it does not know; `sweep.rebuild=true` makes it again from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from hydra.utils import instantiate
from optuna.samplers import RandomSampler
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import DatabaseError

from kd_research.configuration.config import ConfigError
from kd_research.records.record import RECORD_NAME, RunRecord, read_record
from kd_research.report.damage import read_proposal
from kd_research.report.load import BASELINE
from kd_research.sweep.folders import Folders
from kd_research.sweep.identity import (
    check_folder,
    check_proposal,
    check_record,
    check_teachers,
    claim_folder,
    proposal,
    proposed,
    run_digest,
    teacher_marks,
)
from kd_research.sweep.objective_values import Values
from kd_research.sweep.plan import Plan
from kd_research.sweep.proposals import ORIGIN, enqueued
from kd_research.sweep.space import suggest
from kd_research.sweep.storage import STUDY_NAME, open_storage
from kd_research.sweep.study import OWNER, SharedStudy


@contextmanager
def open_study(plan: Plan) -> Iterator[SharedStudy]:
    """The plan's study, its own and that of its folder; rebuilt from the folder if asked for.

    It is entered before the next sweeper may open it: that one would take a study of other
    settings, which has neither trials nor a sweeper yet, for one that was left, and delete it.

    Raises:
        ConfigError: folder or study are another sweep's, which has trials or a living sweeper, or
            do not know each other; nothing is written then.
    """
    with ExitStack() as until_its_end:
        with FileLock(plan.directory / "open.lock"):
            shared = until_its_end.enter_context(_opened(plan))
        yield shared


def _opened(plan: Plan) -> SharedStudy:
    """The study, for one who is alone in opening it."""
    settings = plan.config.sweep
    numbers = proposed(plan)
    if numbers or (plan.directory / BASELINE).exists() or not _is_alone(plan.directory):
        check_folder(plan)
    if settings.rebuild and numbers and settings.storage is None:
        _set_aside(plan.directory)
    shared = _shared(plan)
    known = shared.study.user_attrs.get("fingerprint")
    if known and known != plan.fingerprint() and not numbers and _is_unused(shared):
        optuna.delete_study(study_name=shared.study.study_name, storage=shared.study._storage)
        shared = _shared(plan)
    elif known:
        plan.refuse_other(known)
    empty = not shared.study.get_trials(deepcopy=False)
    if settings.rebuild and numbers and not empty:
        raise ConfigError(
            [
                f"sweep.rebuild=true needs an empty study, and {settings.name} has trials in "
                "its storage; delete it there (optuna delete-study), or give another storage"
            ]
        )
    if empty and numbers and not settings.rebuild:
        raise ConfigError(
            [
                f"{plan.directory} holds {len(numbers)} trials that its study does not know "
                "(it was deleted, or is another sweep.storage): type sweep.rebuild=true to "
                "have it made again from them, or choose another name, as in sweep.name=mine"
            ]
        )
    claim_folder(plan)
    shared.name_objectives()
    shared.study.set_user_attr("fingerprint", plan.fingerprint())
    if settings.rebuild and numbers:
        _rebuild(plan, shared, numbers)
    known = enqueued(shared)
    for params, origin in plan.first():
        if not any(params.items() <= one.items() for one in known):
            shared.study.enqueue_trial(params, {ORIGIN: origin} if origin else None)
            known.append(params)
    plan.write()
    return shared


def _shared(plan: Plan) -> SharedStudy:
    """The study as it is in its storage.

    Raises:
        ConfigError: its file is damaged.
    """
    settings = plan.config.sweep
    try:
        return SharedStudy(
            str(settings.name),
            open_storage(settings.storage, plan.directory),
            plan.directory,
            plan.objectives,
            instantiate(plan.config.sampler),
            int(settings.seed),
        )
    except DatabaseError as error:
        if settings.storage is not None:
            raise
        raise ConfigError(
            [
                f"{plan.directory / STUDY_NAME} cannot be read ({error.orig}): type "
                "sweep.rebuild=true to have it made again from the trials' folders"
            ]
        ) from None


def _is_unused(shared: SharedStudy) -> bool:
    """Whether its sweep was refused or stopped before the first trial, and nobody goes on.

    Where no sweeper has left a sign, one in another folder may be about to.
    """
    trials = shared.study.get_trials(deepcopy=False)
    begun = any(trial.state != TrialState.WAITING for trial in trials)
    return not begun and bool(shared.signs_of_the_dead())


def _is_alone(directory: Path) -> bool:
    """Whether no other sweeper works in the folder."""
    locks = [path for path in (directory / "sweepers").glob("*.lock") if path.stem != "claims"]
    return all(map(SharedStudy.is_free, locks))


def _set_aside(directory: Path) -> None:
    """Rename the study's files, which may be damaged.

    Raises:
        ConfigError: another sweeper works on them.
    """
    if not _is_alone(directory):
        raise ConfigError([f"a sweep still runs in {directory}; stop it, then rebuild its study"])
    for path in list(directory.glob(f"{STUDY_NAME}*")):
        if not path.name.endswith(".aside"):
            path.replace(path.with_name(f"{path.name}.aside"))


def _rebuild(plan: Plan, shared: SharedStudy, numbers: list[int]) -> None:
    """Tell an empty study what the folders say, each trial under its own number."""
    folders, values = Folders(plan), Values(plan.objectives, plan.constraints)
    distributions = {item.key: item.distribution for item in plan.space}
    shared.study.sampler, sampler = RandomSampler(), shared.study.sampler  # every value is given
    told = 0
    for number in range(numbers[-1] + 1):
        params = _asked(plan, folders, number) if number in numbers else None
        if params is None:  # a number that no trial had
            shared.discard(shared.study.ask())
            continue
        shared.study.enqueue_trial(params)
        trial = shared.study.ask()
        for key in params:
            suggest(trial, key, distributions[key])
        trial.set_user_attr(OWNER, "")  # nobody's, for whoever comes next
        records = dict(_records(folders, number, params))
        whole = set(folders.runs(number)) <= records.keys()
        if whole or any(record.status != "completed" for record in records.values()):
            tell_result(shared, trial, values, list(records.values()))
            told += 1
    shared.study.sampler = sampler
    print(f"study rebuilt: {len(numbers)} trials, {told} of them finished", flush=True)


def _asked(plan: Plan, folders: Folders, number: int) -> dict[str, Any] | None:
    """What was proposed, by the trial's own folder; None where it is no whole proposal."""
    found = read_proposal(folders.trial(number))
    params = found.get("asked", found["params"])
    if not plan.composition.is_complete(params):
        return None
    check_proposal(folders.trial(number), proposal(plan, number, params))
    return dict(params)


def _records(
    folders: Folders, number: int, params: dict[str, Any]
) -> Iterator[tuple[Path, RunRecord]]:
    wanted = {path: run_digest(config) for path, config in folders.written(number, params).items()}
    for path in {folders.trial(number): None, **wanted}:
        if (path / RECORD_NAME).exists():
            record = read_record(path)
            check_record(record, path, wanted.get(path))
            yield path, record


def tell_result(
    shared: SharedStudy, trial: Trial, values: Values, records: list[RunRecord]
) -> tuple[bool, Any]:
    """Tell a trial's records; whether this was the first to tell it, and what they came to.

    Raises:
        ConfigError: its teacher has other weights than the same one had before in the sweep.
    """
    marks, known = teacher_marks(records), shared.teachers
    if not marks.keys() <= known.keys():
        known |= shared.study.user_attrs
    check_teachers(known, records, trial.number)
    for name, mark in marks.items():
        if name not in known:
            shared.study.set_user_attr(name, mark)
            known[name] = mark
    result = values.of(records)
    for key, value in result.attributes.items():
        trial.set_user_attr(key, value)
    for name, excess in result.excesses.items():
        trial.set_constraint(name, excess)
    return shared.tell(trial, result.values), result
