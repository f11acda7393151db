"""A folder of plain runs: what each is, in the words in which it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Of every run; the keys are the configuration's where it has them.
ALWAYS = ("loss", "student", "loss.temperature", "loss.lambda", "seed")
PARTS = ("dataset", "teacher", "optimizer", "scheduler", "sampler")
# How and where it ran, and what follows from the other keys.
INTERNAL = (
    "seed",
    "output_dir",
    "overrides",
    "import_from",
    "tracking.",
    "sweep.",
    "sampler.",
    "hydra.",
    "pool.",
    "soft_targets.",
    "efficiency.",
    "text_evaluation.",
    "num_threads",
    "channels_last",
    "loss.search",
    "loss.terms",
    "student.model.input_shape",
    "student.model.num_classes",
    "student.model.vocab_size",
)
NAMES = ("model_name", "pretrained_model_name_or_path", "name")  # of factories


def described(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings of each run: ALWAYS, then what else differs between them.

    Where two runs differ in a whole part, as the optimizer, its name stands for its keys.

    Args:
        configs: of the runs; {} where there is no record to read one from.
    """
    parts = [{name: part_name(config.get(name)) for name in PARTS} for config in configs]
    read = [k for k, config in enumerate(configs) if config]
    other = [name for name in PARTS if len({parts[k][name] for k in read}) > 1]
    flats = [flat(config) for config in configs]
    names = dict.fromkeys(name for config in flats for name in config)
    hidden = (*INTERNAL, *(f"{name}." for name in other))
    varied = [
        name
        for name in names
        if name not in ALWAYS
        and not name.startswith(hidden)
        and not name.rpartition(".")[2].startswith("_")
        and len({repr(flats[k][name]) for k in read if name in flats[k]}) > 1
    ]
    if not _has_own_weight([flats[k] for k in read]):
        varied = [name for name in varied if name != "loss.ce_weight"]
    found = []
    for config, plain, own in zip(configs, flats, parts, strict=True):
        known: dict[str, Any] = {
            "loss": loss_name(config),
            "student": part_name(config.get("student")),
        }
        known |= {name: plain.get(name) for name in ALWAYS[2:]}
        known |= {name: own[name] for name in other}
        known |= {name: plain[name] for name in varied if name in plain}
        found.append({name: _text(value) for name, value in known.items() if value is not None})
    return found


def _text(value: Any) -> Any:
    """A list or mapping as text, which a table can hold."""
    return value if isinstance(value, str | int | float) else str(value)


def _has_own_weight(flats: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the labels' weight was set, and does not merely follow from loss.lambda."""
    seen: dict[Any, Any] = {}
    return any(
        seen.setdefault(config.get("loss.lambda"), config.get("loss.ce_weight"))
        != config.get("loss.ce_weight")
        for config in flats
    )


def loss_name(config: Mapping[str, Any]) -> str | None:
    """The names of a loss's terms; ce, of the labels alone, where it has none."""
    terms = (config.get("loss") or {}).get("terms")
    return None if terms is None else "+".join(terms) or "ce"


def part_name(part: Any) -> str | None:
    """What a part of a configuration is called: its own name, its model's, or its class's."""
    if not isinstance(part, Mapping):
        return None
    if isinstance(part.get("model"), Mapping):
        part = part["model"]
    elif "model" in part:
        return "none" if part["model"] is None else str(part["model"])
    own = next((part[name] for name in NAMES if isinstance(part.get(name), str)), None)
    target = str(part.get("_target_") or "").rpartition(".")[2]
    return own or target or None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
