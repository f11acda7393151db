"""The search space as the configuration states it: `sweep.space`, and what the loss itself says.

A mapping in `sweep.space` stands for dotted keys, so that `loss: ${loss.search}` brings in the
ranges that the loss's own YAML states. Where the loss is searched as well, each choice has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from kd_research.configuration.config import unset
from kd_research.configuration.parts_checks import maps_of
from kd_research.configuration.resolvers import ROOT
from kd_research.sweep import space as spaces
from kd_research.sweep.composition import Composition
from kd_research.sweep.probe import home
from kd_research.sweep.space import Dimension, Value

LOSS = "loss"  # the group whose choices state their own ranges
DEPTH = "student.model.depth"


def expressions(config: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Key -> sweep expression: of the mappings in `sweep.space`, and of its own keys."""
    space = OmegaConf.select(config, "sweep.space", default=None)
    plain: Any = OmegaConf.to_container(space, resolve=True) if space else {}
    nested: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            nested |= _dotted(value, f"{key}.")
    own = {str(key): value for key, value in plain.items() if not isinstance(value, Mapping)}
    return {key: value for key, value in nested.items() if key not in own}, own


def _dotted(node: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= _dotted(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def fill(config: DictConfig, typed: Sequence[Override]) -> None:
    """Give what waits for a value and is searched its first choice, until a trial has its own.

    Args:
        config: changed.
        typed: the command line's dimensions.
    """
    waiting = [*unset(OmegaConf.to_container(config))]
    if not waiting:
        return
    nested, own = expressions(config)
    found = {**nested, **own}
    found |= {spaces.full_name(item): item.get_value_string() for item in typed}
    dimensions, _ = spaces.parse({key: found[key] for key in waiting if key in found}, {})
    for item in dimensions:
        OmegaConf.update(config, item.key, item.probes()[0])


@cache
def _default_space() -> Mapping[str, Any]:
    whole: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "sweep" / "default.yaml"))
    return dict(whole["space"])


def refine(
    composition: Composition, nested: Mapping[str, Any], typed: set[str]
) -> tuple[list[str], list[str]]:
    """Give the composition's space each loss's own ranges, and leave out what it does not have.

    Args:
        composition: its space has the ranges of the loss that is composed.
        nested: those of its keys that a mapping stated.
        typed: keys that the command line sets, or that `sweep.space` has itself.

    Returns:
        What of the default sweep is left out, for a person, and what is wrong; a line each.
    """
    own = {key for key in nested if key not in typed}
    space, problems = _by_choice(composition, own, typed)
    composition.space = space
    for item in space:
        if item.key in own or item.only:
            config = composition.with_groups((item.only,) if item.only else ())
            problems += _default_problems(item, config)
    dropped = {item.key: why for item in space if (why := _misfit(composition, item)) is not None}
    composition.space = [item for item in space if item.key not in dropped]
    return [f"note: {key} is not searched: {why}" for key, why in dropped.items()], problems


def _misfit(composition: Composition, item: Dimension) -> str | None:
    """Why a dimension of the default sweep is none for this configuration; None: it is one."""
    if _default_space().get(item.key) != item.expression:
        return None
    if home(composition, item) is None:
        return "this configuration has none"
    terms = composition.config.loss.get("terms") or {}
    if item.key == DEPTH and any(map(maps_of, terms.values())):
        return f"the loss compares feature maps, whose sizes follow it; {DEPTH}=RANGE searches it"
    value = OmegaConf.select(composition.config, item.key, default=None)
    if value is None or not spaces.outside([{item.key: value}], [item]):
        return None
    return f"it is {value} here, outside of {item.expression}; {item.key}=RANGE searches it"


def _by_choice(
    composition: Composition, own: set[str], typed: set[str]
) -> tuple[list[Dimension], list[str]]:
    space = list(composition.space)
    searched = next((item for item in space if item.key == LOSS and item.is_group), None)
    if searched is None or f"{LOSS}." not in {key[: len(LOSS) + 1] for key in own}:
        return space, []
    ranges: dict[str, dict[Value, str]] = {}
    for choice in searched.probes():
        try:
            config = composition.with_groups(((LOSS, choice),))
        except Exception:  # Hydra's own types; the probe of the space tells it
            return space, []
        for key, value in expressions(config)[0].items():
            if key.startswith(f"{LOSS}.") and key not in typed:
                ranges.setdefault(key, {})[choice] = str(value)
    found = [item for item in space if item.key not in own or not item.key.startswith(f"{LOSS}.")]
    problems = []
    for key, values in ranges.items():
        for choice, value in values.items():
            parsed, wrong = spaces.parse({key: value}, {})
            problems += wrong
            if len(set(values.values())) == 1:
                found += parsed
                break
            found += [item.for_choice(LOSS, choice) for item in parsed]
    return found, problems


def _default_problems(item: Dimension, config: DictConfig) -> list[str]:
    """Whether the configuration's own value is in the range that its loss states."""
    value = OmegaConf.select(config, item.config_key, default=None)
    if value is None or not spaces.outside([{item.key: value}], [item]):
        return []
    return [
        f"{item.config_key}={value} is outside of {item.expression}, where loss.search says that "
        f"this loss is worth searching; type {item.config_key}={value}, which takes it out of the "
        f"search, or {item.config_key}=interval(LOW,HIGH)"
    ]
