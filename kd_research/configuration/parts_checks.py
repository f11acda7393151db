"""Checks of what the parts need of each other and of this machine, without importing any of them.

A model needs inputs of its kind, a loss layers and a teacher, a `_target_` an installed package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kd_research.configuration.moment_checks import normalising_problems
from kd_research.configuration.own_classes import PACKAGE, classes, needs_teacher
from kd_research.configuration.stage_checks import stage_problems
from kd_research.configuration.text_checks import text_problems
from kd_research.configuration.values import is_number, is_whole
from kd_research.configuration.view_checks import unseen_problems, view_problems

EXTRAS = {"timm": "timm", "transformers": "transformers", "kornia": "augment", "peft": "adapters"}
MLP = f"{PACKAGE}.models.mlp.MLP"
TREE = f"{PACKAGE}.models.soft_tree.SoftTree"
TREE_LOSSES = f"{PACKAGE}.losses.soft_tree."  # what reads the leaves of a soft tree
TEXT_MODELS = "bag_of_embeddings, bilstm, text_transformer"


def parts_problems(whole: Mapping[str, Any]) -> Iterator[tuple[set[str], str]]:
    """What does not fit together, or is not installed: the parts that it is about, and a line.

    Args:
        whole: a configuration, resolved.
    """
    for key, text in _target_problems(whole):
        yield {key.split(".")[0]}, text
    loss, dataset = whole["loss"], whole["dataset"]
    stated = loss.get("terms") or {}
    terms = {name: term for name, term in stated.items() if isinstance(term, Mapping)}
    asking = [name for name, term in terms.items() if needs_teacher(term.get("loss") or {})]
    if asking and not whole["teacher"].get("model"):
        yield (
            {"loss", "teacher"},
            f"the loss's {', '.join(asking)} needs a teacher, got teacher=none; try "
            f"teacher={teacher_for(dataset)}, or loss=ce for the student alone",
        )
    for parts, text in text_problems(loss, terms, whole["teacher"], dataset):
        yield parts, text
    for text in stage_problems(whole):
        yield {"loss"}, text
    for text in (*teacher_loss_problems(whole["teacher"]), *chain_problems(whole["teacher"])):
        yield {"teacher"}, text
    for who in ("teacher", "student"):
        model = whole[who].get("model")
        for text in view_problems(who, whole[who].get("view"), dataset):
            yield {who, "dataset"}, text
        if isinstance(model, Mapping):
            for text in _input_problems(who, model, dataset):
                yield {who, "dataset"}, text
            for text in _layer_problems(who, model, terms):
                yield {who, "loss"}, text
    for text in (*_augment_problems(dataset.get("augment") or {}), *normalising_problems(whole)):
        yield {"dataset"}, text
    yield from _transfer_problems(whole)


def teacher_for(dataset: Mapping[str, Any]) -> str:
    """A teacher that reads such data, for a person to type.

    Args:
        dataset: of the configuration.
    """
    if "context" in dataset:
        return "gpt"
    if "vocab_size" in dataset:
        return "text_transformer"
    shape = dataset.get("input_shape")
    return "mlp" if isinstance(shape, Sequence) and len(shape) == 1 else "cnn"


def teacher_loss_problems(teacher: Mapping[str, Any]) -> Iterator[str]:
    """What a teacher's own loss asks for, that a teacher has not: one that teaches it.

    Args:
        teacher: of the configuration, perhaps unresolved: a loss like that often does not resolve.
    """
    stated = teacher.get("loss")
    if not isinstance(stated, Mapping):
        return
    for key in ("stages", "text"):
        if stated.get(key):
            yield (
                f"teacher.loss.{key} is not read: a teacher is trained in one go, on its data; "
                f"type '~teacher.loss.{key}'"
            )
    own = stated.get("terms") or {}
    asking = [name for name, term in own.items() if needs_teacher(term.get("loss") or {})]
    if asking:
        yield (
            f"teacher.loss has {', '.join(asking)}, which needs a teacher of its own; type "
            "loss@teacher.loss=ce, label_smoothing or tf_kd"
        )


def chain_problems(teacher: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the form of a teacher's members and assistants."""
    for name, each in (teacher.get("members") or {}).items():
        if not isinstance(each, Mapping):
            key = f"teacher.members.{name}"
            yield f"{key} must be what differs, got {each!r}; try '+{key}={{seed: 1}}'"
    for name, each in (teacher.get("assistants") or {}).items():
        if not (isinstance(each, Mapping) and "_target_" in each):
            key, choice = f"teacher.assistants.{name}", each if isinstance(each, str) else "cnn"
            yield f"{key} must be a model, got {each!r}; type +model@{key}={choice}"


