"""Two sweeps side by side: both fronts, whose volume is larger, and whose trials remain.

The interval of the hypervolumes' difference is a percentile bootstrap over trials (Efron and
Tibshirani 1993, chapter 13): each sweep's trials are drawn anew with replacement. It says how far
the difference depends on which trials happened to be run; a resampled front is a little smaller
than the real one, in both sweeps alike.

More trials find a larger volume by themselves, so both count with as many completed trials: the
first ones of the sweep that has more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kd_research.report.numbers import show
from kd_research.report.page import fill, made, short
from kd_research.report.pareto import Point, hypervolume, pareto_front
from kd_research.report.runs import flat
from kd_research.report.sweep import Sweep, Trial
from kd_research.report.tables import PLUS_MINUS
from kd_research.report.text import last_word

NUM_RESAMPLES = 1000
INTERVAL = 0.95
NOT_SETTINGS = ("seed", "output_dir", "tracking.", "sweep.", "sampler.", "hydra.")


@dataclass(frozen=True)
class Comparison:
    """What two sweeps with the same objectives say against each other.

    Attributes:
        one, other: the sweeps.
        reference: the reference point that both volumes use, per objective.
        counts: the completed trials of `one` and `other`.
        volumes: the hypervolumes of `one` and `other`, of their first min(counts) trials.
        interval: of the difference `other` - `one`, 95 % over resampled trials.
        joint: the front of all trials together, as (0 or 1, trial).
        settings: fixed settings in which the sweeps differ, key -> (of one, of other).
    """

    one: Sweep
    other: Sweep
    reference: dict[str, float]
    counts: tuple[int, int]
    volumes: tuple[float, float]
    interval: tuple[float, float]
    joint: list[tuple[int, Trial]]
    settings: dict[str, tuple[Any, Any]]

    @property
    def difference(self) -> float:
        """The hypervolume of `other` less that of `one`."""
        return self.volumes[1] - self.volumes[0]

    def facts(self) -> list[str]:
        """The result in sentences."""
        names = (self.one.name, self.other.name)
        corner = ", ".join(f"{name} {show(name, v)}" for name, v in self.reference.items())
        low, high = self.interval
        share = [sum(owner == side for owner, _ in self.joint) for side in (0, 1)]
        if low > 0 or high < 0:
            verdict = f"{names[low > 0]} dominates more"
        else:
            verdict = "the interval holds 0: these trials do not tell the two apart"
        spread = any("±" in cell for row in self.table()[1] for cell in row)
        return [
            f"completed trials: {names[0]} {self.counts[0]}, {names[1]} {self.counts[1]}; "
            f"compared at the first {min(self.counts)} of each",
            f"hypervolume: {names[0]} {self.volumes[0]:.5g}, {names[1]} {self.volumes[1]:.5g} "
            f"(reference point: {corner})",
            f"difference: {self.difference:+.4g}, 95 % interval {low:+.4g} to {high:+.4g} over "
            f"{NUM_RESAMPLES} resamples of the trials; {verdict}",
            f"front of both together: {share[0]} trials of {names[0]}, {share[1]} of {names[1]}",
            *([f"in its table {PLUS_MINUS.rstrip('.')}"] if spread else []),
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells of the joint front."""
        objectives = list(self.one.objectives)
        params = list(dict.fromkeys([*self.one.param_names, *self.other.param_names]))
        rows = [
            [
                (self.one, self.other)[owner].name,
                str(trial.number),
                str(len(trial.records)),
                *(show(name, trial.mean(name), trial.std(name)) for name in objectives),
                *(show(name, trial.params.get(name)) for name in params),
            ]
            for owner, trial in self.joint
        ]
        return ["sweep", "trial", "n", *objectives, *(last_word(p, params) for p in params)], rows


def compare(one: Sweep, other: Sweep) -> Comparison:
    """Compare two sweeps.

    Raises:
        ValueError: their objectives differ, or one has no completed trial.
    """
    if dict(one.objectives) != dict(other.objectives):
        raise ValueError(
            f"two sweeps compare on the same objectives; {one.directory} has "
            f"{dict(one.objectives)}, {other.directory} has {dict(other.objectives)}"
        )
    points: list[list[Point]]
    points = [[p for p in sweep.points if None not in p] for sweep in (one, other)]
    for sweep, found in zip((one, other), points, strict=True):
        if not found:
            raise ValueError(f"{sweep.directory} has no completed trial to compare")
    reference = _reference(one, other)
    counts = (len(points[0]), len(points[1]))
    points = [found[: min(counts)] for found in points]  # in the order in which they were asked
    corner = list(reference.values())
    rng = Random(0)
    upper = [_upper_layers(found, one.directions) for found in points]
    differences = sorted(
        _resampled(upper[1], one, corner, rng) - _resampled(upper[0], one, corner, rng)
        for _ in range(NUM_RESAMPLES)
    )
    tail = round(NUM_RESAMPLES * (1 - INTERVAL) / 2)
    owned = [(0, trial) for trial in one.front] + [(1, trial) for trial in other.front]
    values = [[trial.mean(name) for name in one.objectives] for _, trial in owned]
    joint = [owned[index] for index in pareto_front(values, one.directions)]
    first, direction = next(iter(one.objectives.items()))
    joint.sort(key=lambda pair: pair[1].mean(first) or 0.0, reverse=direction == "maximize")
    return Comparison(
        one,
        other,
        reference,
        counts,
        (_volume(points[0], one, corner), _volume(points[1], one, corner)),
        (differences[tail], differences[-tail - 1]),
        joint,
        _differing(one, other),
    )


