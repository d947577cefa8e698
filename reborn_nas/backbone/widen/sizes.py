"""Where the sizes in a view come from, read off its source: a number, an attribute, or a shape that was read.

Widened channels pass `x.view(B, C, H * W)` with C from `x.shape`, and do not pass `x.view(B, 64, H * W)`.
"""

from __future__ import annotations

import ast
import linecache
import re
from functools import lru_cache

from reborn_nas.backbone.trace.lexical import function_tree
from reborn_nas.backbone.trace.spans import CallSpan
from reborn_nas.backbone.trace.trace import Op


def fixes_size(span: CallSpan | None, dim: int) -> bool:
    """Whether the source of a view gives the size of `dim` as a number or an attribute of self, not from a shape."""
    given = None if span is None else _given(span)
    if given is None:
        return True
    if dim >= len(given):
        return False
    return not any(isinstance(node, ast.Name) and node.id != "self" for node in ast.walk(given[dim]))


@lru_cache(maxsize=4096)
def _given(span: CallSpan) -> tuple[ast.expr, ...] | None:
    """The sizes in the source of a view; None where the call is another, whose source is not looked for."""
    lines = [linecache.getline(span.filename, n) for n in range(span.line, span.end_line + 1)]
    text = "".join(lines).encode()
    tail = len(lines[-1].encode()) - span.end_column if lines else 0
    try:
        call = ast.parse(text[span.column : len(text) - tail].decode().strip(), mode="eval").body
    except (SyntaxError, UnicodeDecodeError, IndexError):
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute | ast.Name):
        return None
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
    if name not in ("view", "reshape"):
        return None  # the view stands in a function that this method calls
    given: list[ast.expr] = list(call.args)
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        given = given[1:] if call.func.value.id in ("torch", "F") else given
    if len(given) == 1 and isinstance(given[0], ast.Tuple | ast.List):
        given = list(given[0].elts)
    return tuple(given)


def takes_size(op: Op, size: int, dim: int) -> bool:
    """Whether a view makes a dimension of `size`, by a name that its forward bound to dimension `dim` of a shape."""
    given = op.args[1:]
    sizes = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    if op.span is None or size not in sizes:
        return False
    names = _read_off(op.span.filename, op.span.first_line, dim)
    return any(
        each == size and any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(text))
        for each, text in zip(sizes, _given(op.span) or ())
    )


@lru_cache(maxsize=4096)
def _read_off(filename: str, first_line: int, dim: int) -> frozenset[str]:
    """Names that a function binds to dimension `dim` of a shape: `B, C, H, W = x.shape`, `C = x.size(1)`."""
    tree = function_tree(filename, first_line)
    names = set()
    for node in ast.walk(tree) if tree is not None else ():
        if not isinstance(node, ast.Assign) or not _SHAPE.search(ast.unparse(node.value)):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name):
                names.add(target.id)
            elif isinstance(target, ast.Tuple) and dim < len(target.elts):
                element = target.elts[dim]
                names.update([element.id] if isinstance(element, ast.Name) else [])
    return frozenset(names)


_SHAPE = re.compile(r"\.shape\b|\.size\(")
