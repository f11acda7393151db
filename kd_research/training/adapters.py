"""What trains beside a model that stays as it is: LoRA, soft prompts, prefixes; or nothing at all.

`student.adapter` is a configuration of PEFT (Mangrulkar et al. 2022), or `FewShot`. The layers of
LoRA and its kind are put into the model by PEFT and leave the paths of its layers as they are. Of
prompt and prefix tuning PEFT's parameters are used; how they come before the text is
`models/prompted.py`, so that they serve any model of text.

Shapes: n positions before the text, W width, L layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.data.module import DataModule
from kd_research.generation.decode import context_of, evaluating
from kd_research.interfaces import Count, Inputs
from kd_research.losses.positions import IGNORED
from kd_research.models.capture import Capture
from kd_research.models.headless import head_of
from kd_research.models.prompted import prompted_class
from kd_research.training.soft_prompts import soft_prompt

ALL_LINEAR = "all-linear"  # PEFT's word: every linear layer but the head
HEADS = ("head", "classifier", "score", "fc")  # of classifiers, ours and Hugging Face's
NAMES = "lora, prompt_tuning, prefix_tuning, few_shot"


@dataclass(frozen=True)
class FewShot:
    """Examples of the training part before each text, and no training (Brown et al. 2020).

    arXiv:2005.14165, section 2: in-context learning.

    Attributes:
        examples: how many, drawn by the run's seed.

    Raises:
        ValueError: it is no whole number >= 1.
    """

    examples: Count

    def __post_init__(self) -> None:
        if not isinstance(self.examples, int) or self.examples < 1:
            raise ValueError(
                f"student.adapter.examples must be a whole number >= 1, got {self.examples!r}; "
                "try student.adapter.examples=4"
            )


def adapt(
    model: nn.Module, adapter: Any, inputs: Inputs | None, draw: Callable[[int], Sequence[Tensor]]
) -> nn.Module:
    """The model with its adapter, whose parameters alone take gradients.

    Args:
        model: changed in place, or wrapped.
        adapter: a `PeftConfig`, or `FewShot`.
        inputs: a prepared batch, which it must be able to read; None asks nothing of it.
        draw: gives so many documents of the training part, each (M,) int64.

    Raises:
        ValueError: the adapter is none, does not go with the model, or has no effect on it.
    """
    if isinstance(adapter, FewShot):
        _refuse_packed(inputs)
        tokens = torch.cat([*draw(adapter.examples)])
        if (room := _room(model, inputs)) is not None and len(tokens) > room:
            fewer = range(adapter.examples - 1, 0, -1)
            fits = (num for num in fewer if len(torch.cat([*draw(num)])) <= room)
            what, try_ = f"{adapter.examples} examples", [f"examples={num}" for num in fits][:1]
            raise ValueError(_no_room(model, room, len(tokens), what, try_))
        adapted: nn.Module = prompted_class(model)(model.requires_grad_(False), tokens)
    elif not hasattr(adapter, "peft_type"):
        raise ValueError(
            f"student.adapter is a {type(adapter).__name__}, which is no adapter; "
            f"try adapter@student.adapter=lora (there are {NAMES}), or another of PEFT's configs"
        )
    elif not adapter.is_prompt_learning:
        adapted = _injected(model, adapter)
    else:
        _refuse_packed(inputs)
        num = adapter.num_virtual_tokens
        if (room := _room(model, inputs)) is not None and num > room:
            try_ = [f"num_virtual_tokens={room}"] if room > 0 else []
            raise ValueError(_no_room(model, room, num, "of the adapter", try_))
        adapted = soft_prompt(model, adapter)
    if inputs is not None and not isinstance(adapter, FewShot):
        _train_head(model, adapted, inputs)
        _refuse_without_effect(adapted, inputs)
    return adapted


def adapted(model: nn.Module, adapter: Any) -> nn.Module:
    """A student with an adapter, built again: what `teacher=run` makes of a run that had one.

    Raises:
        ValueError: its examples stand in no configuration.
    """
    if isinstance(adapter, FewShot):
        raise ValueError(
            "a student of few-shot prompting is no teacher by its folder: give the teacher the "
            "model, as teacher=gpt teacher.checkpoint=FILE"
        )
    return adapt(model, adapter, None, lambda num: ())


def documents(data: DataModule, num: int, seed: int) -> list[Tensor]:
    """So many documents of the training part, each (M,) int64, drawn by the seed.

    Args:
        data: with a document a window, and the labels of its tokens.
        num: how many.
        seed: of the draw.

    Raises:
        ValueError: the data have no such documents.
    """
    if data.train.labels.ndim != 2:
        raise ValueError(
            "few-shot prompting puts examples with answers before the text, and the labels of "
            f"{data.name} are no text; type dataset=instructions, whose completions are answers"
        )
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(len(data.train), generator=generator)[:num]
    taken = data.train.take(places)
    assert isinstance(taken.inputs, dict)
    found = []
    for row, labels in zip(taken.inputs["input_ids"], taken.labels, strict=True):
        last = int((labels != IGNORED).nonzero()[-1])  # whose label is the document's last token
        found.append(torch.cat([row[: last + 1], labels[last : last + 1]]))
    return found


def trained_parameters(model: nn.Module) -> int:
    """How many parameters take gradients; shared ones once."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def _injected(model: nn.Module, config: Any) -> nn.Module:
    """PEFT's layers put into the model, whose other parameters are frozen."""
    from peft import inject_adapter_in_model

    linear = _linear_layers(model)
    wanted = config.target_modules
    if wanted is None or wanted == ALL_LINEAR:
        config.target_modules = set(linear)
    else:
        names = [wanted] if isinstance(wanted, str) else sorted(wanted)
        known = [name for name, _ in model.named_modules() if name]
        missing = [
            name
            for name in names
            if not any(path == name or path.endswith(f".{name}") for path in known)
        ]
        if missing and not isinstance(wanted, str):  # a single text is a regular expression
            ends = sorted({path.rpartition(".")[2] for path in linear})
            raise ValueError(
                f"student.adapter.target_modules names {', '.join(missing)}, which "
                f"{type(model).__name__} has not; its linear layers end in {', '.join(ends)}; "
                f"type student.adapter.target_modules=[{ends[0]}], or {ALL_LINEAR}"
            )
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # its fused path reads the weights past the adapter
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: nn.Module = inject_adapter_in_model(config, model)
    except (ValueError, TypeError) as error:
        raise ValueError(f"student.adapter: {str(error).splitlines()[0]}") from error
    return found


