"""The calls that a function's source makes, by name, in source order. Nothing is run, only read.

An activation that is called at several places is named by its ordinal in the source (`layer1.0.relu@1`), so
that the name does not depend on Python or torch versions or on which branches happened to run.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from functools import lru_cache

from reborn_nas.backbone.trace.spans import CallSpan

Position = tuple[int, int, int, int]  # line, column, end line, end column


def position(span: CallSpan) -> Position:
    """The span's place within its file."""
    return (span.line, span.column, span.end_line, span.end_column)


def terminal_name(call: ast.Call) -> str | None:
    """`relu` for `self.relu(x)`, `F.relu(x)`, `x.relu_()` and `relu(x)`; None for `self.acts[0](x)`."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name.rstrip("_") or name if isinstance(name, str) else None


@lru_cache(maxsize=4096)
def function_tree(filename: str, first_line: int) -> ast.AST | None:
    """The syntax tree of the function that starts there, with the file's own positions; None without source."""
    lines = linecache.getlines(filename)
    if not 0 < first_line <= len(lines):
        return None
    try:
        block = inspect.getblock(lines[first_line - 1 :])
        indented = block[0][:1].isspace()
        text = ("if True:\n" if indented else "") + "".join(block)
        tree = ast.parse(text)
    except (SyntaxError, ValueError, IndexError):
        return None  # the file has changed since it was imported, or the source is no Python
    ast.increment_lineno(tree, first_line - (2 if indented else 1))
    return tree


@lru_cache(maxsize=4096)
def calls_named(filename: str, first_line: int, name: str) -> tuple[Position, ...]:
    """Where the function calls something whose last name is `name`, in source order."""
    tree = function_tree(filename, first_line)
    found = []
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Call) and terminal_name(node) == name:
            end_line, end_column = node.end_lineno or 0, node.end_col_offset or 0
            found.append((node.lineno, node.col_offset, end_line, end_column))
    # an inner call of a nested pair, relu(conv(relu(x))), runs first; it ends first
    return tuple(sorted(found, key=lambda place: (place[2:], place[:2])))
