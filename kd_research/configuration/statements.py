"""What is wrong with what a sweep of rows states for its report, told before anything is run.

A ledger or a page of answers is written when all rows are done: a slip in it must not wait so long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd_research.configuration.values import is_number
from kd_research.records.measures import unknown

SELECTIONS = ("last epoch", "best on test", "best on validation", "unknown")
ROW_KEYS = ("overrides", "expected", "tolerance", "selection", "reason", "paired_with")
PAPER_KEYS = (
    "citation",
    "stated",
    "chosen",
    "claims",
    "best_of",
    "ranking",
    "tolerance",
    "selection",
    "reason",
    "test_examples",
)
OF_ALL_TRIALS = ("output_dir", "import_from", "sweep", "sampler", "pool", "tracking")
RANKING_KEYS = ("metric", "spread", "reason")
LEAST_RANKED = 4


def row_problems(at: str, label: str, row: Mapping[str, Any], rows: Mapping[str, Any]) -> list[str]:
    """Of one row, `sweep.rows.LABEL`; `rows` are all."""
    problems = [
        f"{at} has no {key}; a row has {', '.join(ROW_KEYS)}" for key in row if key not in ROW_KEYS
    ]
    for key in row["overrides"]:
        if str(key).lstrip("+").split(".")[0] in OF_ALL_TRIALS:
            problems.append(f"{at}.overrides: {key} is the sweep's, not a row's; set it for all")
    others = row.get("paired_with") or []
    if isinstance(others, str) or not isinstance(others, Sequence):
        problems.append(f"{at}.paired_with must be a list of rows, got {others!r}; try [{others}]")
    else:
        problems += _no_rows(f"{at}.paired_with", others, rows)
        problems += [f"{at}.paired_with names the row itself"] if label in others else []
    expected = row.get("expected")
    if expected is not None and not isinstance(expected, Mapping):
        problems.append(
            f"{at}.expected must be values by their metrics, as in {{test_accuracy: 0.9}}, "
            f"got {expected!r}"
        )
        expected = {}
    for name, value in (expected or {}).items():
        problems += [f"{at}.expected: {said}" for said in [unknown(name)] if said]
        problems += _published(f"{at}.expected.{name}", value)
    return [*problems, *_shared_problems(at, row, expected)]


def paper_problems(paper: Any, rows: Mapping[str, Any]) -> Iterator[str]:
    """Of `sweep.paper`."""
    if not isinstance(paper, Mapping):
        yield f"sweep.paper must be a mapping of {', '.join(PAPER_KEYS)}, got {paper!r}"
        return
    for key in paper:
        if key not in PAPER_KEYS:
            yield f"sweep.paper has no {key}; it has {', '.join(PAPER_KEYS)}"
    for key in ("stated", "chosen", "claims", "best_of"):
        if not isinstance(paper.get(key) or [], list):
            yield f"sweep.paper.{key} must be a list, got {paper[key]!r}"
    count = paper.get("test_examples")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        yield f"sweep.paper.test_examples must be a whole number >= 1, got {count!r}"
    yield from _shared_problems("sweep.paper", paper, None)
    claims = paper.get("claims")
    for place, claim in enumerate(claims if isinstance(claims, list) else ()):
        yield from _claim_problems(f"sweep.paper.claims[{place}]", claim, rows)
    settings = paper.get("best_of")
    for place, stated in enumerate(settings if isinstance(settings, list) else ()):
        yield from _best_of_problems(f"sweep.paper.best_of[{place}]", stated, rows)


def _best_of_problems(at: str, stated: Any, rows: Mapping[str, Any]) -> Iterator[str]:
    needs = "text, rows (a list of them), and expected, a value of each metric of test"
    if not isinstance(stated, Mapping):
        yield f"{at} needs {needs}, got {stated!r}"
        return
    named, expected = stated.get("rows"), stated.get("expected")
    if not (
        stated.get("text") and isinstance(named, list) and named and isinstance(expected, Mapping)
    ):
        yield f"{at} needs {needs}, got {dict(stated)!r}"
        return
    yield from _no_rows(f"{at}.rows", named, rows)
    for name, value in expected.items():
        if said := unknown(name):
            yield f"{at}.expected: {said}"
        elif not str(name).startswith("test_"):
            yield f"{at}.expected.{name} is not of test, on which what validation chose is measured"
        yield from _published(f"{at}.expected.{name}", value)
    if stated.get("tolerance") is not None:
        yield from _number(f"{at}.tolerance", stated["tolerance"])


def _claim_problems(at: str, claim: Any, rows: Mapping[str, Any]) -> Iterator[str]:
    needs = "text, metric, and better and worse (lists of rows), or similar and tolerance"
    if not isinstance(claim, Mapping):
        yield f"{at} needs {needs}, got {claim!r}"
        return
    for key in ("better", "worse", "similar"):
        named = claim.get(key) or []
        if not isinstance(named, list):
            yield f"{at}.{key} must be a list of rows, got {named!r}; try [{named}]"
        else:
            yield from _no_rows(f"{at}.{key}", named, rows)
    compares = bool(claim.get("better") and claim.get("worse"))
    similar = claim.get("similar")
    alike = isinstance(similar, list) and len(similar) > 1 and claim.get("tolerance") is not None
    if not (claim.get("text") and claim.get("metric")) or compares == alike:
        yield f"{at} needs {needs}"
    if claim.get("metric") and (said := unknown(claim["metric"])):
        yield f"{at}.metric: {said}"
    for key in ("tolerance", "factor"):
        if claim.get(key) is not None:
            yield from _number(f"{at}.{key}", claim[key])


def ranking_problems(paper: Any, rows: Mapping[str, Any]) -> Iterator[str]:
    """Of `sweep.paper.ranking`; `rows` are those that are run."""
    at = "sweep.paper.ranking"
    ranking = paper.get("ranking") if isinstance(paper, Mapping) else None
    if ranking is None:
        return
    needs = "metric, and spread: the least difference that the paper's numbers can show"
    if not isinstance(ranking, Mapping) or not ranking.get("metric") or "spread" not in ranking:
        yield f"{at} needs {needs}, as in {{metric: test_accuracy, spread: 0.005}}; got {ranking!r}"
        return
    for key in ranking:
        if key not in RANKING_KEYS:
            yield f"{at} has no {key}; it has {', '.join(RANKING_KEYS)}"
    yield from _number(f"{at}.spread", ranking["spread"])
    metric = ranking["metric"]
    if said := unknown(metric):
        yield f"{at}.metric: {said}"
        return
    count = sum(is_ranked(row, paper, metric) for row in rows.values())
    if count < LEAST_RANKED:
        yield (
            f"{at} needs at least {LEAST_RANKED} rows with an expected {metric} and a tolerance, "
            f"of those that are run {count} have both; state sweep.rows.LABEL.expected.{metric}, "
            f"or leave it out by {at}=null"
        )


def is_ranked(row: Mapping[str, Any], paper: Mapping[str, Any], metric: str) -> bool:
    """Whether a row has a published value that ours is comparable with: one with a tolerance."""
    tolerance, expected = {**paper, **row}.get("tolerance"), row.get("expected")
    tolerance = tolerance.get(metric) if isinstance(tolerance, Mapping) else tolerance
    return tolerance is not None and isinstance(expected, Mapping) and metric in expected


def question_problems(questions: Any, rows: Mapping[str, Any]) -> Iterator[str]:
    """Of `sweep.questions`."""
    needs = "text, and metric and differences, or rows and values"
    if not isinstance(questions, list):
        yield f"sweep.questions must be a list, each with {needs}; got {questions!r}"
        return
    for place, question in enumerate(questions):
        at = f"sweep.questions[{place}]"
        if not isinstance(question, Mapping):
            yield f"{at} needs {needs}, got {question!r}"
            continue
        pairs = question.get("differences") or {}
        lists = {key: question.get(key) or [] for key in ("rows", "values")}
        wrong = [key for key, given in lists.items() if not isinstance(given, list)]
        if wrong or not isinstance(pairs, Mapping):
            yield from (f"{at}.{key} must be a list, got {lists[key]!r}" for key in wrong)
            if not isinstance(pairs, Mapping):
                yield f"{at}.differences must be {{name: [row, other row]}}, got {pairs!r}"
            continue
        compares = bool(pairs and question.get("metric"))
        if not question.get("text") or not (
            compares or (question.get("rows") and question.get("values"))
        ):
            yield f"{at} needs {needs}"
        measures = [question.get("metric"), *lists["values"]]
        for said in filter(None, (unknown(name) for name in measures if name)):
            yield f"{at}: {said}"
        wrong = [name for name, pair in pairs.items() if not _is_pair(pair)]
        if wrong:
            yield f"{at}.differences.{wrong[0]} must be two rows, as in [distilled, plain]"
        both = [row for pair in pairs.values() if _is_pair(pair) for row in pair]
        yield from _no_rows(at, [*lists["rows"], *both], rows)


def budget_problems(budget: Any) -> Iterator[str]:
    """Of `sweep.budget`."""
    if not isinstance(budget, Mapping):
        yield f"sweep.budget has shares of epochs and data, got {budget!r}; try sweep.budget.epochs"
        return
    for name, share in budget.items():
        at = f"sweep.budget.{name}"
        if name not in ("epochs", "data"):
            yield f"{at} does not exist; a budget has epochs and data"
        elif not is_number(share, above=0) or share > 1:
            yield f"{at} is a share, above 0 and at most 1, got {share!r}; try {at}=0.1"


def _shared_problems(at: str, stated: Mapping[str, Any], expected: Any) -> Iterator[str]:
    """Of what a row may state, or the paper for all rows."""
    selection, tolerance = stated.get("selection"), stated.get("tolerance")
    if selection is not None and selection not in SELECTIONS:
        yield f"{at}.selection must be one of {', '.join(SELECTIONS)}: {selection!r}"
    if isinstance(tolerance, Mapping):
        for name, value in tolerance.items():
            yield from _number(f"{at}.tolerance.{name}", value)
            if expected is not None and name not in expected:
                yield f"{at}.tolerance.{name}: nothing is expected of {name}"
    elif tolerance is not None:
        yield from _number(f"{at}.tolerance", tolerance)


def _number(at: str, value: Any, least: float | None = 0) -> Iterator[str]:
    if not is_number(value):
        yield f"{at} must be a number, got {value!r}"
    elif least is not None and value < least:
        yield f"{at} must be >= {least}, got {value!r}"


def _published(at: str, value: Any) -> Iterator[str]:
    """Of a published value: an accuracy is a share, where papers have percent."""
    yield from _number(at, value, least=None)
    if at.endswith("accuracy") and is_number(value) and not 0 <= value <= 1:
        yield f"{at} is a share from 0 to 1, got {value!r}; try {at}={value / 100:g}"


def _no_rows(at: str, named: Sequence[Any], rows: Mapping[str, Any]) -> Iterator[str]:
    for label in dict.fromkeys(map(str, named)):
        if label not in rows:
            yield f"{at}: there is no row {label}; there are: {', '.join(map(str, rows))}"


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2