def _input_problems(
    who: str, model: Mapping[str, Any], dataset: Mapping[str, Any]
) -> Iterator[str]:
    name, shape = str(model.get("_target_", "")), dataset.get("input_shape")
    if "input_shape" not in model or not name.startswith(f"{PACKAGE}.models."):
        return
    if shape is None and "vocab_size" in dataset:
        yield (
            f"{who}: this model is for images, dataset {dataset.get('name')} is text; "
            f"try {who}=bag_of_embeddings (models of text: {TEXT_MODELS})"
        )
    elif isinstance(shape, list) and len(shape) == 1 and name not in (MLP, TREE):
        yield (
            f"{who}: this model is for images, dataset {dataset.get('name')} is a table of "
            f"{shape[0]} columns; try {who}=mlp"
        )


def _layer_problems(
    who: str, model: Mapping[str, Any], terms: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Of a multilayer perceptron, which has no stages, and of what is no soft tree."""
    own = str(model.get("_target_", ""))
    of_trees = [
        name
        for name, term in terms.items()
        if str((term.get("loss") or {}).get("_target_", "")).startswith(TREE_LOSSES)
    ]
    if of_trees and who == "student" and own.startswith(f"{PACKAGE}.models.") and own != TREE:
        yield (
            f"the loss's {', '.join(of_trees)} reads the paths and leaves of a soft decision tree, "
            f"which the student {own.rpartition('.')[2]} has not; try student=soft_tree"
        )
    for name, term in terms.items():
        maps = maps_of(term, who)
        if maps and model.get("_target_") == MLP:
            yield (
                f"the loss's {name} compares the layers {', '.join(maps)} of a convolutional net, "
                f"which {who}=mlp has not; try {who}=cnn"
            )


def maps_of(term: Mapping[str, Any], who: str = "student") -> list[str]:
    """The layers with feature maps, `stages...`, that a term of a loss compares."""
    layers = (term.get("loss") or {}).get(f"{who}_layers") or ()
    return [str(layer) for layer in layers if str(layer).startswith("stages")]


def _augment_problems(augment: Mapping[str, Any]) -> Iterator[str]:
    rules = {
        "crop": ("a whole number of pixels >= 0", "4"),
        "cutout": ("a whole number of pixels >= 0", "4"),
        "mixup": ("a number >= 0", "0.2"),
        "cutmix": ("a number >= 0", "0.2"),
        "flip": ("true or false", "true"),
    }
    for name, (what, example) in rules.items():
        value = augment.get(name, 0 if name != "flip" else False)
        whole = is_whole(value) if name in ("crop", "cutout") else is_number(value)
        right = isinstance(value, bool) if name == "flip" else whole and value >= 0
        if not right:
            key = f"dataset.augment.{name}"
            yield f"{key} must be {what}, got {value!r}; try {key}={example}"


def _transfer_problems(whole: Mapping[str, Any]) -> Iterator[tuple[set[str], str]]:
    """What a transfer set cannot be made of, or for."""
    if not whole.get("transfer"):
        return
    if not whole["teacher"].get("model"):
        text = "a transfer set is made of the teacher, got teacher=none; type teacher=NAME"
        yield {"transfer", "teacher"}, f"{text}, or transfer=none"
    dataset = whole["dataset"]
    if dataset.get("input_shape") is None and "vocab_size" in dataset:
        text = f"a transfer set is made for images or tables, dataset {dataset.get('name')} is text"
        yield {"transfer", "dataset"}, f"{text}; type transfer=none"
    teacher, student = whole["teacher"].get("view"), whole["student"].get("view")
    for text in unseen_problems(teacher, student, dataset):
        yield {"teacher", "student", "dataset", "transfer"}, text


def _target_problems(whole: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every `_target_` whose package, module or name is not there: its key, and a line."""
    told = set()
    for key, target in _targets(whole):
        problem = _missing(target)
        if problem and problem not in told:
            told.add(problem)
            yield key, f"{key}={target}: {problem}"


def _targets(node: Any, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            place = f"{at}.{name}" if at else str(name)
            if name == "_target_" and isinstance(value, str):
                yield place, value
            elif place != "hydra":
                yield from _targets(value, place)
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield from _targets(value, f"{at}[{position}]")


@cache
def _missing(target: str) -> str | None:
    """Why the target cannot be imported, as far as files say; None where they do not."""
    top, *rest = target.split(".")
    if not rest or not top.isidentifier():
        return "it must be the full name of a class or function, as package.module.Name"
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        extra = EXTRAS.get(top)
        what = f"'kd_research[{extra}]'" if extra else f"{top}, or set PYTHONPATH to its folder"
        return f"{top} is not installed; type pip install {what}"
    if top != PACKAGE or not spec.submodule_search_locations:
        return None
    place = Path(next(iter(spec.submodule_search_locations)))
    for position, name in enumerate(rest):
        file = place / f"{name}.py"
        if (place / name).is_dir():
            place = place / name
        elif file.exists():
            names = classes(file)
            wanted = rest[position + 1] if len(rest) > position + 1 else ""
            return None if wanted in names else _unknown(wanted, names, file.stem)
        elif position < len(rest) - 1:
            modules = [path.stem for path in place.glob("[a-z]*.py")]
            return _unknown(name, modules, place.name)
    return None


def _unknown(name: str, names: list[str], where: str) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(names)[:12])}"
    return f"there is no {name!r} in {where}; {hint}"
