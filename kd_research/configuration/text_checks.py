"""Checks of the text that a loss draws to train on, `loss.text`, and of a teacher's own tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kd_research.configuration.own_classes import PACKAGE, needs_teacher, states
from kd_research.configuration.values import is_count

TOKENIZER_KEYS = ("tokens", "vocab_size", "pretrained")  # of a data set of text
REMEMBERS = "remembers_examples = True"  # in a loss that keeps something of every example
CLASSIFIED = f"{PACKAGE}.data.build.text"  # text with a class each
ALONE = "needs_teacher = False"  # in a loss that asks no teacher
OF_THE_STUDENT = "loss=uld +text@loss.text=student"  # text that any teacher can judge
NO_JUDGE = (
    "loss.text is drawn by the student and has no labels: it needs a term with a teacher, and this "
    "loss has none; type {instead}, or a loss without text"
)


def text_problems(
    loss: Mapping[str, Any],
    terms: Mapping[str, Mapping[str, Any]],
    teacher: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> Iterator[tuple[set[str], str]]:
    """What does not go with the text that a loss draws: the parts that it is about, and a line.

    Args:
        loss: of the configuration, resolved, as all of these.
        terms: those of its terms that are stated in full.
        teacher: perhaps without a model.
        dataset: of the student.
    """
    losses = {name: term.get("loss") or {} for name, term in terms.items()}
    own = teacher.get("dataset") or {}
    named = {key: own[key] for key in TOKENIZER_KEYS if key in own and own[key] != dataset.get(key)}
    if not teacher.get("model"):
        named = {}
    if text := loss.get("text"):
        for line in _drawn_problems(text, losses, teacher, bool(named)):
            yield {"loss", "teacher"}, line
        for line in _window_problems(text, dataset):
            yield {"loss", "dataset"}, line
    for line in _tokenizer_problems(text or {}, losses, named):
        yield {"loss", "teacher", "dataset"}, line


def lengths(prompt_tokens: int | None, max_new_tokens: int | None, context: int) -> tuple[int, int]:
    """The most tokens of a prompt and of what is written after it.

    Args:
        prompt_tokens: None is half a window.
        max_new_tokens: None is what the window leaves.
        context: T, the tokens of a window.

    Raises:
        ValueError: together they are longer than a window and the token after it.
    """
    half = max(1, context // 2)
    prompt = prompt_tokens or half
    new = max_new_tokens or max(1, context + 1 - prompt)
    if prompt + new <= context + 1:
        return prompt, new
    tried = [] if prompt <= context else [f"loss.text.prompt_tokens={half}"]
    room = context + 1 - (half if tried else prompt)
    if max_new_tokens and max_new_tokens > room:
        tried.append(f"loss.text.max_new_tokens={room}")
    raise ValueError(
        f"loss.text.prompt_tokens={prompt} and max_new_tokens={new} are more than a window of "
        f"{context} tokens and the one after it; try {' '.join(tried)}, or a larger dataset.context"
    )


def _drawn_problems(
    text: Mapping[str, Any],
    losses: Mapping[str, Mapping[str, Any]],
    teacher: Mapping[str, Any],
    other_tokens: bool,
) -> Iterator[str]:
    """Of who draws it, and who judges it."""
    drawn = _is_drawn(text)
    if drawn and all(states(each, ALONE) for each in losses.values()):
        instead = OF_THE_STUDENT if other_tokens else "loss=gkd"
        yield NO_JUDGE.format(instead=instead)
    elif not teacher.get("model") and not any(map(needs_teacher, losses.values())):
        yield (
            "loss.text is drawn with a teacher, got teacher=none; try teacher=gpt, or loss=ce for "
            "the student alone"
        )
    wrong = [name for name, each in losses.items() if states(each, REMEMBERS)]
    if wrong and drawn:
        yield (
            f"the loss's {', '.join(wrong)} remembers every training example, and text that the "
            "student draws is another each time; type ~loss.text, or +text@loss.text=teacher"
        )
    if teacher.get("assistants"):
        yield (
            "teacher.assistants are distilled on the data alone, got loss.text; type "
            "'teacher.assistants={}', or a loss without text"
        )


def _window_problems(text: Mapping[str, Any], dataset: Mapping[str, Any]) -> Iterator[str]:
    """Of the data that it begins with; of a data set of one's own nothing is known."""
    context: Any = dataset.get("context")
    if "context" not in dataset:
        if dataset.get("input_shape") or dataset.get("_target_") == CLASSIFIED:
            yield (
                f"loss.text draws text, and dataset {dataset.get('name')} has no windows of it; "
                "type dataset=tinyshakespeare student=gpt teacher=gpt, or another loss"
            )
        return
    asked: Any = (text.get("prompt_tokens"), text.get("max_new_tokens"))
    none = _is_drawn(text) and not text.get("share") and not text.get("replay")
    if none or not is_count(context) or not all(x is None or is_count(x) for x in asked):
        return
    try:
        lengths(asked[0], asked[1], context)
    except ValueError as error:
        yield str(error)


def _tokenizer_problems(
    text: Mapping[str, Any], losses: Mapping[str, Mapping[str, Any]], named: Mapping[str, Any]
) -> Iterator[str]:
    """Of a teacher with a tokenizer of its own, what compares its tokens with the student's.

    Args:
        text: that the loss draws, if any.
        losses: of its terms.
        named: what of the teacher's tokenizer is another.
    """
    if not named:
        return
    told = ", ".join(f"{key}={value}" for key, value in named.items())
    if text and (text.get("beside") or not _is_drawn(text)):
        yield (
            f"teacher.dataset has another tokenizer ({told}), and loss.text has the teacher write "
            f"in the student's tokens; type {OF_THE_STUDENT}, or 'teacher.dataset={{}}'"
        )
    if wrong := [name for name, each in losses.items() if _compares_tokens(each)]:
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
