"""The training split replaced by what was made of the teacher; made once per content and shared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kd_research.data.decode import read_meta
from kd_research.data.module import DataModule
from kd_research.data.sources import Split
from kd_research.data.store import (
    META_NAME,
    array_digest,
    build_once,
    content_key,
    create_array,
    open_array,
)
from kd_research.records.record import write_json
from kd_research.transfer.kept import Kept

Maker = Callable[[nn.Module, Sequence[int], int, int, Kept], tuple[Tensor, Tensor]]
VERSION = 1


def is_made(config: Mapping[str, Any]) -> bool:
    """Whether the student learns from a set that is made of its teacher."""
    return bool((config.get("transfer") or {}).get("_target_"))


def place_of(config: Mapping[str, Any]) -> Path:
    """The folder of all transfer sets."""
    return Path(config["output_dir"]) / "transfer"


class Taught(Protocol):
    """A frozen teacher: its module, and all that decides what it says."""

    @property
    def module(self) -> nn.Module:
        """In eval mode, without gradients."""
        ...

    @property
    def key(self) -> Any:
        """A JSON value."""
        ...


def without_examples(
    config: Mapping[str, Any],
    make: Maker,
    data: DataModule,
    teacher: Taught,
    device: torch.device,
) -> DataModule:
    """The same data module with the transfer set as its training split.

    Validation and test stay: the student is measured on them.

    Args:
        config: of the run; its `transfer` says how the set is made.
        make: what it says, instantiated and known to fit.
        data: whose examples' shape and classes the set has.
        teacher: what the set is made of.
        device: where it is made.

    Raises:
        ValueError: the teacher does not fit.
    """
    stated, shape, seed = config["transfer"], list(data.input_shape or ()), int(config["seed"])
    described = [VERSION, stated, teacher.key, shape, data.num_classes, seed]
    described.append(config["channels_last"])  # its rounding is another
    folder = place_of(config) / content_key(described)
    kept = Kept(folder.with_name(f"{folder.name}.parts"))

    def build(place: Path) -> None:
        inputs, labels = make(teacher.module.to(device), shape, data.num_classes, seed, kept)
        digests = {}
        for name, made in (("inputs", inputs.float().numpy()), ("labels", labels.numpy())):
            array = create_array(place / f"{name}.npy", made.shape, str(made.dtype))
            array[:] = made
            digests[name] = array_digest(array)
        splits = {"train": {"num": len(labels), **digests}}
        write_json(place / META_NAME, {"kind": "transfer", "splits": splits, "class_names": None})

    build_once(folder, build, "making the transfer set of the teacher")
    shutil.rmtree(kept.folder, ignore_errors=True)
    known = read_meta(folder)["splits"]["train"]
    if not isinstance(known, dict):  # of an earlier version
        known = {}
    inputs, labels = (
        torch.from_numpy(open_array(folder / f"{name}.npy", known.get(name)))
        for name in ("inputs", "labels")
    )
    scale, shift = data.normalisation
    raw = inputs.sub_(shift).div_(scale)  # as examples are before `prepare`; the file stays
    return data.with_train(Split(raw, labels), [described, data.fingerprint()])
