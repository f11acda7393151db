"""Activations by module path, of any model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd_research.interfaces import Inputs, Output


class Capture:
    """Calls a model and gives its logits with the activations of the named layers.

    Works by forward hooks, so the model may be anyone's. The activation is the layer's output;
    where that is a tuple, its first element. Hooks stay for the model's life: `close` takes them
    off.

    Args:
        model: inputs -> logits (B, C), or an object or mapping with `logits`.
        layers: module paths as in `model.named_modules()`; a negative number counts from the end
            of a Sequential or ModuleList, so `stages.-1` is the last stage of any depth.

    Raises:
        ValueError: a path does not exist; the message lists those that do.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] = ()):
        self.model = model
        known = dict(model.named_modules())
        paths = {name: layer_path(model, name) for name in layers}
        problems = [
            _unknown_layer(name, known) for name, path in paths.items() if path not in known
        ]
        if problems:
            raise ValueError("\n".join(problems))
        self._layers = tuple(layers)
        self._features: dict[str, Tensor] = {}
        self._handles = [
            known[path].register_forward_hook(self._keep(name)) for name, path in paths.items()
        ]

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"layer {name!r} gives a {type(value).__name__}, not a tensor; "
                    "choose a layer inside it, or the one before or after it"
                )
            self._features[name] = value

        return hook

    def __call__(self, inputs: Inputs) -> Output:
        """Run the model once.

        Args:
            inputs: (B, ...), or a dict of tensors, passed by keyword.
        """
        self._features = {}
        result = self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)
        logits = result if isinstance(result, Tensor) else result["logits"]
        features, self._features = self._features, {}
        unseen = [name for name in self._layers if name not in features]
        if unseen:
            raise ValueError(
                f"the model does not call its layer {unseen[0]!r} (a mere container of others?); "
                "choose a layer inside it"
            )
        return Output(logits, features)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def layer_path(model: nn.Module, name: str) -> str | None:
    """The path of a layer in `model.named_modules()`, negative numbers counted from the end."""
    module, path = model, []
    for part in name.split("."):
        children = dict(module.named_children())
        if part.startswith("-") and part[1:].isdigit() and 0 < int(part[1:]) <= len(children):
            part = list(children)[int(part)]
        if part not in children:
            return None
        module = children[part]
        path.append(part)
    return ".".join(path)


def _unknown_layer(name: str, known: dict[str, nn.Module]) -> str:
    names = [other for other in known if other]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no layer {name!r}; {hint}there are: {', '.join(names)}"
