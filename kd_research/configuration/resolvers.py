"""What the YAML files compute: `${one_minus:...}`, `${import_from:}` and their like."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from kd_research.configuration import environment, trust
from kd_research.configuration.own_folders import conf_folders, import_from
from kd_research.records.record import CONFIG_NAME

ADAPTED = "kd_research.training.adapters.adapted"  # a model, as it is with its adapter
PACKAGE = Path(__file__).resolve().parents[1]
# Where conf/ and sweeps/ are: inside an installed package, beside it in a checkout.
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent


def register_resolvers() -> None:
    """Make what the YAML files compute known to OmegaConf."""
    environment.register()
    OmegaConf.register_new_resolver("import_from", _import_from, replace=True)
    OmegaConf.register_new_resolver("one_minus", lambda value: 1.0 - value, replace=True)
    OmegaConf.register_new_resolver("one_if", lambda value: float(value != 0), replace=True)
    OmegaConf.register_new_resolver("if_null", if_null, replace=True)
    OmegaConf.register_new_resolver("first_lines", first_lines, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("student_of", student_of, replace=True)
    OmegaConf.register_new_resolver("hub_weights", hub_weights, replace=True)


def _import_from() -> ListConfig:
    """OmegaConf resolves in place only a list of its own: `--cfg job --resolve`."""
    return OmegaConf.create(import_from())


def why_not(error: Exception) -> str:
    """In a line, why a configuration does not compose; what a resolver of ours said, as it is."""
    line = str(error).strip().splitlines()[0]
    _, _, inner = line.partition("raised while resolving interpolation: ")
    if inner and not inner.startswith('"'):  # as KeyError has it: a variable that is not set
        return inner
    line, key = inner.strip('"') or line, getattr(error, "full_key", None)
    return f"{key}: {line}" if key else line


def if_null(value: object, other: object) -> object:
    """`other` where the value is null, else null: what only the Hub has, where there is no root."""
    return other if value is None else None


def first_lines(group: str) -> str:
    """A configuration group, a line each choice: its name and the first comment of its file."""
    folders = [ROOT / "conf", *conf_folders()]
    paths = sorted(path for folder in folders for path in (folder / group).glob("*.yaml"))
    width = max(len(path.stem) for path in paths)
    comments = [
        path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in paths
    ]
    return "\n".join(
        f"  {path.stem:{width}}  {comment}" for path, comment in zip(paths, comments, strict=True)
    )


def run_folder(run: object, output_dir: str) -> str:
    """The folder of a run, given by its path, or by its name under the output folder.

    Raises:
        ValueError: there is none.
    """
    name = str(run)
    if run is None or not name.strip():
        raise ValueError(
            "teacher.run is empty, which would be the folder here; type teacher.run=RUN"
        )
    places = [Path(name), *(Path(output_dir, part, name) for part in ("", "runs", "sweeps"))]
    places = [Path(os.path.expanduser(place)) for place in places]
    for place in places:
        if (place / CONFIG_NAME).exists():
            return str(place.resolve())
    raise ValueError(
        f"teacher.run={run} is no run's folder; looked for {CONFIG_NAME} in "
        f"{', '.join(dict.fromkeys(map(str, places)))}"
    )


def student_of(folder: str, part: str = "model") -> DictConfig | None:
    """The configuration of the student's model, or view, in a run's folder.

    Raises:
        ValueError: it names code that is not known, and is not trusted.
    """
    path = Path(folder) / CONFIG_NAME
    config = OmegaConf.load(path)
    for key in (f"student.{part}", *(["student.adapter"] if part == "model" else [])):
        if line := trust.problem(path, ROOT / "conf", key):
            raise ValueError(line)
    found = OmegaConf.select(config, f"student.{part}")
    assert isinstance(found, DictConfig) or (found is None and part != "model")
    adapter = OmegaConf.select(config, "student.adapter", default=None)
    if part == "model" and adapter:
        return OmegaConf.create({"_target_": ADAPTED, "model": found, "adapter": adapter})
    return found


def hub_weights(name: str, file: str = "weights.pt") -> str:
    """Where a file of a Hugging Face Hub repository is on this machine, downloaded once.

    Raises:
        ValueError: it is neither here nor to be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return str(hf_hub_download(name, file))
    except Exception as error:  # the Hub's, the network's and the name's own types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"no {file} of {name} from the Hub: {reason}") from error
