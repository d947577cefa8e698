"""Call expressions in the source: which one a running frame executes, and those of one name in a function.

CPython keeps the source range of every bytecode instruction (`code.co_positions()`), so a running frame and its
`f_lasti` give the exact call expression, even if a line holds several. An activation that is called at several places
is named by its ordinal in the source (`layer1.0.relu@1`), so that the name does not depend on the versions of Python
and torch or on the branches that ran.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FrameType

import torch
from torch import nn

from reborn_nas.backbone.trace.graph import CallSpan, Position

_BACKBONE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep


# frames of torch's dispatch between a call and what it runs
_PLUMBING = frozenset(
    _TORCH + os.path.join(*parts)
    for parts in (
        ("nn", "modules", "module.py"),
        ("nn", "modules", "activation.py"),
        ("nn", "functional.py"),
        ("overrides.py",),
        ("_tensor.py",),
        ("_jit_internal.py",),
        ("utils", "_device.py"),
    )
) | {os.path.join(_BACKBONE, *parts) for parts in (("trace", "record.py"), ("proof", "marks.py"))}
_RUNNERS = frozenset(
    {
        (os.path.join(_BACKBONE, "trace", "record.py"), "_run"),
        (os.path.join(_BACKBONE, "proof", "marks.py"), "run"),
    }
)
"""File and function that call a model."""


_INLINED = frozenset({"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>"})


@dataclass(frozen=True)
class Spot:
    """A span and the frames around it.

    Args:
        span: the call; None if the source is unknown.
        frame: the frame that makes the call.
        helper: the outermost frame between that one and the operation; None if the operation is called directly.
        forward: the outermost of those that runs a function named `forward`.
    """

    span: CallSpan | None = None
    frame: FrameType | None = None
    helper: FrameType | None = None
    forward: FrameType | None = None


class SpanFinder:
    """Finds spans of running calls; caches the positions of each code object."""

    def __init__(self) -> None:
        self._positions: dict[CodeType, list[tuple[int | None, int | None, int | None, int | None]]] = {}

    def find(self, frame: FrameType | None, owner: nn.Module) -> CallSpan | None:
        """The running call in the innermost method of `owner` at or above `frame`, or None."""
        return self.spot(frame, owner).span

    def spot(self, frame: FrameType | None, owner: nn.Module) -> Spot:
        """The running call in the innermost method of `owner` at or above `frame`, with the frames around it.

        A comprehension or lambda inside the method is part of it (Python 3.12 inlines them, 3.11 does not). A free
        function that the method calls is not: the span is the method's call of that function.
        """
        inner: FrameType | None = None
        helper: str | None = None
        below: FrameType | None = None
        forward: FrameType | None = None
        while frame is not None:
            code = frame.f_code
            if (
                code.co_filename,
                code.co_name,
            ) in _RUNNERS:  # no source behind it: a forward that is not Python
                break
            if code.co_filename not in _PLUMBING:
                if code.co_name in _INLINED:
                    inner = inner or frame
                elif _is_method_of(frame, code, owner):
                    if inner is not None and not _is_within(inner.f_code, code):
                        helper = inner.f_code.co_qualname  # a lambda defined elsewhere
                        inner = None
                    span = self._span(inner or frame, code, helper)
                    return Spot(span, inner or frame, None if helper is None else below, forward)
                else:
                    inner, helper = None, code.co_qualname
                    forward = frame if code.co_name == "forward" else forward
                below = frame
            frame = frame.f_back
        return Spot()

    def _span(self, frame: FrameType, method: CodeType, helper: str | None) -> CallSpan | None:
        code = frame.f_code
        positions = self._positions.get(code)
        if positions is None:
            positions = self._positions[code] = list(code.co_positions())
        line, end_line, column, end_column = positions[frame.f_lasti // 2]
        if line is None or end_line is None or column is None or end_column is None:
            return None  # Python runs without column information (-X no_debug_ranges)
        place = (line, column, end_line, end_column, method.co_firstlineno, helper)
        return CallSpan(method.co_qualname, code.co_filename, *place)


def _is_within(code: CodeType, method: CodeType) -> bool:
    """Whether the code of a comprehension or lambda is in the source of the method."""
    return code.co_qualname.startswith(f"{method.co_qualname}.<locals>.")


def _is_method_of(frame: FrameType, code: CodeType, owner: nn.Module) -> bool:
    """Whether the frame runs a method of `owner`, or a function nested in one."""
    if code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is owner:
        return True
    return "self" in code.co_freevars and frame.f_locals.get("self") is owner


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
    """The syntax tree of the function that starts there, with the positions of the file; None without source."""
    lines = linecache.getlines(filename)
    if not 0 < first_line <= len(lines):
        return None
    try:
        block = inspect.getblock(lines[first_line - 1 :])
        indented = block[0][:1].isspace()
        text = ("if True:\n" if indented else "") + "".join(block)
        tree = ast.parse(text)
    except (SyntaxError, ValueError, IndexError):
        return None  # the file has changed since it was imported, or the source is not Python
    ast.increment_lineno(tree, first_line - (2 if indented else 1))
    return tree


@lru_cache(maxsize=4096)
def calls_named(filename: str, first_line: int, name: str) -> tuple[Position, ...]:
    """The positions of the function's calls whose last name is `name`, in source order."""
    tree = function_tree(filename, first_line)
    found = []
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Call) and terminal_name(node) == name:
            end_line, end_column = node.end_lineno or 0, node.end_col_offset or 0
            found.append((node.lineno, node.col_offset, end_line, end_column))
    # in a nested pair, relu(conv(relu(x))), the inner call runs and ends first
    return tuple(sorted(found, key=lambda place: (place[2:], place[:2])))
