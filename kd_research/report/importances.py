"""Which settings explain each objective: permutation importance in a random forest.

A forest is fitted to settings -> objective over the completed trials, and a setting's importance
is how much R^2 is lost when its column is shuffled (Breiman 2001, "Random forests", section 10),
normalised to a sum of 1. The out-of-bag R^2 says how far to believe it: near 0, the forest has
understood nothing and the bars are noise. It is no fANOVA: interactions are not separated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_research.report.sweep import Sweep

MIN_TRIALS = 10
MAX_TRIALS = 1000  # a forest of more is slower and not wiser
NUM_TREES = 64


@dataclass(frozen=True)
class Importance:
    """Of one objective: setting -> share (sum 1) and its spread, and the out-of-bag R^2."""

    shares: dict[str, float]
    spreads: dict[str, float]
    r2: float


def importances(sweep: Sweep) -> dict[str, Importance]:
    """Objective -> importances; without an entry where there are too few trials or no variation."""
    found = {}
    for name in sweep.objectives:
        known = [t for t in sweep.trials if t.state == "completed" and t.mean(name) is not None]
        names = [p for p in sweep.param_names if len({str(t.params.get(p)) for t in known}) > 1]
        known = known[:: max(1, len(known) // MAX_TRIALS)]
        values = np.array([t.mean(name) for t in known], dtype=float)
        if len(known) >= MIN_TRIALS and names and np.ptp(values) > 0:
            columns = np.column_stack([_column([t.params.get(p) for t in known]) for p in names])
            found[name] = _importance(columns, values, names)
    return found


def _importance(columns: Any, values: Any, names: list[str]) -> Importance:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(NUM_TREES, oob_score=True, random_state=0, max_features=0.8)
    forest.fit(columns, values)
    lost = permutation_importance(
        forest, columns, values, scoring=_r2, n_repeats=10, random_state=0
    )
    mean, std = np.maximum(lost.importances_mean, 0.0), lost.importances_std
    total = float(mean.sum()) or 1.0
    order = np.argsort(-mean)
    return Importance(
        shares={names[i]: float(mean[i]) / total for i in order},
        spreads={names[i]: float(std[i]) / total for i in order},
        r2=float(forest.oob_score_),
    )


def _r2(forest: Any, columns: Any, values: Any) -> float:
    """R^2 of a forest's predictions; tree by tree, since scikit-learn's own way starts a pool."""
    from sklearn.metrics import r2_score

    settings = np.ascontiguousarray(columns, dtype=np.float32)
    predicted = np.mean([tree.tree_.predict(settings)[:, 0] for tree in forest.estimators_], axis=0)
    return float(r2_score(values, predicted))


def _column(values: list[Any]) -> Any:
    """Numbers as they are; words (and mixtures) as the ranks of their text."""
    if all(isinstance(value, int | float) for value in values):
        return np.array(values, dtype=float)
    words = sorted({str(value) for value in values})
    return np.array([words.index(str(value)) for value in values], dtype=float)
