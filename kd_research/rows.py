"""Fixed rows of a sweep, such as a paper's table: labelled overrides, each with what was published.

`sweep.rows` is {label: {overrides: {config key or group: value}, expected: {metric: published
value}, tolerance, selection, reason}}; of these, `overrides` says what is run, the rest is the
ledger's (`report/ledger.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

ROW_KEY = "row"  # what a trial's one parameter is called
KEYS = ("overrides", "expected", "tolerance", "selection", "reason", "paired_with")
SELECTIONS = ("last epoch", "best on test", "best on validation", "unknown")
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
    "soft_targets.",
    "pool",
    "sampler",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.enable_progress_bar",
    "paper_rule",
)


def read(config: DictConfig) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Label -> overrides, and what is wrong with `sweep.rows`, a line each."""
    node = OmegaConf.select(config, "sweep.rows", default=None)
    stated: Any = OmegaConf.to_container(node, resolve=False) if node else {}
    rows: dict[str, dict[str, Any]] = {}
    problems = list(_budget_problems(config))
    for label, row in stated.items():
        at = f"sweep.rows.{label}"
        if not isinstance(row, dict) or not isinstance(row.get("overrides"), dict):
            problems.append(f"{at} needs overrides, as in {{overrides: {{loss: kd}}}}")
            continue
        rows[str(label)] = row["overrides"]
        unknown = [key for key in row if key not in KEYS]
        if unknown:
            problems.append(f"{at} has no {unknown[0]}; a row has {', '.join(KEYS)}")
        selection = row.get("selection")
        others = row.get("paired_with") or []
        missing = [other for other in others if other not in stated]
        if missing:
            problems.append(f"{at}.paired_with: there is no row {missing[0]}")
        if selection is not None and selection not in SELECTIONS:
            problems.append(f"{at}.selection must be one of {', '.join(SELECTIONS)}: {selection!r}")
        for key in ("expected", "tolerance"):
            for name, value in _numbers(row.get(key)).items():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    problems.append(f"{at}.{key}.{name} must be a number, got {value!r}")
    return rows, problems + list(_question_problems(config, rows))


def _question_problems(config: DictConfig, rows: Mapping[str, Any]) -> Iterator[str]:
    stated: Any = OmegaConf.select(config, "sweep.questions", default=None) or []
    for place, question in enumerate(stated):
        at, pairs = f"sweep.questions[{place}]", question.get("differences") or {}
        if not (pairs and question.get("metric")) and not (
            question.get("rows") and question.get("values")
        ):
            yield f"{at} needs metric and differences, or rows and values"
        wrong = [name for name, pair in pairs.items() if len(pair) != 2]
        if wrong:
            yield f"{at}.differences.{wrong[0]} must be two rows, as in [distilled, plain]"
        named = [*(question.get("rows") or ()), *(row for pair in pairs.values() for row in pair)]
        for label in dict.fromkeys(named):
            if label not in rows:
                yield f"{at}: there is no row {label}; there are: {', '.join(rows)}"


def _budget_problems(config: DictConfig) -> Iterator[str]:
    node = OmegaConf.select(config, "sweep.budget", default=None)
    budget: Any = OmegaConf.to_container(node, resolve=False) if node else {}
    for name, share in budget.items():
        at = f"sweep.budget.{name}"
        if name not in ("epochs", "data"):
            yield f"{at} does not exist; a budget has epochs and data"
        elif isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            yield f"{at} is a share, above 0 and at most 1, got {share!r}; try {at}=0.1"


def _numbers(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else {"all": value}


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
            raise ValueError(f"unknown key {key}; a new key is added by +{key}")
        OmegaConf.update(config, key, value, merge=False, force_add=True)


def reduce(config: DictConfig) -> None:
    """Scale epochs and data to `sweep.budget`, a share of each; what follows the epochs follows.

    Args:
        config: of one run; `sweep.budget` is {epochs: share, data: share}.
    """
    budget = OmegaConf.select(config, "sweep.budget", default=None)
    if not budget:
        return
    epochs, data = float(budget.get("epochs", 1)), float(budget.get("data", 1))
    if epochs < 1:
        for where in ("", "teacher."):
            for key in ("trainer.max_epochs", "scheduler.milestones"):
                value = OmegaConf.select(config, where + key, default=None)
                if value is None:
                    continue
                many = OmegaConf.is_list(value)
                shorter = [max(1, round(epochs * n)) for n in (value if many else [value])]
                OmegaConf.update(config, where + key, shorter if many else shorter[0])
    if data < 1:
        share = config.dataset.subset
        whole = share is None or (isinstance(share, float) and share <= 1)
        subset = data * (share or 1.0) if whole else max(1, round(data * share))
        OmegaConf.update(config, "dataset.subset", subset)


def reduced(budget: Mapping[str, Any] | None) -> bool:
    """Whether a budget is less than the paper's."""
    return any(float(share) < 1 for share in (budget or {}).values())


def changed(overrides: Sequence[str]) -> list[str]:
    """Those of a command line's fixed overrides that make another experiment of a paper's row."""
    found = []
    for text in overrides:
        key = text.lstrip("+~")
        harmless = key.startswith(HARMLESS) and not key.startswith(("sweep.rows", "sweep.paper"))
        if "=" in text and not harmless:
            found.append(text)
    return found