def _linear_layers(model: nn.Module) -> list[str]:
    """The paths of the layers that LoRA can take, but for the head.

    Attention of torch's own reads the weight of its last layer, and never calls the layer.
    """
    head, inside = head_of(model), set()
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inside.add(f"{path}.out_proj")
    kinds = ("Linear", "Conv1D")  # GPT-2's is Hugging Face's own
    return [
        path
        for path, module in model.named_modules()
        if type(module).__name__ in kinds and module is not head and path not in inside
    ]


def _refuse_packed(inputs: Inputs | None) -> None:
    if isinstance(inputs, dict) and "position_ids" in inputs:
        raise ValueError(
            "what comes before a text comes before the first of a window alone, and these windows "
            "hold several; type dataset.pack=false"
        )


def _room(model: nn.Module, inputs: Inputs | None) -> int | None:
    """How many positions more than the text's the model sees; None where it names no limit."""
    context = context_of(model)
    if context is None or not isinstance(inputs, dict) or "input_ids" not in inputs:
        return None
    return context - inputs["input_ids"].shape[1]


def _no_room(model: nn.Module, room: int, num: int, what: str, instead: Sequence[str]) -> str:
    """Said of positions that are too many.

    Args:
        model: sees so many positions.
        room: those that the text leaves.
        num: those that come before the text.
        what: they are.
        instead: keys of the adapter, with values that fit.
    """
    context = context_of(model)
    assert context is not None
    keys = [f"student.adapter.{each}" for each in instead]
    own = " student.model.context=" if hasattr(model, "context") else ""  # follows the data's
    if num < context:
        keys.append(f"dataset.context={context - num}" + (f"{own}{context}" if own else ""))
    if own:
        longer = context - room + num
        keys.append(f"{own.strip()}{longer} for weights with so many positions, or new ones")
    advice = ", or ".join(keys) or "another adapter"
    return (
        f"{num} positions ({what}) and {context - room} of the text are more than the model's "
        f"context of {context}; type {advice}"
    )


@torch.no_grad()
def _train_head(model: nn.Module, adapted: nn.Module, inputs: Inputs) -> None:
    """Let the head of a classifier (B, C) train along, as PEFT does: it is as new."""
    with evaluating(adapted):
        logits = Capture(adapted)(inputs).logits
    if logits.ndim != 2:
        return
    for name in HEADS:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            head.requires_grad_(True)


def _refuse_without_effect(model: nn.Module, inputs: Inputs) -> None:
    """Tell parameters that no gradient reaches: their layer is there, but nobody calls it."""
    with torch.enable_grad(), evaluating(model):
        Capture(model)(inputs).logits.float().square().sum().backward()  # type: ignore[no-untyped-call]
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    unreached = [name for name, each in named if each.grad is None]
    model.zero_grad(set_to_none=True)
    if unreached:
        raise ValueError(
            f"student.adapter: {unreached[0]} has no effect, since {type(model).__name__} does not "
            "call that layer; leave it out of student.adapter.target_modules"
        )
