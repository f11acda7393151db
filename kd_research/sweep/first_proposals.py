"""What a sweep tries before its sampler is asked.

The published defaults of its methods; after these, with `sweep.start_from=SWEEP`, what another
sweep found best.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from kd_research.configuration.config import ConfigError
from kd_research.records.record import SWEEP_NAME
from kd_research.report.sweep import DEFAULTS
from kd_research.sweep.composition import Composition, exists
from kd_research.sweep.probe import counts_all
from kd_research.sweep.space import Dimension, Value
from kd_research.sweep.start_from import Proposal, of_sweep

SHARE = 3  # of the trials, one in so many may be another sweep's


def before_the_sampler(
    composition: Composition, directory: Path, objectives: Mapping[str, str], n_trials: int
) -> tuple[list[Proposal], list[str]]:
    """What a sweep tries first where nobody says what.

    A sweep that goes on has taken over what it takes from another one, which may be gone by now.

    Args:
        composition: of the sweep.
        directory: its folder.
        objectives: name -> maximize or minimize.
        n_trials: in all.

    Returns:
        Proposals, each with whose it is; and notes for a person, a line each.

    Raises:
        ConfigError: `sweep.start_from` names a sweep that this one cannot start from.
    """
    settings, counted = composition.config.sweep, counts_all(composition)
    other = settings.get("start_from")
    if isinstance(other, str) and (composition.rows or counted):
        how = "its rows alone" if composition.rows else "every point, in an order of its own"
        raise ConfigError([f"sweep.start_from={other}: this sweep tries {how}; leave it out"])
    if counted or composition.rows:
        return [], []
    found, notes = defaults(composition, n_trials)
    if isinstance(other, str) and (settings.get("rebuild") or _known(directory) != other):
        where, most = str(composition.config.output_dir), max(1, n_trials // SHARE)
        more, said = of_sweep(other, directory, where, composition.space, objectives, most)
        found, notes = found + more, [*notes, said]
    return found, notes


def _known(directory: Path) -> Any:
    """The `sweep.start_from` with which a sweep was started."""
    try:
        return OmegaConf.select(OmegaConf.load(directory / SWEEP_NAME), "start_from")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):  # none yet, or damaged
        return None


def defaults(composition: Composition, most: int) -> tuple[list[Proposal], list[str]]:
    """The values that the configuration itself has in what is searched; a proposal a loss.

    A loss's YAML has its paper's values. Of other groups it is the choice that would run without a
    sweep. What lies outside of its range is left to the sampler, with a note.

    Args:
        composition: of the sweep, which has no rows.
        most: so many proposals at most.
    """
    groups = [item for item in composition.space if item.is_group]
    own: dict[str, Value] = {}
    for item in groups:
        choice = composition.master.hydra.runtime.choices.get(item.key)
        if item.holds(choice):
            own[item.key] = choice
    losses = [value for item in groups if item.key == "loss" for value in item.probes()]
    starts = [{**own, "loss": loss} for loss in losses] or [own]
    found, outside = [], []
    for start in starts[:most]:
        chosen = {item.key: start[item.key] for item in groups if item.key in start}
        values, left = _values(composition, chosen)
        outside += left
        if params := {**chosen, **values}:
            found.append((params, DEFAULTS))
    if not outside:
        return found, []
    what = ", ".join(dict.fromkeys(outside))
    return found, [f"note: the first trial has the defaults, but the sampler's value of {what}"]


def _values(
    composition: Composition, chosen: Mapping[str, Value]
) -> tuple[dict[str, Value], list[str]]:
    """What the keys that are searched have beside these choices; and what of it lies outside."""
    config = composition.with_groups(tuple(chosen.items()))
    found: dict[str, Value] = {}
    outside = []
    for item in composition.space:
        wanted = item.only is None or chosen.get(item.only[0]) == item.only[1]
        if item.is_group or not wanted or not exists(config, item.config_key):
            continue
        try:
            content = OmegaConf.select(config, item.config_key)
        except OmegaConfBaseException:  # it refers to what only another choice has
            continue
        if values := _proposed(item, content):
            found[item.key] = values[0]
        else:
            text = "null" if content is None else content
            outside.append(f"{item.config_key} ({text} is outside of {item.expression})")
    return found, outside


def _proposed(item: Dimension, content: Any) -> list[Value]:
    """The value of a proposal that stands for what the configuration has, if one does."""
    if item.literals:
        plain = OmegaConf.to_container(content) if OmegaConf.is_config(content) else content
        stated = [(one, item.content(one)) for one in item.probes()]
        return [one for one, its in stated if type(its) is type(plain) and its == plain]
    return [content] if item.holds(content) else []
