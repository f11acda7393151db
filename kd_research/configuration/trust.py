"""What the configuration of a folder may name without being trusted: code that is known.

A configuration names the code that it runs (`_target_`), and so a folder from somebody else can run
anything. By hand (`kd_research.trial DIR`, export, remeasure, `teacher.run=DIR`) only what the
package's own YAML files name is run, and classes of models, losses, optimizers and their like;
`--trust` lifts that. Who types a configuration trusts what it names: runs and sweeps ask nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FLAG = "--trust"
# Classes alone, by the module that has them: torch.load, torch.hub.load and their like run code.
KNOWN = re.compile(
    r"kd_research\.(models|losses|training)\.\w+\.[A-Z]\w*"
    r"|torch\.(nn|optim|optim\.lr_scheduler)\.[A-Z]\w*"
    r"|lightning\.pytorch\.(callbacks|strategies|profilers)\.[A-Z]\w*"
    r"|optuna\.(samplers|pruners)\.[A-Z]\w*"
    r"|transformers\.[A-Z]\w*(\.from_(pretrained|config))?"
    r"|timm\.create_model"
    r"|peft\.([A-Z]\w*|get_peft_model)"
    r"|kd_research\.training\.adapters\.adapted"
)
_given: list[bool] = []  # whether the command line had the flag


def give() -> None:
    """Trust what this command reads."""
    _given.append(True)


def take_flag(arguments: list[str]) -> list[str]:
    """The arguments without the flag, which is noted where they have it."""
    if FLAG in arguments:
        give()
    return [each for each in arguments if each != FLAG]


@cache
def _shipped(conf: Path) -> frozenset[str]:
    """What the package's own YAML files name."""
    found: set[str] = set()
    for path in conf.rglob("*.yaml"):
        found |= set(re.findall(r"_target_: *([\w.]+)", path.read_text(encoding="utf-8")))
    return frozenset(found)


def foreign(node: Any, conf: Path, key: str = "") -> Iterator[str]:
    """What of a configuration only a trusted one may hold, a line each.

    Args:
        node: plain containers, unresolved.
        conf: the folder of the package's own YAML files, whose targets are known.
        key: of the node.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            at = f"{key}.{name}" if key else str(name)
            if (
                name == "_target_"
                and value is not None  # a part that is left out
                and not _is_known(str(value), conf)
                or name == "trust_remote_code"
                and value not in (False, None)
            ):
                yield f"{at}: {value}"
            else:
                yield from foreign(value, conf, at)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from foreign(value, conf, f"{key}.{index}")
    elif isinstance(node, str) and "${" in node:
        yield f"{key}: {node}"  # reads the environment, or a file


def _is_known(target: str, conf: Path) -> bool:
    return target in _shipped(conf) or KNOWN.fullmatch(target) is not None


def problem(path: Path, conf: Path, part: str | None = None) -> str | None:
    """Why a folder's configuration is not run unless it is trusted; None: it may be.

    Args:
        path: of its config.yaml; one that is not there, or no YAML, is somebody else's to tell.
        conf: the folder of the package's own YAML files.
        part: the key of the part that is read; None: all of it.
    """
    if _given:
        return None
    try:
        config = OmegaConf.load(path)
        node = OmegaConf.select(config, part) if part else config
        plain = OmegaConf.to_container(node, resolve=False)
    except Exception:  # YAML's own types, OmegaConf's, the system's
        return None
    found = list(foreign(plain, conf))
    if not found:
        return None
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (
        f"{path} names what this package does not know, and would run or read it: "
        f"{'; '.join(found[:5])}{more}. If you trust where the folder comes from, type the same "
        f"command with {FLAG}"
    )
