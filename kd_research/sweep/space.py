"""The search space: Hydra's sweep grammar to Optuna's distributions, and proposals back to YAML.

`key=1,2,4` and `choice(...)` are categorical, `interval(a,b)` a float in [a, b] (an integer with
`int(...)`, both ends included), `range(a,b,step)` the integers or floats from a up to, without, b,
`tag(log, ...)` makes either logarithmic, `glob(*)` the matching choices of a config group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Dimension:
    """One dimension of the search.

    Attributes:
        key: the configuration key, or config group; with `only`, its name in the study.
        expression: as the user wrote it.
        distribution: Optuna's.
        is_group: whether `key` is a config group, so that a value changes the composition.
        literals: choices that stand for a list or a mapping, as Hydra writes it.
        is_new: whether the configuration lacks the key, which `+key=...` adds.
        only: (group, choice): it is there with this choice alone, whose range it is.
    """

    key: str
    expression: str
    distribution: BaseDistribution
    is_group: bool
    literals: frozenset[str] = frozenset()
    is_new: bool = False
    only: tuple[str, Value] | None = None

    @property
    def config_key(self) -> str:
        """The configuration key, whatever the study calls it."""
        return self.key if self.only is None else self.key.partition(" ")[0]

    def for_choice(self, group: str, choice: Value) -> Dimension:
        """The same, for one choice of a group that has its own range."""
        return replace(self, key=f"{self.key} ({choice})", only=(group, choice))

    @property
    def is_continuous(self) -> bool:
        """Whether it has no end of values."""
        distribution = self.distribution
        return isinstance(distribution, FloatDistribution) and distribution.step is None

    def assignment(self, value: Value) -> str:
        """`key=value` in Hydra's grammar, for composition."""
        key = f"+{self.key}" if self.is_new else self.key
        if value is None:
            return f"{key}=null"
        if isinstance(value, str) and not self.is_group and value not in self.literals:
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            return f"{key}='{escaped}'"
        return f"{key}={str(value).lower() if isinstance(value, bool) else value}"

    def content(self, value: Value) -> Any:
        """What a proposal's value stands for in the configuration."""
        if value in self.literals:
            return OverridesParser.create().parse_override(f"{self.key}={value}").value()
        return value

    def holds(self, value: Value) -> bool:
        """Whether a proposal may have this value."""
        limits = self.distribution
        if isinstance(limits, CategoricalDistribution):
            equal = [one for one in limits.choices if one == value]
            return any(isinstance(one, bool) == isinstance(value, bool) for one in equal)
        assert isinstance(limits, IntDistribution | FloatDistribution)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        steps = (value - limits.low) / limits.step if limits.step else 0.0
        return limits.low <= value <= limits.high and abs(steps - round(steps)) < 1e-9

    def probes(self) -> list[Value]:
        """The ends of a range, or every choice: where a wrong setting shows."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return list(distribution.choices)
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        return [distribution.low, distribution.high]


def of_labels(key: str, labels: Sequence[str]) -> Dimension:
    """A dimension whose choices are names that the configuration does not know."""
    distribution = CategoricalDistribution(list(labels))
    text = f"choice({','.join(labels)})"
    return Dimension(key, text, distribution, is_group=False, is_new=True)


def fixed(arguments: Sequence[str]) -> list[str]:
    """Those of a command line's overrides that are no dimension."""
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    return [str(item.input_line) for item in overrides if not item.is_sweep_override()]


def parse(
    expressions: Mapping[str, Any], group_options: Mapping[str, Sequence[str]]
) -> tuple[list[Dimension], list[str]]:
    """The dimensions of a space, and what is wrong with it, a line each.

    Args:
        expressions: key (+key adds it) -> sweep expression, as text or as a list of choices.
        group_options: the choices of every key that is a config group.
    """
    parser = OverridesParser.create()
    dimensions, problems = [], []
    for key, value in expressions.items():
        text = f"choice({','.join(map(_text, value))})" if isinstance(value, list) else str(value)
        try:
            override = _parse(parser, key, text)
            distribution = _distribution(override, group_options.get(full_name(override), ()))
        except (HydraException, ValueError) as error:
            problems.append(
                f"sweep.space: {key}={text} is no search dimension ({str(error).splitlines()[0]}); "
                "try choice(a,b), interval(1,20), range(1,8) or tag(log, interval(1e-4,1e-1))"
            )
            continue
        lists = [item for item in _choices(override) if isinstance(item, list | dict)]
        literals = frozenset(str(_choice(item)) for item in lists) | _spelled(override)
        name, is_new = full_name(override), override.is_add() or override.is_force_add()
        is_group = name in group_options
        dimensions.append(Dimension(name, text, distribution, is_group, literals, is_new))
    return dimensions, problems


