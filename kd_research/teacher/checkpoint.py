"""Weights out of the files that people have, into a model of the same architecture.

A checkpoint is often a model's weights in a wrapping: a mapping that holds them beside an
optimizer (timm, Lightning, RepDistiller), names that begin with `module.` (DataParallel),
`_orig_mod.` (torch.compile) or `model.` (a LightningModule). The wrapping is taken off where what
is inside fits the model exactly. Nothing but tensors and plain values is ever read from a pickle.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_research.records.record import read_text, write_text

WEIGHTS_NAME = "weights.pt"
# What a folder is looked through for: a run's own, then what the Hub's models have.
FILE_NAMES = (WEIGHTS_NAME, "model.safetensors", "pytorch_model.bin")
# Where in a checkpoint the weights are, and what a wrapper puts before each name.
HOLDERS = ("state_dict", "model_state_dict", "model", "net", "student")
WRAPPERS = ("module", "model", "student", "net", "backbone")
COMPILED = "_orig_mod."
COUNTER = "num_batches_tracked"  # BatchNorm's, which old checkpoints lack and nothing here reads
# Plain values that research code puts beside the weights; rebuilding one runs none of its code.
HARMLESS = [
    argparse.Namespace,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")),
]


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights into `module`, if they are weights of this very architecture.

    Args:
        module: takes them.
        path: a file by torch.save, Lightning or safetensors, or a folder with one: a run's, a
            model's of the Hub.

    Raises:
        ValueError: no such file, not a checkpoint, one of another architecture, weights that
            are not finite (the message names the tensors), or not those that we saved there.
    """
    path = weights_file(path)
    _check_digest(path)
    state = _unwrapped(module, _state(_content(path), module, path), path)
    trained = {name for name, _ in module.named_parameters()}  # a buffer may be a mask of -inf
    bad = [n for n, t in state.items() if t.isnan().any() or (n in trained and t.isinf().any())]
    if bad:
        more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
        raise ValueError(
            f"checkpoint {path} holds weights that are not finite: {', '.join(bad[:4])}{more}; "
            "its training failed, give another checkpoint"
        )
    module.load_state_dict(state)


def save_weights(module: nn.Module, path: Path) -> None:
    """Save the state dict, to a temporary name first, and its digest beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    torch.save(module.state_dict(), temporary)
    digest = _digest(temporary)
    digest_path(path).unlink(missing_ok=True)  # never a new file beside an old digest
    temporary.replace(path)
    write_text(digest_path(path), f"{digest}  {path.name}\n")


def digest_path(path: Path) -> Path:
    """Where the SHA-256 of a file of weights is, in the form of `sha256sum --check`."""
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_digest(path: Path) -> None:
    """Compare a file with the digest beside it, where there is one: torch checks no content.

    Raises:
        ValueError: they differ.
    """
    if not path.is_file() or not digest_path(path).is_file():
        return
    words = read_text(digest_path(path)).split()
    if words[:1] != [_digest(path)]:
        raise ValueError(
            f"{path} is not as it was saved: its SHA-256 is not that of {digest_path(path).name}; "
            "it is damaged or was replaced. Bring the file back, or remove both to have a teacher "
            "trained anew (a run: python -m kd_research.trial DIR); if you replaced it on purpose, "
            "remove the digest alone"
        )


def weights_file(path: Path) -> Path:
    """The file of weights that a checkpoint's path names: itself, or in its folder."""
    if not path.is_dir():
        return path
    found = (path / name for name in FILE_NAMES if (path / name).exists())
    return next(found, path / WEIGHTS_NAME)


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch.load raises many types, from pickle's to zipfile's
        raise ValueError(
            f"{path} is not a checkpoint that can be loaded safely "
            f"({_foreign(path) or type(error).__name__}); expected tensors written by torch.save, "
            "Lightning or safetensors, or a run's folder"
        ) from None


def _foreign(path: Path) -> str | None:
    """The classes of which a pickle holds objects, where it is one."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip archive, not a pickle
        return None
    shown = ", ".join(sorted(names)[:3])
    return f"it holds objects of {shown}: where it was made, save model.state_dict()"


def _state(content: Any, module: nn.Module, path: Path) -> dict[str, Tensor]:
    """The names and tensors in what a file holds, without torch.compile's mark."""
    places = [content]
    if isinstance(content, Mapping):
        places = [content[name] for name in HOLDERS if name in content] + places
    for place in places:
        if isinstance(place, Mapping) and place and all(map(torch.is_tensor, place.values())):
            return {str(name).replace(COMPILED, ""): tensor for name, tensor in place.items()}
    held = f" (it has {', '.join(map(str, content))})" if isinstance(content, Mapping) else ""
    raise ValueError(
        f"{path} holds no state dict{held[:200]}; expected one of {type(module).__name__}, itself "
        f"or under {', '.join(HOLDERS)}"
    )


def _unwrapped(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights under the model's own names.

    Raises:
        ValueError: under no prefix do they fit.
    """
    expected = module.state_dict()
    state = _own_names(module, state)
    best: tuple[int, str, list[str]] | None = None
    for prefix in sorted(_prefixes(expected, state), key=len):
        given = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        given = {n: t for n, t in expected.items() if n.endswith(COUNTER)} | given
        problems = list(_misfits(expected, given))
        whole = len(state) == sum(name.startswith(prefix) for name in state)
        known = all(part in WRAPPERS for part in prefix.split(".")[:-1])
        if not problems and (whole or known):
            return given
        if best is None or len(problems) < best[0]:
            best = (len(problems), prefix, problems)
    assert best is not None
    count, prefix, problems = best
    more = f" and {count - 4} more" if count > 4 else ""
    without = f", its names taken without {prefix!r}," if prefix else ""
    if not problems:
        raise ValueError(
            f"checkpoint {path} holds more than {type(module).__name__}: only what begins with "
            f"{prefix!r} fits it; save that part alone, as in torch.save({prefix[:-1]}."
            "state_dict(), FILE)"
        )
    raise ValueError(
        f"checkpoint {path}{without} is of another architecture than {type(module).__name__}: "
        f"{'; '.join(problems[:4])}{more}. Give the model the settings that it was trained "
        "with, as in teacher.model.width=... or student.model.width=..., or another checkpoint"
    )


def _own_names(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights under the model's names, where they have the names of known public code.

    Those are in the model's `public_names`, (pattern, replacement) in order, if it has any. What is
    the model's under a prefix already stays, and so does what would not be its own then.
    """
    rules = getattr(module, "public_names", ())
    own = set(module.state_dict())
    if not rules or any(name in own for name in state):
        return state
    for prefix in ("", *(f"{wrapper}." for wrapper in WRAPPERS)):
        renamed = {}
        for name, tensor in state.items():
            name = name.removeprefix(prefix)
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            renamed[name] = tensor
        if renamed.keys() <= own:
            return renamed
    return state


def _prefixes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """What may stand before the model's own names; at least "", that nothing does."""
    found = {""}
    for name in list(expected)[:1] + list(expected)[-1:]:
        found |= {each[: -len(name)] for each in state if each.endswith(f".{name}")}
    return found


def _misfits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    yield from (f"it lacks {name}" for name in expected if name not in state)
    yield from (f"it has {name}, which the model has not" for name in state if name not in expected)
    for name, tensor in expected.items():
        if name in state and state[name].shape != tensor.shape:
            there = tuple(state[name].shape)
            yield f"{name} is {there} there and {tuple(tensor.shape)} in the model"
