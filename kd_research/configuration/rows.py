"""Fixed rows of a sweep, such as a paper's table: labelled overrides, each with what was published.

`sweep.rows` is {label: {overrides: {config key or group: value}, expected: {metric: published
value}, tolerance, selection, reason}}; of these, `overrides` says what is run, the rest is the
ledger's (`report/ledger.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd_research.configuration.statements import (
    budget_problems,
    paper_problems,
    question_problems,
    ranking_problems,
    row_problems,
)
from kd_research.configuration.values import is_number

ROW_KEY = "row"  # what a trial's one parameter is called
EXAMPLE = "'+sweep.rows.mine={overrides: {loss: kd}}'"
# What a user may set on the command line and still say that the paper's row was run.
HARMLESS = (
    "output_dir",
    "dataset.root",
    "dataset.store",
    "tracking",
    "sweep.",
    "sweeps",
    "hydra.",
    "num_threads",
    "soft_targets.cache",
    "soft_targets.fill",
    "soft_targets.max_gb",
    "pool",
    "sampler",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.enable_progress_bar",
    "paper_rule",
)


def read(config: DictConfig) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Label -> overrides of the rows that are run, and what is wrong with what the sweep states.

    All rows are checked, also those that `sweep.only` leaves out.
    """
    stated = _plain(config, "rows") or {}
    if not isinstance(stated, dict):
        return {}, [f"sweep.rows must be {{label: {{overrides: ...}}}}, got {stated!r}"]
    rows: dict[str, dict[str, Any]] = {}
    problems = list(budget_problems(_plain(config, "budget") or {}))
    for label, row in stated.items():
        at = f"sweep.rows.{label}"
        if not isinstance(row, dict) or not isinstance(row.get("overrides"), dict):
            problems.append(f"{at} needs overrides, as in {{overrides: {{loss: kd}}}}")
            continue
        rows[str(label)] = row["overrides"]
        problems += row_problems(at, str(label), row, stated)
    paper = _plain(config, "paper") or {}
    problems += paper_problems(paper, stated)
    problems += question_problems(_plain(config, "questions") or [], stated)
    rows, wrong = _chosen(rows, _plain(config, "only"))
    problems += wrong
    if not wrong:
        problems += ranking_problems(paper, {label: stated[label] for label in rows})
    return rows, problems


def _chosen(rows: dict[str, Any], only: Any) -> tuple[dict[str, Any], list[str]]:
    """The rows that `sweep.only` names, in their own order; what is wrong with it."""
    if only is None:
        return rows, []
    if not isinstance(only, list) or not only:
        example = only if isinstance(only, str) else next(iter(rows), "ROW")
        return rows, [
            f"sweep.only must be a list of rows, or null for all, got {only!r}; "
            f"try 'sweep.only=[{example}]'"
        ]
    problems = []
    for pattern in map(str, only):
        if pattern not in rows and not any(fnmatchcase(label, pattern) for label in rows):
            near = get_close_matches(pattern, rows, n=3) or list(rows)[:3]
            problems.append(
                f"sweep.only: none of the {len(rows)} rows is called {pattern}; "
                f"there are {', '.join(near)}{', ...' if len(rows) > len(near) else ''}"
            )
    if problems:
        return rows, problems
    named = [*map(str, only)]
    wanted = {row for row in rows for each in named if row == each or fnmatchcase(row, each)}
    return {label: row for label, row in rows.items() if label in wanted}, []


def _plain(config: DictConfig, key: str) -> Any:
    node = OmegaConf.select(config, f"sweep.{key}", default=None)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def apply(config: DictConfig, overrides: Mapping[str, Any]) -> None:
    """Set keys of a composed configuration; `+key` adds one.

    Raises:
        ValueError: a key that is not there.
    """
    for given, value in overrides.items():
        key = given.lstrip("+")
        parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        known = isinstance(parent, DictConfig) and key.rpartition(".")[2] in parent
        if not known and key == given:
            siblings = list(map(str, parent)) if isinstance(parent, DictConfig) else []
            *above, last = key.split(".")
            near = get_close_matches(last, siblings, n=1)
            hint = f"did you mean {'.'.join([*above, *near])}? " if near else ""
            raise ValueError(f"unknown key {key}; {hint}a new key is added by +{key}")
        OmegaConf.update(config, key, value, merge=False, force_add=True)


