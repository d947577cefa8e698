"""Where in the source a call stands: frames to call expressions, the same in every Python version.

CPython keeps, for every bytecode instruction, the source range that it came from (`code.co_positions()`), so a
running frame and its `f_lasti` give the exact call expression, also where one line holds several.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import CodeType, FrameType

import torch
from torch import nn

_BACKBONE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
# frames between a call and what it runs, that belong to torch's dispatch
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
) | {os.path.join(_BACKBONE, *parts) for parts in (("trace", "recorder.py"), ("proof", "marks.py"))}
_RUNNERS = frozenset(
    os.path.join(_BACKBONE, *parts) for parts in (("trace", "trace.py"), ("proof", "running.py"))
)
_INLINED = frozenset({"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>"})


@dataclass(frozen=True)
class CallSpan:
    """One call expression in a source file.

    Args:
        function: qualified name of the function that holds the call, such as `ResNet._forward_impl`.
        filename: the source file.
        line: first line, from 1.
        column: first column, from 0, in UTF-8 bytes, as `ast` counts.
        end_line: last line.
        end_column: column after the last.
        first_line: first line of the function, decorators included; 0 where unknown.
        helper: the function that the call calls, where what runs is called in there and not at this place itself.
    """

    function: str
    filename: str
    line: int
    column: int
    end_line: int
    end_column: int
    first_line: int = 0
    helper: str | None = None

    @property
    def place(self) -> str:
        """`file.py:123`, for messages."""
        return f"{os.path.basename(self.filename)}:{self.line}"


@dataclass(frozen=True)
class Spot:
    """A span and the frames around it.

    Args:
        span: the call; None where no source tells it.
        frame: the frame that makes the call.
        helper: the outermost frame between that one and the operation, where the operation is not called there itself.
        forward: the outermost of those that runs a function named `forward`.
    """

    span: CallSpan | None = None
    frame: FrameType | None = None
    helper: FrameType | None = None
    forward: FrameType | None = None


class SpanFinder:
    """Finds spans of running calls; remembers the positions of each code object."""

    def __init__(self) -> None:
        self._positions: dict[CodeType, list[tuple[int | None, int | None, int | None, int | None]]] = {}

    def find(self, frame: FrameType | None, owner: nn.Module) -> CallSpan | None:
        """The call that runs now in the innermost method of `owner` at or above `frame`, or None."""
        return self.spot(frame, owner).span

    def spot(self, frame: FrameType | None, owner: nn.Module) -> Spot:
        """The call that runs now in the innermost method of `owner` at or above `frame`, with the frames around it.

        A comprehension or lambda inside the method counts as part of it (Python 3.12 inlines them, 3.11 does
        not); a free function that the method calls does not: the method's call of that function is the span.
        """
        inner: FrameType | None = None
        helper: str | None = None
        below: FrameType | None = None
        forward: FrameType | None = None
        while frame is not None:
            code = frame.f_code
            if code.co_filename in _RUNNERS:  # behind it nobody's source: a forward that is no Python
                break
            if code.co_filename not in _PLUMBING:
                if code.co_name in _INLINED:
                    inner = inner or frame
                elif _is_method_of(frame, code, owner):
                    if inner is not None and not _is_within(inner.f_code, code):
                        helper = inner.f_code.co_qualname  # a lambda from elsewhere
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
    """Whether the code of a comprehension or lambda stands in the source of the method."""
    return code.co_qualname.startswith(f"{method.co_qualname}.<locals>.")


def _is_method_of(frame: FrameType, code: CodeType, owner: nn.Module) -> bool:
    """Whether the frame runs a method of `owner`, or a function nested in one."""
    if code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is owner:
        return True
    return "self" in code.co_freevars and frame.f_locals.get("self") is owner
