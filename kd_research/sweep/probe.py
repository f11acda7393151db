"""Tries out a search space before any process is started, and says what its sampler cannot do."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from kd_research.configuration.config import ConfigError, check
from kd_research.configuration.constraints import Constraint
from kd_research.configuration.resolvers import why_not
from kd_research.configuration.rows import ROW_KEY
from kd_research.configuration.statements import OF_ALL_TRIALS
from kd_research.configuration.teacher_content import INHERITED, teacher_content
from kd_research.data.files import missing_files
from kd_research.sweep.composition import Composition, exists, part_of
from kd_research.sweep.space import Dimension, Value

FILES = ("root", "path", "config_name", "splits")  # what says which files a data set has
# Optuna's samplers by what they do with what they are told.
COUNTING = ("BruteForceSampler",)  # every point once
DEAF = (*COUNTING, "RandomSampler", "QMCSampler")  # hear no limits
WHOLE = ("GPSampler", "QMCSampler")  # model the dimensions that every trial has


def space_problems(composition: Composition, known: Sequence[str]) -> list[str]:
    """What of the space does not compose into a right configuration, a line each.

    Args:
        composition: whose space it is.
        known: what is wrong with the configuration without it.
    """
    problems: list[str] = []
    seen: set[str] = set()
    for dimension in composition.space:
        if part_of(dimension.key) in OF_ALL_TRIALS:
            given = f"{dimension.key}={dimension.expression}"
            problems.append(f"{given}: it is one for all trials; give it one value")
            continue
        at, key = home(composition, dimension), dimension.config_key
        if at is None:
            problems.append(_unknown(composition, dimension))
            continue
        unsaid = open_parts([each for each in composition.space if each is not dimension])
        for value in dimension.probes():
            try:
                composed = composition.compose({**at, dimension.key: value})
                if dimension.key == ROW_KEY:  # it may name the data
                    dataset: Any = OmegaConf.to_container(composed.dataset, resolve=True)
                    of_files = repr([dataset.get(key) for key in FILES])
                    problems += missing_files(dataset) if of_files not in seen else []
                    seen.add(of_files)
                check(composed, unsaid)
            except ConfigError as error:
                new = [line for line in error.problems if line not in known]
                problems += [f"in the search space: {_with_whole(dimension, line)}" for line in new]
            except Exception as error:  # Hydra's and OmegaConf's own types
                text = _no_choice(composition, error) or why_not(error)
                problems += [] if text in known else [f"in the search space: {key}={value}: {text}"]
        if counts_all(composition) and dimension.is_continuous:
            problems.append(
                f"sampler: it tries every point, and {key}={dimension.expression} has no "
                f"end of them; try {key}=choice(...) or range(...), or sampler=tpe"
            )
    return problems


def _with_whole(dimension: Dimension, line: str) -> str:
    """What is wrong with fractions of an interval where whole numbers belong: the remedy too."""
    if not dimension.is_continuous or not line.startswith(f"{dimension.key} must be a whole"):
        return line
    return f"{line}, or {dimension.key}=int({dimension.expression})"


def _no_choice(composition: Composition, error: Exception) -> str | None:
    """Said where a row chooses what a group has not; None elsewhere."""
    found = re.search(r"Could not find '([^']+)/([^'/]+)'", str(error))
    if found is None:
        return None
    group, name = found.groups()
    choices = composition.loader.get_group_options(group)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {group}: {close[0]}? " if close else ""
    return f"there is no {group} {name!r}; {hint}choices: {', '.join(choices)}"


def open_parts(space: Sequence[Dimension]) -> set[str]:
    """The parts of a configuration that a space chooses: what they go with is not known before."""
    if any(item.key == ROW_KEY for item in space):
        return {"teacher", "student", "loss", "dataset", "trainer"}
    return {item.key.rpartition("@")[2].split(".")[0] for item in space if item.is_group}


def notes(composition: Composition, constraints: Sequence[Constraint]) -> list[str]:
    """What its sampler will not do, for a person; nothing of it is wrong."""
    found, name = [], _sampler(composition)
    if constraints and name in DEAF:
        limits = ", ".join(map(str, constraints))
        found.append(
            f"note: this sampler hears of no limits ({limits}): it will propose what breaks them, "
            "which the front leaves out; gp, tpe, nsga2 and nsga3 learn them"
        )
    found += teacher_notes(composition)
    some = dict.fromkeys(
        item.config_key for item in composition.space if _is_conditional(composition, item)
    )
    if some and name in WHOLE:
        found.append(
            f"note: {', '.join(some)}: there for some choices only, which this sampler draws at "
            "random; sampler=tpe learns them"
        )
    return found


def teacher_notes(composition: Composition) -> list[str]:
    """What is varied for the student alone, and what moves its teacher as well."""
    if composition.rows:
        for label, overrides in composition.rows.items():
            if any(part_of(key) in INHERITED for key in overrides):
                composition.compose({ROW_KEY: label})
        moving = []
    else:
        moving = [key for item in composition.space if (key := _moves_teacher(composition, item))]
    alone = [
        f"note: {key} is varied for the student alone, its teacher keeps "
        f"{'that of the configuration' if isinstance(value, dict) else json.dumps(value)}; "
        f"'+teacher.{key}=${{{key}}}' lets it follow"
        for key, value in composition.held.items()
    ]
    return alone + [
        f"note: {key} changes the teacher too: what it does to the student is also what it does "
        "to the teacher"
        for key in moving
    ]


def _moves_teacher(composition: Composition, item: Dimension) -> str | None:
    """The key of a dimension of the student's that changes its teacher as well."""
    at = home(composition, item)
    if at is None or item.key.startswith("teacher") or "@teacher" in item.key:
        return None  # a teacher's own dimension is what the person asked for
    contents = {
        repr(teacher_content(composition.compose({**at, item.key: value})))
        for value in item.probes()
    }
    return item.config_key if len(contents) > 1 else None


def _choices(composition: Composition) -> list[tuple[str, Value]]:
    return [
        (item.key, value) for item in composition.space if item.is_group for value in item.probes()
    ]


def home(composition: Composition, dimension: Dimension) -> Mapping[str, Value] | None:
    """The choice of a config group with which the dimension's key is there; None: with none."""
    if dimension.only is not None:
        return dict([dimension.only])
    if dimension.is_group or dimension.is_new or exists(composition.config, dimension.key):
        return {}
    for key, value in _choices(composition):
        if exists(composition.with_groups(((key, value),)), dimension.key):
            return {key: value}
    return None


def _is_conditional(composition: Composition, dimension: Dimension) -> bool:
    if dimension.only is not None:
        return True
    if dimension.is_group or dimension.is_new:
        return False
    return not all(
        exists(composition.with_groups((c,)), dimension.key) for c in _choices(composition)
    )


def _unknown(composition: Composition, dimension: Dimension) -> str:
    from kd_research.report.runs import flat

    plain: Any = OmegaConf.to_container(composition.config, resolve=False)
    known = list(flat(plain))
    close = difflib.get_close_matches(dimension.key, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"in the search space: no configuration of this search has {dimension.key}; {hint}"
        f"+{dimension.key}={dimension.expression} adds it"
    )


def counts_all(composition: Composition) -> bool:
    """Whether the sampler tries every point once, in an order of its own."""
    return _sampler(composition) in COUNTING


def _sampler(composition: Composition) -> str:
    return str(composition.config.sampler.get("_target_", "")).rpartition(".")[2]
