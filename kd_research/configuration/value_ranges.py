"""Numbers outside the range that a class of ours states for them, found in its source.

A range is part of a parameter's type, as in `Annotated[float, "in [0, 1]"]` or one of the names
that `kd_research.interfaces` gives such types. Nothing is imported for it, as in `signatures.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from kd_research.configuration.signatures import READ, defined, parsed, source
from kd_research.configuration.values import is_number

INTERFACES = "kd_research.interfaces"
GENERATION = "kd_research.generation.settings.GenerationConfig"  # of a key `generation`
WITHIN = re.compile(r"in ([\[(])(\S+), (\S+)([\])])")
Parameter = tuple[str, ast.expr | None, ast.expr | None]  # its name, type and default
ANNOTATED = re.compile(r"Annotated\[(float|int), '([^']+)'\]")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class Range(NamedTuple):
    """What a number may be.

    Attributes:
        text: as it is stated: "> 0", ">= 1", "in [0, 1)".
        whole: whether it is a count.
        or_null: whether there may be none.
        default: what it is when nobody says; None where somebody has to.
    """

    text: str
    whole: bool = False
    or_null: bool = False
    default: Any = None

    def holds(self, value: Any) -> bool:
        """Whether this is such a number."""
        if value is None:
            return self.or_null
        if not is_number(value) or (self.whole and not isinstance(value, int)):
            return False
        if found := WITHIN.fullmatch(self.text):
            opens, low, high, closes = found[1], float(found[2]), float(found[3]), found[4]
            above = value > low if opens == "(" else value >= low
            return bool(above and (value < high if closes == ")" else value <= high))
        sign, least = self.text.split()
        return bool(value > float(least) if sign == ">" else value >= float(least))

    def example(self) -> Any:
        """A number that it may be."""
        if self.default is not None:
            return self.default
        return next(value for value in (1, 0, 0.5) if self.holds(value))

    def __str__(self) -> str:
        null = ", or null" if self.or_null else ""
        return f"{'a whole number ' if self.whole else ''}{self.text}{null}"


TOKENS = {"num_virtual_tokens": Range(">= 1", whole=True)}
OTHERS = {  # of packages, whose sources do not say it
    "peft.LoraConfig": {
        "r": Range(">= 1", whole=True),
        "lora_alpha": Range("> 0"),
        "lora_dropout": Range("in [0, 1)"),
    },
    "peft.PrefixTuningConfig": TOKENS,
    "peft.PromptTuningConfig": TOKENS,
}


def range_problems(stated: Any, resolved: Any) -> Iterator[str]:
    """The numbers of a configuration that are none that their class takes, a line each.

    A number that is another key's value is told by that key's name, which is what somebody typed.

    Args:
        stated: the configuration, its references not resolved.
        resolved: the same, resolved.
    """
    seen = set()
    for at, text, value, allowed in _limited(stated, resolved, ""):
        key = _typed(stated, at, text)
        if key not in seen and not allowed.holds(value):
            seen.add(key)
            yield f"{key} must be {allowed}, got {value!r}; try {key}={allowed.example()}"


def _typed(stated: Any, key: str, text: Any) -> str:
    """The key whose value this is, through all that only refers to it."""
    while isinstance(text, str) and (refers := REFERENCE.fullmatch(text)):
        key, text = refers[1], stated
        for part in key.split("."):
            text = text.get(part) if isinstance(text, Mapping) else None
    return key


def _limited(
    stated: Any, resolved: Any, at: str, kind: str = ""
) -> Iterator[tuple[str, Any, Any, Range]]:
    """The numbers that have a range: their keys, what stands there, their values, the ranges."""
    if isinstance(resolved, list):
        for index, each in enumerate(resolved):
            own = stated[index] if isinstance(stated, list) else None
            yield from _limited(own, each, f"{at}[{index}]")
    if not isinstance(resolved, Mapping):
        return
    known = ranges(str(resolved.get("_target_", kind)))
    for key, value in resolved.items():
        own = stated.get(key) if isinstance(stated, Mapping) else None
        name = f"{at}.{key}".lstrip(".")
        if isinstance(value, Mapping | list):
            yield from _limited(own, value, name, GENERATION if key == "generation" else "")
        elif key in known:
            yield name, own, value, known[key]


@cache
def ranges(target: str) -> dict[str, Range]:
    """Of the parameters of a class, or of the fields of a dataclass, those that have a range."""
    module, _, name = target.rpartition(".")
    if module.partition(".")[0] != READ[0]:
        return OTHERS.get(target, {})
    found = defined(module, name)
    while found:
        module, node = found
        if not isinstance(node, ast.ClassDef):
            return {}
        if node.decorator_list:
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            return _stated((ast.unparse(f.target), f.annotation, f.value) for f in fields)
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return _stated(_arguments(item.args))
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        found = defined(module, bases[0]) if bases else None
    return {}


def _arguments(arguments: ast.arguments) -> list[Parameter]:
    listed = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(listed) - len(arguments.defaults)) + [*arguments.defaults]
    pairs = [*zip(listed, defaults, strict=True)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [(each.arg, each.annotation, default) for each, default in pairs]


def _stated(pairs: Iterable[Parameter]) -> dict[str, Range]:
    found = {name: _range(kind, default) for name, kind, default in pairs if kind is not None}
    return {name: one for name, one in found.items() if one is not None}


def _range(kind: ast.expr, default: ast.expr | None) -> Range | None:
    """What an annotation says: one range, perhaps or None; nothing of other types."""
    options = [kind]
    while isinstance(options[0], ast.BinOp):
        options[:1] = [options[0].left, options[0].right]
    or_null = any(isinstance(one, ast.Constant) and one.value is None for one in options)
    texts = [ast.unparse(one) for one in options if not isinstance(one, ast.Constant)]
    if len(texts) != 1:
        return None
    found = ANNOTATED.fullmatch(_aliases().get(texts[0], texts[0]))
    if found is None:
        return None
    value = default.value if isinstance(default, ast.Constant) else None
    return Range(found[2], found[1] == "int", or_null, value)


@cache
def _aliases() -> dict[str, str]:
    """The types with a range that `kd_research.interfaces` names."""
    path = source(INTERFACES)
    assert path is not None
    return {
        ast.unparse(node.targets[0]): ast.unparse(node.value)
        for node in parsed(path).body
        if isinstance(node, ast.Assign)
    }