def _volume(points: Sequence[Point], sweep: Sweep, corner: list[float]) -> float:
    return hypervolume(points, sweep.directions, corner)


def _upper_layers(points: list[Point], directions: list[str]) -> list[Point]:
    """The points, with None for those that a resample's front cannot hold.

    What lies below 20 successive fronts is dominated by at least one trial of each; that a
    resample misses all of these has a probability below 1e-8.
    """
    rest = list(range(len(points)))
    kept: set[int] = set()
    for _ in range(20):
        front = pareto_front([points[index] for index in rest], directions)
        kept |= {rest[place] for place in front}
        rest = [index for index in rest if index not in kept]
    empty: Point = [None] * len(directions)
    return [point if index in kept else empty for index, point in enumerate(points)]


def _resampled(points: list[Point], sweep: Sweep, corner: list[float], rng: Random) -> float:
    """The hypervolume of as many trials, drawn with replacement."""
    drawn = set(rng.choices(range(len(points)), k=len(points)))
    return _volume([points[k] for k in drawn if points[k][0] is not None], sweep, corner)


def _reference(one: Sweep, other: Sweep) -> dict[str, float]:
    """Per objective the worse of the two reference points, or of all trials where one lacks it."""
    found = {}
    for column, (name, direction) in enumerate(one.objectives.items()):
        worse = min if direction == "maximize" else max
        corners = [sweep.reference_point.get(name) for sweep in (one, other)]
        known = [float(value) for value in corners if value is not None]
        if len(known) < 2:
            all_points = [*one.points, *other.points]
            known = [value for point in all_points if (value := point[column]) is not None]
        found[name] = worse(known)
    return found


def _differing(one: Sweep, other: Sweep) -> dict[str, tuple[Any, Any]]:
    configs = []
    for sweep in (one, other):
        records = [r for t in sweep.trials for r in t.records if r.status == "completed"]
        configs.append(flat(records[0].config) if records else {})
    swept = {*one.param_names, *other.param_names}
    return {
        key: (configs[0].get(key), configs[1].get(key))
        for key in dict.fromkeys([*configs[0], *configs[1]])
        if configs[0].get(key) != configs[1].get(key)
        and key not in swept
        and not key.startswith(NOT_SETTINGS)
    }


def to_markdown(found: Comparison) -> str:
    """The comparison as Markdown."""
    header, rows = found.table()
    lines = [f"# {found.one.name} against {found.other.name}", ""]
    lines += [f"- {fact}" for fact in found.facts()]
    lines += ["", "## Front of both together", ""]
    lines += [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]
    if found.settings:
        lines += ["", "## Fixed settings that differ", ""]
        names = ["setting", found.one.name, found.other.name]
        table = [[key, str(a), str(b)] for key, (a, b) in found.settings.items()]
        lines += [f"| {' | '.join(line)} |" for line in (names, ["---"] * 3, *table)]
    return "\n".join(lines) + "\n"


def render_comparison(found: Comparison) -> str:
    """The comparison as one self-contained page."""
    title = f"{found.one.name} against {found.other.name}"
    sweeps: list[dict[str, Any]] = []
    for sweep in (found.one, found.other):
        done = [trial for trial in sweep.trials if trial.state == "completed"]
        names = [n for n in sweep.value_names if any(t.mean(n) is not None for t in done)]
        members = {trial.number for trial in sweep.front}
        sweeps.append(
            {
                "name": sweep.name,
                "teachers": sweep.teachers,
                "number": [trial.number for trial in done],
                "front": [trial.number in members for trial in done],
                "settings": [[f"{k} = {short(v)}" for k, v in t.params.items()] for t in done],
                "mean": {name: [short(trial.mean(name)) for trial in done] for name in names},
            }
        )
    header, rows = found.table()
    content = {
        "name": title,
        "made": made(),
        "objectives": list(found.one.objectives.items()),
        "directions": {n: found.one.direction_of(n) for s in sweeps for n in s["mean"]},
        "facts": found.facts(),
        "sweeps": sweeps,
        "header": header,
        "rows": rows,
        "settings": [[k, str(short(a)), str(short(b))] for k, (a, b) in found.settings.items()],
    }
    return fill("compare.html", title, content, ("common.js", "compare.js"))
