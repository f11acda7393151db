"""The types that data, models, losses and the distillation step share.

Shapes: B batch, C classes. An example may have many labelled positions: T tokens, whose classes
are the V of the vocabulary, or H * W pixels.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, Protocol

from torch import Tensor, nn

Inputs = Tensor | dict[str, Tensor]

# Numbers with a range, which a configuration is held against before anything is imported; others
# are written out, as Annotated[float, "in (0, 1]"].
Positive = Annotated[float, "> 0"]
NotNegative = Annotated[float, ">= 0"]
Share = Annotated[float, "in [0, 1]"]
ShareBelow1 = Annotated[float, "in [0, 1)"]
Count = Annotated[int, ">= 1"]


class Batch(NamedTuple):
    """One batch of labelled examples.

    Attributes:
        inputs: (B, ...) images or vectors; a dict of (B, ...) tensors for tokenised text.
        labels: (B,) int64; under mixup or CutMix (B, C) float32, the mixed one-hot rows. Of many
            positions (B, T) or (B, H, W) int64: the label of each, for text already shifted (that
            of token t is token t + 1), and -100 where nothing is to be learnt.
        index: (B,) int64, the example's position in its split: for memory banks and for kept
            teacher outputs.
        valid: None; once the valid positions are selected, as every loss gets them (labels and
            index are (N,) then, index being example * positions + position), which they were: the
            labels' shape, bool. Losses on features, which stay whole, mask by it.
        drawn: whether a model wrote the text of this batch during the fit: its labels are the
            tokens that it drew, from which the labels' cross-entropy has nothing to learn.
    """

    inputs: Inputs
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple's own method, which nobody calls on a batch
    valid: Tensor | None = None
    drawn: bool = False


class Output(NamedTuple):
    """What a model says of one batch.

    Attributes:
        logits: (B, C), pre-softmax scores; of many positions (B, T, V), classes last, or for
            pictures (B, C, H, W), classes second as in torch's cross-entropy. Losses get those of
            the valid positions: (N, V).
        features: layer name -> activation (B, ...); only the layers that the loss names.
    """

    logits: Tensor
    features: dict[str, Tensor]


class DistillationLoss(Protocol):
    """What a distillation loss is: an `nn.Module` with this call.

    A loss may also define, each optional:

    * `student_layers`, `teacher_layers`: the module paths whose activations it wants;
    * `bind(student, teacher)`: called once with the two modules, before `build`, by losses that
      need weights or heads (a weight penalty, SRRL's teacher head). What is neither trained nor
      saved with the loss is kept outside the module tree, in a tuple;
    * `build(student, teacher)`: called once with the `Output`s for one example batch, before the
      optimizer is made, to make regressors, projectors and memory banks of the right sizes;
    * `num_examples`: set before `build` to the size of the training split, for memory banks;
    * `set_stage(name)`: called before each stage of `loss.stages`, and with None before the
      training itself, by losses that compute something else in it;
    * `set_epoch(epoch, max_epochs)`: called at the start of each epoch of a stage, counted from 0;
    * `needs_teacher = False`: the loss takes `teacher=None`;
    * `runs_teacher = True`: it runs the teacher itself, which then is live throughout;
    * `any_vocabulary = True`: the teacher may name other classes than the student;
    * `reads_texts = True`: a position's value depends on others, or on whole rows of logits.
    """

    def __call__(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The loss of this batch, (), its mean over the examples."""
        ...


def layers_of(loss: nn.Module, who: str) -> tuple[str, ...]:
    """The module paths that `loss` wants of `who`: "student" or "teacher"."""
    return tuple(getattr(loss, f"{who}_layers", ()))


def same_document(position_ids: Tensor) -> Tensor:
    """Who may look where, (B, 1, T, T): at what is no later, in the same packed document.

    Args:
        position_ids: (B, T), 0 where a document starts.
    """
    document = (position_ids == 0).cumsum(dim=1)
    same = document.unsqueeze(2) == document.unsqueeze(1)
    return same.tril().unsqueeze(1)


def some(inputs: Inputs, rows: Tensor) -> Inputs:
    """The examples at `rows`, (M,) int64, of a batch's inputs."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: value[rows] for name, value in inputs.items()}
