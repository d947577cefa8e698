"""YAML documents that users write: a key that is there twice is refused, text that looks like a number is explained."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["number_hint", "read_yaml", "yaml_fault"]

_NUMBER = re.compile(r"([+-]?)(\d+)(\.\d*)?[eE]([+-]?)(\d+)")


class _Loader(yaml.SafeLoader):
    """Where the second of two equal keys would silently win, both lines are named."""

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


def read_yaml(text: str) -> Any:
    """The one document in `text`. Raises YAMLError, ValueError or RecursionError."""
    return yaml.load(text, Loader=_Loader)


def yaml_fault(error: Exception) -> str:
    """`line 3, column 5: what is wrong`, without the line itself, which may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{error.problem or error.context}"


def number_hint(value: Any) -> str:
    """`; write 1.0e-2: YAML takes 1e-2 for text` where `value` is such text, else ""."""
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return ""
    sign, whole, rest, power, digits = match.groups()
    number = f"{sign}{whole}{rest if rest and len(rest) > 1 else '.0'}e{power or '+'}{digits}"
    return f"; YAML takes {value} for text: write {number}"