def reduce(config: DictConfig) -> None:
    """Scale epochs and data to `sweep.budget`, a share of each; what follows the epochs follows.

    Args:
        config: of one run; `sweep.budget` is {epochs: share, data: share}.
    """
    budget = OmegaConf.select(config, "sweep.budget", default=None)
    if not budget or list(budget_problems(_plain(config, "budget"))):  # which `read` tells
        return
    epochs, data = float(budget.get("epochs", 1)), float(budget.get("data", 1))
    if epochs < 1:
        for node, key, value in [*_shorter(config, epochs)]:  # all are read before one is set
            node[key] = value
    if data < 1:
        for key in ("dataset.subset", "teacher.dataset.subset"):
            parent = OmegaConf.select(config, key.rpartition(".")[0], default=None)
            if not parent or "subset" not in parent:
                continue
            share = parent.subset
            whole = share is None or (isinstance(share, float) and share <= 1)
            subset = data * (share or 1.0) if whole else max(1, round(data * share))
            OmegaConf.update(config, key, subset)


def _shorter(config: DictConfig, share: float) -> Iterator[tuple[DictConfig, str, Any]]:
    """What follows the epochs: where it stands, its key, and what it is for a share of them."""

    def whole(epochs: float) -> int:
        return max(1, round(share * epochs))

    def within(node: Any, key: str) -> Any:  # what is wrong is left as it is, and told elsewhere
        return node.get(key) if isinstance(node, DictConfig) else None

    stages = within(config.get("loss"), "stages")
    parts = [config, config.get("teacher"), within(config.get("student"), "pretraining")]
    for stage in stages.values() if isinstance(stages, DictConfig) else ():
        parts.append(stage)
        if is_number(epochs := within(stage, "epochs")) and within(stage, "of") is None:
            yield stage, "epochs", share * epochs  # others are counted by the training's
    for part in parts:
        trainer, schedule = within(part, "trainer"), within(part, "scheduler")
        if is_number(epochs := within(trainer, "max_epochs"), above=0):  # else nothing is trained
            yield trainer, "max_epochs", whole(epochs)
        milestones = within(schedule, "milestones")
        if milestones and all(map(is_number, milestones)):
            yield schedule, "milestones", [whole(each) for each in milestones]
        if is_number(warmup := within(schedule, "warmup"), above=0):
            per_epoch = within(schedule, "per") == "epoch"
            yield schedule, "warmup", whole(warmup) if per_epoch else share * warmup


def reduced(budget: Mapping[str, Any] | None) -> bool:
    """Whether a budget is less than the paper's."""
    return any(float(share) < 1 for share in (budget or {}).values())


def changed(overrides: Sequence[str]) -> list[str]:
    """Those of a command line's fixed overrides that make another experiment of a paper's row.

    More devices are one: BatchNorm sees less of the batch, unless trainer.sync_batchnorm is on.
    """
    found = []
    synced = any(text.lstrip("+").lower() == "trainer.sync_batchnorm=true" for text in overrides)
    for text in overrides:
        key = text.lstrip("+~")
        several = key.startswith(("trainer.devices=", "trainer.num_nodes=")) and key[-2:] != "=1"
        if (several or key.startswith("trainer.sync_batchnorm=")) and synced:
            continue
        if several:
            found.append(text)
            continue
        harmless = key.startswith(HARMLESS) and not key.startswith(("sweep.rows", "sweep.paper"))
        if not harmless:
            found.append(text)
    return found
