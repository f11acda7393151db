"""How often the intervals of a ranking hold what they should: simulated rows whose rho is known.

    python benchmarks/ranking.py

17 rows with the published values of `papers/crd_ranking`. What is true of them is those values plus
normal errors ("rows differ by"), what is measured is that plus the noise of n seeds. For the
interval over rows as well, both are drawn from a population of a known rho.
"""

from __future__ import annotations

import numpy as np

from kd_research.report import ranking
from kd_research.report.ranking import interval, spearman

PUBLISHED = [0.6906, 0.7066, 0.6921, 0.7055, 0.6967, 0.7038, 0.6961, 0.7034, 0.6947, 0.6984]
PUBLISHED += [0.6960, 0.7116, 0.7197, 0.7143, 0.7147, 0.7175, 0.7183]
NAMES = [str(number) for number in range(len(PUBLISHED))]
TABLE = np.array(PUBLISHED)
RANDOM = np.random.default_rng(1)
REPEATS = 300


def holds(
    published: np.ndarray, true: np.ndarray, noise: float, seeds: int, rho: float, rows: bool
) -> bool:
    """Whether the interval of one simulated measurement, over `rows` as well, has `rho` in it."""
    groups = {
        name: tuple(value + RANDOM.normal(0, noise, seeds))
        for name, value in zip(NAMES, true, strict=True)
    }
    stated = dict(zip(NAMES, map(float, published), strict=True))
    found = interval(stated, groups, other_rows=rows)
    return found is not None and found[0] - 1e-9 <= rho <= found[1] + 1e-9


def main() -> None:
    """Print the share of intervals that hold rho; 0.95 is what is asked for."""
    ranking.NUM_RESAMPLES = 1000
    print("over seeds: seeds, rows differ by, seeds differ by, held")
    for seeds in (2, 3):
        for differ in (0.0, 0.003, 0.005, 0.02):
            for noise in (0.003, 0.01):
                held = 0
                for _ in range(REPEATS):
                    true = TABLE + RANDOM.normal(0, differ, len(TABLE))
                    rho = spearman(list(TABLE), list(true)) or 0.0
                    held += holds(TABLE, true, noise, seeds, rho, rows=False)
                print(f"{seeds}  {differ:.3f}  {noise:.3f}  {held / REPEATS:.2f}", flush=True)
    print("over rows as well, two seeds: rho, seeds differ by (rows by 1), held")
    for rho in (0.0, 0.4, 0.8, 0.95):
        linear = 2 * np.sin(np.pi / 6 * rho)  # of a bivariate normal with this rank correlation
        for noise in (0.3, 1.0):
            held = 0
            for _ in range(REPEATS):
                one, other = RANDOM.normal(size=(2, len(TABLE)))
                true = linear * one + (1 - linear**2) ** 0.5 * other
                held += holds(one, true, noise, 2, rho, rows=True)
            print(f"{rho:.2f}  {noise:.1f}  {held / REPEATS:.2f}", flush=True)


if __name__ == "__main__":
    main()
