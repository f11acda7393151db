"""Which columns of a set are the inputs and the label.

Refuses what does not fit with what was found and what to type. Imports `datasets` only when it is
called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd_research.data.hub import Source

LABEL_NAMES = ("label", "labels", "target", "class")


def find_columns(source: Source, features: Mapping[str, Any]) -> tuple[str, str, str]:
    """(input column, "image" or "text", label column).

    Raises:
        ValueError: they are not there or not the only ones of their kind.
    """
    labels = _labels(features)
    images = [name for name, kind in features.items() if is_image(kind)]
    texts = [name for name, kind in features.items() if is_text(kind) and name not in labels]
    texts = [name for name in texts if name in ("text", "sentence")] or texts
    column = _pick(source, features, "input", source.input_column, images or texts)
    label = find_label(source, features, column)
    if is_image(features[column]):
        return column, "image", label
    if is_text(features[column]):
        return column, "text", label
    raise ValueError(
        f"{source}: column {column!r} is {describe(features[column])}, neither images nor text; "
        f"there are {described(features)}; type dataset.input_column=NAME, or dataset=table for "
        "numbers and categories"
    )


def find_images(source: Source, features: Mapping[str, Any]) -> dict[str, int] | None:
    """The columns of several images an example, with their channels; None: there is one.

    Raises:
        ValueError: one is not there, or holds no images.
    """
    if source.input_columns is None:
        return None
    for name in source.input_columns:
        if name not in features or not is_image(features[name]):
            raise ValueError(
                f"{source}: no column {name!r} of images; there are {described(features)}; type "
                "'dataset.input_columns={COLUMN: CHANNELS, ...}' of columns of images"
            )
    return dict(source.input_columns)


def find_label(source: Source, features: Mapping[str, Any], column: str | None = None) -> str:
    """The label column, which is not the input's `column`.

    Raises:
        ValueError: it is not there, or one of several.
    """
    labels = [name for name in _labels(features) if name != column]
    return _pick(source, features, "label", source.label_column, labels)


def _labels(features: Mapping[str, Any]) -> list[str]:
    import datasets

    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    return labels or [name for name in features if name.lower() in LABEL_NAMES]


def _pick(
    source: Source,
    features: Mapping[str, Any],
    role: str,
    given: str | None,
    candidates: Sequence[str],
) -> str:
    if given is not None:
        if given in features:
            return given
        problem = f"no column {given!r}"
    elif len(candidates) == 1:
        return candidates[0]
    else:
        problem = f"{len(candidates)} columns could be the {role}" if candidates else f"no {role}"
    raise ValueError(
        f"{source}: {problem}; there are {described(features)}; type dataset.{role}_column=NAME"
    )


def is_image(kind: Any) -> bool:
    """Whether a column holds encoded images: by `datasets`, or as pandas writes them to Parquet."""
    import datasets

    if isinstance(kind, dict):  # {bytes, path}
        return "bytes" in kind and is_image(kind["bytes"])
    binary = isinstance(kind, datasets.Value) and kind.dtype in ("binary", "large_binary")
    return binary or isinstance(kind, datasets.Image)


def is_text(kind: Any) -> bool:
    """Whether a column holds strings."""
    import datasets

    return isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string")


def is_numeric(kind: Any) -> bool:
    """Whether a column holds numbers or truth values."""
    import datasets

    return isinstance(kind, datasets.Value) and kind.dtype.startswith(
        ("int", "uint", "float", "bool")
    )


def described(features: Mapping[str, Any]) -> str:
    """All columns with their kinds, for a message."""
    return ", ".join(f"{name} ({describe(kind)})" for name, kind in features.items())


def describe(kind: Any) -> str:
    """A column's kind, for a message."""
    return str(getattr(kind, "dtype", None) or type(kind).__name__)
