"""Groups of parameters with settings of their own, by path: `optimizer.groups` in YAML.

    groups:
      norms_and_biases: {vectors: true, weight_decay: 0}
      last_layer: {paths: [head.*], lr: 0.01}

A path is a parameter's name in the student, as `stages.0.norm1.weight`; the loss's own parameters
begin with `objective.`. A parameter goes to the first group that takes it; what none takes has the
optimizer's own settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from kd_research.configuration.schedule_checks import WHICH, group_problems

Groups = Mapping[str, Mapping[str, Any]]


def check_settings(groups: Groups, factory: Callable[..., Any]) -> None:
    """What can be known of the groups without any parameter.

    Args:
        groups: as they are stated.
        factory: makes the optimizer; of a class, or a partial of one.

    Raises:
        ValueError: a group is none, or sets what the optimizer has not; all problems at once.
    """
    taken = inspect.signature(getattr(factory, "func", factory)).parameters
    known = [name for name in taken if name != "defaults"]
    if problems := list(group_problems(groups, taken=known)):
        raise ValueError("\n".join(problems))


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], groups: Groups, some: bool = False
) -> list[dict[str, Any]]:
    """The groups as torch's optimizers take them; first the rest, which has no settings.

    Args:
        named: path, parameter.
        groups: name -> {paths: patterns, one of which fits; vectors: only norms and biases, which
            have one dimension at most; and the settings}.
        some: whether these are not all that ever train, so that a group may take nothing.

    Raises:
        ValueError: a group with paths takes nothing. Norms and biases there may be none, as beside
            an adapter.
    """
    taken: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    rest: list[nn.Parameter] = []
    paths: list[str] = []
    for path, parameter in named:
        paths.append(path)
        place = next((name for name, each in groups.items() if _takes(each, path, parameter)), None)
        (rest if place is None else taken[place]).append(parameter)
    empty = [name for name, own in taken.items() if not own and groups[name].get("paths")]
    if empty and not some:
        shown = ", ".join([*paths[:4], "..."] if len(paths) > 8 else paths)
        raise ValueError(
            "\n".join(
                f"optimizer.groups.{name} takes no parameter{_asked(groups[name])} that an earlier "
                f"group has left; there are: {shown}"
                for name in empty
            )
        )
    found: list[dict[str, Any]] = [
        {
            "params": taken[name],
            **{key: value for key, value in group.items() if key not in WHICH},
        }
        for name, group in groups.items()
        if taken[name]
    ]
    return [{"params": rest}, *found] if rest else found


def check_paths(groups: Groups, student: nn.Module) -> None:
    """What can be known of the groups of a student before there is a loss.

    Raises:
        ValueError: a group with paths takes nothing of the student, nor of the loss.
    """
    own = {
        name: group
        for name, group in groups.items()
        if not any(path.startswith(("objective", "*")) for path in group.get("paths", ()))
    }
    if own:
        parameter_groups(student.named_parameters(), own)


def _takes(group: Mapping[str, Any], path: str, parameter: nn.Parameter) -> bool:
    if group.get("vectors") and parameter.ndim > 1:
        return False
    return any(fnmatchcase(path, pattern) for pattern in group.get("paths", ["*"]))


def _asked(group: Mapping[str, Any]) -> str:
    paths: Sequence[str] = group.get("paths", ())
    return f" like {', '.join(paths)}" if paths else ""
