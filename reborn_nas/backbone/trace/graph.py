"""What a recorded forward run is made of: values, operations, module calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reborn_nas.backbone.trace.spans import CallSpan


@dataclass(frozen=True)
class ValueRef:
    """Stands for a tensor among an operation's arguments."""

    id: int


@dataclass(frozen=True)
class Value:
    """A tensor at one moment of the run.

    Args:
        id: its index in `Trace.values`.
        shape: its shape, batch included.
        param: its name in the state dict where it is a parameter or buffer.
        floating: whether its elements are real (or complex) numbers, not integers or truth values.
    """

    id: int
    shape: tuple[int, ...]
    param: str | None = None
    floating: bool = True


@dataclass(frozen=True)
class Op:
    """A tensor operation that ran.

    Args:
        index: its place in `Trace.ops`, execution order.
        name: the function's name without underscores at its ends: `relu`, `conv2d`, `add`.
        module: path of the innermost module whose forward ran it ("" is the model itself).
        stack: paths of all modules that were running, outermost first.
        inputs: ids of the tensors among its arguments, in order.
        outputs: ids of the tensors that it returned.
        args: its arguments, tensors replaced by `ValueRef`.
        kwargs: its keyword arguments, likewise.
        inplace: whether it wrote into its first tensor.
        span: its call in the innermost module's method.
        call: index in `Trace.calls` of the innermost module call; -1 outside of any.
        raw: the function's name as it is, such as `__rsub__`, whose operands are in reverse order.
        names: local variables of that method which hold one of the inputs, with the input's id.
        turn: number of the run of the outermost function between that method and the operation; 0 where there is none.
        function: the `torch.autograd.Function` whose forward ran it, and what that was given; None outside of any.
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


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module.

    Args:
        path: the module's path ("" is the model itself).
        ordinal: how many calls of the same module came before.
        first_op: index of the first operation inside.
        last_op: index of the last one; smaller than `first_op` where there was none.
        inputs: ids of the tensors that it was given.
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


@dataclass(frozen=True)
class Trace:
    """What one forward run did. `calls` stand in the order in which they began.

    `shape_reads` holds (value, index of the module call) where a forward asked a value for its shape; `on_cpu` says
    that the run needed real numbers; `kinds` names the modules that are layers of `layers`, by path.
    """

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    calls: tuple[ModuleCall, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    training: bool
    shape_reads: frozenset[tuple[int, int]] = frozenset()
    on_cpu: bool = False
    kinds: Mapping[str, type] = field(default_factory=dict)

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
        """The views and reshapes that the forward of this module call ran itself."""
        return self._reshapes.get(call, ())

    def consumers(self, value: int) -> tuple[Op, ...]:
        """The operations that read the value with this id, in execution order."""
        return self._consumers.get(value, ())

    def producer(self, value: int) -> Op | None:
        """The operation that made the value; None for inputs, parameters and constants."""
        return self._producers.get(value)
