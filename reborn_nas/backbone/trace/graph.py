"""A recorded forward run as data: values, operations and module calls, each with its call in the source.

An activation may consist of several operations of one forward: `Expression` holds its place in the source and the steps
that it runs, and `executions` finds its evaluations in a run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar


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
        first_line: first line of the function, including decorators; 0 if unknown.
        helper: the called function, if the operation is called inside it and not by this call itself.
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
class ValueRef:
    """A reference to a tensor among an operation's arguments."""

    id: int


@dataclass(frozen=True)
class Value:
    """The value of a tensor at one moment of the run.

    Args:
        id: index in `Trace.values`.
        shape: shape, including the batch.
        param: name in the state dict, for a parameter or buffer.
        floating: whether the elements are real or complex numbers, not integers or booleans.
    """

    id: int
    shape: tuple[int, ...]
    param: str | None = None
    floating: bool = True


@dataclass(frozen=True)
class Op:
    """An executed tensor operation.

    Args:
        index: index in `Trace.ops`, which is in execution order.
        name: the function's name without underscores at its ends: `relu`, `conv2d`, `add`.
        module: path of the innermost module whose forward ran it ("" is the model itself).
        stack: paths of all modules that were running, outermost first.
        inputs: ids of the tensors among its arguments, in order.
        outputs: ids of the tensors that it returned.
        args: arguments, with tensors replaced by `ValueRef`.
        kwargs: keyword arguments, likewise.
        inplace: whether it wrote to its first tensor.
        span: its call in the innermost module's method.
        call: index in `Trace.calls` of the innermost module call; -1 outside of all.
        raw: the unchanged name of the function, such as `__rsub__`, whose operands are in reverse order.
        names: local variables of that method which hold one of the inputs, with the input's id.
        turn: number of the run of the outermost function between that method and the operation; 0 if there is none.
        function: the `torch.autograd.Function` whose forward ran it, and its arguments; None outside of all.
    """

    index: int
    name: str
    module: str
    stack: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inplace: bool
    span: CallSpan | None
    call: int = -1
    raw: str = ""
    names: tuple[tuple[str, int], ...] = ()
    turn: int = 0
    function: tuple[Any, tuple[Any, ...]] | None = None

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """The argument at position `place` or with the name `name`."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module.

    Args:
        path: the module's path ("" is the model itself).
        ordinal: number of earlier calls of the same module.
        first_op: index of the first operation inside.
        last_op: index of the last one; less than `first_op` if there is none.
        inputs: ids of the tensors among its arguments.
        outputs: ids of the tensors that it returned.
        caller: path of the module that called it.
        span: the call in the caller's method.
        parent: index in `Trace.calls` of the caller's call; -1 for the model itself.
    """

    path: str
    ordinal: int
    first_op: int
    last_op: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    caller: str
    span: CallSpan | None
    parent: int = -1


def _is_importable(cls: type) -> bool:
    return getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls


