"""YAML documents written by users: strings, numbers, booleans, lists and mappings, none of which is misread.

Duplicate keys, `032` and `1:30` are refused, and strings that look like numbers are explained.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import yaml

__all__ = ["number_hint", "read_yaml", "text_numbers", "yaml_fault"]

_NUMBER = re.compile(r"([+-]?)(\d+)(\.\d*)?[eE]([+-]?)(\d+)")


MOST_VALUES = 1_000_000
"""Most values of one document, with all aliases expanded."""

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which the second would silently win, and reads dates as strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and lines.setdefault(key, line) != line:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"{key!r} is there twice, in line {lines[key]} and in line {line}; the second would replace the "
                    "first, so keep one",
                    key_node.start_mark,
                )
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    """Refuses what YAML 1.1 reads in base 8 or 60."""
    text = str(loader.construct_scalar(node))
    value: int | float
    if node.tag == f"{_TAG}int":
        value = loader.construct_yaml_int(node)
    else:
        value = loader.construct_yaml_float(node)
    if ":" in text or re.fullmatch(r"[+-]?0[0-9_]+", text):
        plain = text.lstrip("+-0_")
        way = f"write {plain} for that number, or quote it" if plain.isdigit() else "quote it"
        raise yaml.constructor.ConstructorError(
            None, None, f"YAML takes {text} for the number {value}; {way}", node.start_mark
        )
    return value


def _unknown(loader: _Loader, node: yaml.Node) -> Any:
    raise yaml.constructor.ConstructorError(
        None,
        None,
        f"the tag {node.tag.replace(_TAG, '!!')} has no meaning here; there are text, numbers, true, false, null, "
        "lists and mappings",
        node.start_mark,
    )


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _number)
for _kind in ("binary", "omap", "pairs", "set", "timestamp"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _unknown)
_Loader.add_constructor(None, _unknown)


def read_yaml(text: str) -> Any:
    """Read the only document in `text`. Raises YAMLError, ValueError or RecursionError."""
    data = yaml.load(text, Loader=_Loader)
    _written_out(data, {})
    return data


def _written_out(value: Any, known: dict[int, int]) -> int:
    """The number of values with all aliases expanded. Raises ValueError if it is infinite."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0
        known[id(value)] = 1 + sum(
            _written_out(one, known) for one in (value.values() if isinstance(value, dict) else value)
        )
    if not 0 < known[id(value)] <= MOST_VALUES:
        raise ValueError("an alias is inside what it names, or aliases of aliases make millions of values")
    return known[id(value)]


def yaml_fault(error: Exception) -> str:
    """`line 3, column 5: what is wrong`, without the line itself, which may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{error.problem or error.context}"


def number_hint(value: Any) -> str:
    """`; write 1.0e-2: YAML takes 1e-2 for text` if `value` is such a string, else ""."""
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return ""
    sign, whole, rest, power, digits = match.groups()
    if len(digits) < 3 and (meant := float(value)).is_integer() and abs(meant) < 1e15:
        return f"; YAML takes {value} for text: write {int(meant)}"
    number = f"{sign}{whole}{rest if rest and len(rest) > 1 else '.0'}e{power or '+'}{digits}"
    return f"; YAML takes {value} for text: write {number}"


def text_numbers(data: Any, place: str = "") -> Iterator[str]:
    """A fault, with its place, for each string in lists and mappings that was probably meant as a number."""
    if isinstance(data, Mapping):
        inside = [(f"{place}.{key}" if place else str(key), value) for key, value in data.items()]
    elif isinstance(data, list):
        inside = [(f"{place}[{number}]", value) for number, value in enumerate(data, start=1)]
    else:
        return
    for where, value in inside:
        if hint := number_hint(value) if place else "":
            yield f"{where}: {value!r}{hint}"
        yield from text_numbers(value, where)