def _parse(parser: OverridesParser, key: str, text: str) -> Override:
    """As Hydra does; and `choice(a,null)`, which its grammar allows only as `a,null`."""
    try:
        return parser.parse_override(f"{key}={text}")
    except HydraException:
        inner = text.strip().removeprefix("choice(").removesuffix(")")
        if len(inner) + len("choice()") != len(text.strip()):
            raise
        return parser.parse_override(f"{key}={inner}")


def _choices(override: Override) -> list[Any]:
    value = override.value()
    return list(value.list) if isinstance(value, ChoiceSweep) else []


def _distribution(override: Override, options: Sequence[str]) -> BaseDistribution:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(_apart([_choice(item) for item in value.list]))
    if isinstance(value, Glob):
        return CategoricalDistribution(value.filter(list(options)))
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep):
        numbers = list(value.range())
        if not numbers:
            raise ValueError("the range is empty")
        low, high, log = numbers[0], numbers[-1], "log" in value.tags
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(int(low), int(high), step=int(value.step), log=log)
        return FloatDistribution(float(low), float(high), step=float(value.step), log=log)
    raise ValueError("it has one value only")


def full_name(override: Override) -> str:
    """The key or group that an override names, with the package that it goes to."""
    name = str(override.key_or_group)
    return f"{name}@{override.package}" if override.package else name


def _apart(choices: Sequence[Value]) -> list[Value]:
    """The choices without repeats; what Python takes for equal (1, 1.0, true) as texts."""
    found: list[Value] = []
    for choice in choices:
        equal = [other for other in found if other == choice]
        if not equal:
            found.append(choice)
        elif all(type(other) is not type(choice) for other in equal):
            text = str(choice).lower()
            found += [] if text in found else [text]
    return found


def _spelled(override: Override) -> frozenset[str]:
    """The choices that stand in the study by their text, because another one equals them."""
    given = [_choice(item) for item in _choices(override)]
    known = [(type(item), item) for item in given]
    apart = [item for item in _apart(given) if (type(item), item) not in known]
    return frozenset(map(str, apart))


def _choice(item: Any) -> Value:
    """A choice as Optuna stores it: plain values as they are, lists and dicts as their text."""
    if isinstance(item, QuotedString):
        return item.text
    if item is None or isinstance(item, str | int | float | bool):
        return item
    return str(Override._get_value_element_as_str(item))


def _text(item: Any) -> str:
    return "null" if item is None else str(item)


def named(params: Mapping[str, Value], space: Sequence[Dimension]) -> dict[str, Value]:
    """A proposal by configuration keys, as the study calls them."""
    names = {
        item.config_key: item.key
        for item in space
        if item.only is None or params.get(item.only[0]) == item.only[1]
    }
    return {names.get(key, key): value for key, value in params.items()}


def outside(proposals: Sequence[Mapping[str, Value]], space: Sequence[Dimension]) -> list[str]:
    """What of the given proposals is not in the space, a line each."""
    known, problems = {item.key: item for item in space}, []
    for params in proposals:
        for key, value in params.items():
            if key not in known:
                problems.append(
                    f"sweep.start_from: {key} is not searched; there are: {', '.join(known)}"
                )
                continue
            if not known[key].holds(value):
                problems.append(
                    f"sweep.start_from: {known[key].config_key}={value} is outside of "
                    f"{known[key].expression}"
                )
    return problems


def suggest(
    trial: Trial, key: str, distribution: BaseDistribution
) -> str | int | float | bool | None:
    """The trial's value of one dimension."""
    if isinstance(distribution, IntDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        return trial.suggest_int(key, low, high, step=step, log=distribution.log)
    if isinstance(distribution, FloatDistribution):
        bounds = distribution.low, distribution.high
        return trial.suggest_float(key, *bounds, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(key, distribution.choices)
