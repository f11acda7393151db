"""Checks of what the parts need of each other and of this machine, without importing any of them.

A model needs inputs of its kind, a loss layers and a teacher, a `_target_` an installed package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kd_research.configuration.own_classes import PACKAGE, classes, needs_teacher, states
from kd_research.configuration.values import is_number, is_whole

EXTRAS = {"timm": "timm", "transformers": "transformers", "kornia": "augment", "peft": "adapters"}
MLP = f"{PACKAGE}.models.mlp.MLP"
VIEW = frozenset({"channels", "crop", "size"})  # as models/view.py
TOKENIZER_KEYS = ("tokens", "vocab_size", "pretrained")  # of a data set of text
REMEMBERS = "remembers_examples = True"  # in a loss that keeps something of every example
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
            f"the loss's {', '.join(asking)} needs a teacher, got teacher=none; try teacher=cnn, "
            "or loss=ce for the student alone",
        )
    for text in _text_problems(loss, terms, whole["teacher"], bool(asking)):
        yield {"loss", "teacher"}, text
    for text in _tokenizer_problems(loss, terms, whole["teacher"], dataset):
        yield {"loss", "teacher", "dataset"}, text
    for text in teacher_loss_problems(whole["teacher"]):
        yield {"teacher"}, text
    for who in ("teacher", "student"):
        model = whole[who].get("model")
        for text in _view_problems(who, whole[who].get("view")):
            yield {who}, text
        if isinstance(model, Mapping):
            for text in _input_problems(who, model, dataset):
                yield {who, "dataset"}, text
            for text in _layer_problems(who, model, terms):
                yield {who, "loss"}, text
    for text in _augment_problems(dataset.get("augment") or {}):
        yield {"dataset"}, text


def _tokenizer_problems(
    loss: Mapping[str, Any],
    terms: Mapping[str, Mapping[str, Any]],
    teacher: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> Iterator[str]:
    """Of a teacher with a tokenizer of its own, what compares its tokens with the student's."""
    own = teacher.get("dataset") or {}
    named = {key: own[key] for key in TOKENIZER_KEYS if key in own and own[key] != dataset.get(key)}
    wrong = [name for name, term in terms.items() if _compares_tokens(term.get("loss") or {})]
    if not named or not teacher.get("model"):
        return
    told = ", ".join(f"{key}={value}" for key, value in named.items())
    text = loss.get("text") or {}
    if text and (text.get("beside") or not _is_drawn(text)):
        yield (
            f"teacher.dataset has another tokenizer ({told}), and loss.text has the teacher write "
            "in the student's tokens; type text@loss.text=student, or 'teacher.dataset={}'"
        )
    if wrong:
        yield (
            f"teacher.dataset has another tokenizer ({told}), and the loss's {', '.join(wrong)} "
            "compares token with token; type loss=uld, or 'teacher.dataset={}'"
        )


def _compares_tokens(loss: Mapping[str, Any]) -> bool:
    """Whether a loss of ours needs the teacher to name the student's classes."""
    return needs_teacher(loss) and not states(loss, "any_vocabulary = True")


def _is_drawn(text: Mapping[str, Any]) -> bool:
    """Whether the student draws this text during the fit."""
    return str(text.get("_target_", "")).endswith(".StudentText")


def _text_problems(
    loss: Mapping[str, Any],
    terms: Mapping[str, Mapping[str, Any]],
    teacher: Mapping[str, Any],
    is_told: bool,
) -> Iterator[str]:
    """Of `loss.text`, text that is drawn with a teacher, if not of its terms already."""
    if not loss.get("text"):
        return
    if not teacher.get("model") and not is_told:
        yield (
            "loss.text is drawn with a teacher, got teacher=none; try teacher=gpt, or loss=ce for "
            "the student alone"
        )
    wrong = [name for name, term in terms.items() if states(term.get("loss") or {}, REMEMBERS)]
    if wrong and _is_drawn(loss["text"]):
        yield (
            f"the loss's {', '.join(wrong)} remembers every training example, and text that the "
            "student draws is another each time; type ~loss.text, or +text@loss.text=teacher"
        )
    if teacher.get("assistants"):
        yield (
            "teacher.assistants are distilled on the data alone, got loss.text; type "
            "'teacher.assistants={}', or a loss without text"
        )


def teacher_loss_problems(teacher: Mapping[str, Any]) -> Iterator[str]:
    """What a teacher's own loss asks for, that a teacher has not: one that teaches it.

    Args:
        teacher: of the configuration, perhaps unresolved: a loss like that often does not resolve.
    """
    own = (teacher.get("loss") or {}).get("terms") or {}
    asking = [name for name, term in own.items() if needs_teacher(term.get("loss") or {})]
    if asking:
        yield (
            f"teacher.loss has {', '.join(asking)}, which needs a teacher of its own; type "
            "loss@teacher.loss=ce, label_smoothing or tf_kd"
        )


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
    elif isinstance(shape, list) and len(shape) == 1 and name != MLP:
        yield (
            f"{who}: this model is for images, dataset {dataset.get('name')} is a table of "
            f"{shape[0]} columns; try {who}=mlp"
        )


def _view_problems(who: str, view: Any) -> Iterator[str]:
    if view is not None and not (isinstance(view, Mapping) and set(view) <= VIEW):
        yield (
            f"{who}.view must be null or some of {', '.join(sorted(VIEW))}, got {view}; "
            f"try '{who}.view={{size: [7, 7]}}'"
        )


def _layer_problems(
    who: str, model: Mapping[str, Any], terms: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Of a multilayer perceptron, which has no stages: feature maps are compared elsewhere."""
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
