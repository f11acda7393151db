"""Values that are none that a class of ours takes, found in its source: of its parameters' types.

A range is part of a type, as in `Annotated[float, "in [0, 1]"]` or one of the names that
`kd_research.interfaces` gives such types. A number may also be any, and a value a truth value or a
list, as `Sequence[float]`; of other types nothing is said. Nothing is imported for it, as in
`signatures.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from kd_research.configuration.signatures import READ, defined, parsed, source
from kd_research.configuration.values import is_number, is_whole

INTERFACES = "kd_research.interfaces"
GENERATION = "kd_research.generation.settings.GenerationConfig"  # of a key `generation`
WITHIN = re.compile(r"in ([\[(])(\S+), (\S+)([\])])")
Parameter = tuple[str, ast.expr | None, ast.expr | None]  # its name, type and default
ANNOTATED = re.compile(r"Annotated\[(float|int), '([^']+)'\]")
LIST = re.compile(r"Sequence\[(.+)\]")
EMPTY = "tuple[()]"  # as a type: the list may have nothing in it
REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")


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

    def example(self, value: Any = None) -> Any:
        """A number that it may be, whatever was given."""
        if self.default is not None:
            return self.default
        return next(value for value in (1, 0, 0.5) if self.holds(value))

    def __str__(self) -> str:
        null = ", or null" if self.or_null else ""
        return f"{'a whole number ' if self.whole else ''}{self.text}{null}"


class Kind(NamedTuple):
    """What a value may be that has no range: one of some types.

    Attributes:
        types: as annotations have them: "float", "Sequence[str]", "> 0", "None".
    """

    types: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        """Whether this is such a value."""
        return any(_is_of(value, each) for each in self.types)

    def example(self, value: Any) -> Any:
        """What may have been meant: a list of that one; else any such value."""
        for each in self.types:
            wanted = LISTS.get(each, ("", ""))[0]
            is_one = wanted == "str" and not isinstance(value, Mapping | list)
            if wanted and (is_one or _is_of(value, wanted)):
                return f"[{value}]"
        return next(EXAMPLES[each] for each in self.types if each in EXAMPLES)

    def __str__(self) -> str:
        return ", or ".join(NAMES.get(each, LISTS.get(each, ("", ""))[1]) for each in self.types)


class Numbers(NamedTuple):
    """What a list of numbers may be.

    Attributes:
        each: what each of them may be.
        or_empty: whether there may be none, which the annotation says as `| tuple[()]`.
    """

    each: Range
    or_empty: bool = False

    def holds(self, value: Any) -> bool:
        """Whether this is such a list."""
        is_long_enough = isinstance(value, list | tuple) and (bool(value) or self.or_empty)
        return is_long_enough and all(map(self.each.holds, value))

    def example(self, value: Any) -> str:
        """A list of those that may stay; of any such number where there are none."""
        given = value if isinstance(value, list | tuple) else [value]
        stay = [one for one in given if self.each.holds(one)] or [self.each.example()]
        return f"[{','.join(map(str, stay))}]"  # a shell takes it for one word

    def __str__(self) -> str:
        empty = ", or []" if self.or_empty else ""
        return f"a list of {'whole ' if self.each.whole else ''}numbers {self.each.text}{empty}"


Allowed = Range | Kind | Numbers
# A type, as an annotation has it: of what it is a list, and how that is called.
LISTS = {
    "Sequence[str]": ("str", "a list of names"),
    "Sequence[float]": ("float", "a list of numbers"),
    "Sequence[int]": ("int", "a list of whole numbers"),
}
NAMES = {"float": "a number", "int": "a whole number", "bool": "true or false", "None": "null"}
NAMES |= {"str": "a text"}
EXAMPLES = {"float": "1", "int": "1", "bool": "true", "Sequence[float]": "[1]"}
EXAMPLES |= {"Sequence[int]": "[1]", "Sequence[str]": "[NAME]", "None": "null"}


def _is_of(value: Any, kind: str) -> bool:
    if kind in LISTS:
        own = LISTS[kind][0]
        return isinstance(value, list | tuple) and all(_is_of(each, own) for each in value)
    if kind == "None":
        return value is None
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool)
    return is_whole(value) if kind == "int" else is_number(value)


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
    """The values of a configuration that are none that their class takes, a line each.

    A value that is another key's value is told by that key's name, which is what somebody typed.

    Args:
        stated: the configuration, its references not resolved.
        resolved: the same, resolved.
    """
    seen = set()
    for at, text, value, allowed in _limited(stated, resolved, ""):
        key = _typed(stated, at, text)
        if value is None and key == "dataset.input_shape":  # text: it is said of the model
            continue
        if key not in seen and not allowed.holds(value):
            seen.add(key)
            yield f"{key} must be {allowed}, got {value!r}; try {key}={allowed.example(value)}"


def _typed(stated: Any, key: str, text: Any) -> str:
    """The key whose value this is, through all that only refers to it."""
    while isinstance(text, str) and (refers := REFERENCE.fullmatch(text)):
        above = key.split(".")[: -len(refers[1])] if refers[1] else []  # ${..x} is of one above
        key, text = ".".join([*above, refers[2]]), stated
        for part in key.split("."):
            text = text.get(part) if isinstance(text, Mapping) else None
    return key


def _limited(
    stated: Any, resolved: Any, at: str, kind: str = ""
) -> Iterator[tuple[str, Any, Any, Allowed]]:
    """The values whose kind is known: their keys, what stands there, their values, the kinds."""
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
        if key in known and not (isinstance(value, Mapping) and "_target_" in value):
            yield name, own, value, known[key]
        elif isinstance(value, Mapping | list):
            yield from _limited(own, value, name, GENERATION if key == "generation" else "")


@cache
def ranges(target: str) -> Mapping[str, Allowed]:
    """Of the parameters of a class, or of the fields of a dataclass, those of a known kind."""
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


def _stated(pairs: Iterable[Parameter]) -> dict[str, Allowed]:
    found = {name: _range(kind, default) for name, kind, default in pairs if kind is not None}
    return {name: one for name, one in found.items() if one is not None}


def _range(kind: ast.expr, default: ast.expr | None) -> Allowed | None:
    """What an annotation says: a range, perhaps or None, or of all in a list, or known types."""
    options = [kind]
    while isinstance(options[0], ast.BinOp):
        options[:1] = [options[0].left, options[0].right]
    or_null = any(isinstance(one, ast.Constant) and one.value is None for one in options)
    texts = [ast.unparse(one) for one in options if not isinstance(one, ast.Constant)]
    if or_empty := len(texts) > 1 and EMPTY in texts:
        texts.remove(EMPTY)
    listed = LIST.fullmatch(texts[0]) if len(texts) == 1 and not or_null else None
    text = listed[1] if listed else texts[0]
    found = ANNOTATED.fullmatch(_aliases().get(text, text)) if len(texts) == 1 else None
    if found is None:
        known = {"str", *LISTS, *EXAMPLES}
        types = (*texts, *["None"] * or_null)
        return Kind(types) if set(types) <= known and texts != ["str"] else None
    if listed:
        return Numbers(Range(found[2], found[1] == "int"), or_empty)
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