@dataclass(frozen=True)
class Trace:
    """A record of one forward run. `calls` are in the order in which they began.

    `shape_reads` holds (value, index of the module call) of each read of a value's shape in a forward; `on_cpu` is true
    if the run needed real numbers; `classes` holds the class of each module, by path.
    """

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    calls: tuple[ModuleCall, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    training: bool
    shape_reads: frozenset[tuple[int, int]] = frozenset()
    on_cpu: bool = False
    classes: Mapping[str, type] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Omit classes that cannot be imported by name, such as those defined in a function."""
        found = {path: cls for path, cls in self.classes.items() if _is_importable(cls)}
        return {**self.__dict__, "classes": found}

    @cached_property
    def _consumers(self) -> dict[int, tuple[Op, ...]]:
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                found.setdefault(value, []).append(op)
        return {value: tuple(ops) for value, ops in found.items()}

    @cached_property
    def _producers(self) -> dict[int, Op]:
        return {value: op for op in self.ops for value in op.outputs}

    @cached_property
    def _reshapes(self) -> dict[int, tuple[Op, ...]]:
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            if op.name in ("view", "reshape"):
                found.setdefault(op.call, []).append(op)
        return {call: tuple(ops) for call, ops in found.items()}

    def reshapes(self, call: int) -> tuple[Op, ...]:
        """The views and reshapes in the forward of this module call."""
        return self._reshapes.get(call, ())

    def consumers(self, value: int) -> tuple[Op, ...]:
        """The operations that read the value, in execution order."""
        return self._consumers.get(value, ())

    def producer(self, value: int) -> Op | None:
        """The operation that computed the value; None for inputs, parameters and constants."""
        return self._producers.get(value)


Position = tuple[int, int, int, int]  # line, column, end line, end column


Step = tuple[str, CallSpan]  # name of an operation, or "module " and a module's path, and where it is called


Key = TypeVar("Key")


@dataclass(frozen=True)
class Expression:
    """An expression of the source that is a site.

    Args:
        place: position in the file.
        hole: position of the part that is the map.
        steps: what it runs, in execution order.
        reader: index of the first step that reads the map.
        operand: index of the map among that step's tensor arguments.
        function: the applied `torch.autograd.Function`, `module:qualname`, or "".
    """

    place: Position
    hole: Position
    steps: tuple[Step, ...]
    reader: int
    operand: int
    function: str = ""


class Progress(Generic[Key]):
    """Follows the steps of expressions in a running network, or in a recorded run.

    Args:
        expressions: expressions of sites by key, of which the first item is the path of the owner.
    """

    def __init__(self, expressions: Mapping[tuple[str, Key], Expression]) -> None:
        self._known = dict(expressions)
        self._of: dict[tuple[str, Step], list[tuple[str, Key]]] = {}
        for key, expression in self._known.items():
            for step in dict.fromkeys(expression.steps):
                self._of.setdefault((key[0], step), []).append(key)
        self._at: dict[tuple[int, tuple[str, Key]], int] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def step(self, call: int, owner: str, name: str, span: CallSpan | None) -> tuple[Key, int] | None:
        """The expression to which an operation or a module's call belongs, and the index of its step.

        Args:
            call: number of the owner's call.
        """
        if span is None:
            return None
        for key in self._of.get((owner, (name, span)), ()):
            steps, at = self._known[key].steps, self._at.get((call, key), 0)
            if steps[at] != (name, span):
                at = 0
            if steps[at] == (name, span):
                self._at[call, key] = (at + 1) % len(steps)
                return key[1], at
            self._at[call, key] = 0
        return None


def executions(
    run: Trace, owner: str, expression: Expression
) -> Iterator[tuple[int, int, int, tuple[Op, ...]]]:
    """(number of the owner's call, id of the map, id of the result, operations) of each evaluation in a run."""
    progress = Progress({(owner, ""): expression})
    given, ops = 0, list[Op]()
    for call, name, span, inputs, outputs, inside in moments(run, owner):
        found = progress.step(call, owner, name, span)
        if found is None:
            continue
        at = found[1]
        ops = [*(ops if at else ()), *inside]
        if at == expression.reader and expression.operand < len(inputs):
            given = inputs[expression.operand]
        if at == len(expression.steps) - 1:
            yield call, given, outputs[0], tuple(ops)


Moment = tuple[int, str, CallSpan | None, tuple[int, ...], tuple[int, ...], tuple[Op, ...]]


def moments(run: Trace, owner: str) -> list[Moment]:
    """The steps of the forward of `owner`, in order: operations and module calls."""
    found: list[tuple[int, Moment]] = []
    for op in run.ops:
        if op.module == owner:
            found.append((op.index, (op.call, op.name, op.span, op.inputs, op.outputs, (op,))))
    for call in run.calls:
        if call.caller == owner and call.parent >= 0 and call.last_op >= call.first_op:
            ops = run.ops[call.first_op : call.last_op + 1]
            moment = (call.parent, module_step(call.path), call.span, call.inputs, call.outputs, ops)
            found.append((call.first_op, moment))
    return [moment for _, moment in sorted(found, key=lambda each: each[0])]


def module_step(path: str) -> str:
    """The name of a step that calls a module."""
    return f"module {path}"
