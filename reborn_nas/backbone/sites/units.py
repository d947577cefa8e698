"""Activation units: the operations, or the modules, of one run that are one activation function.

A unit is a call of a module that only applies a pointwise nonlinearity (`nn.ReLU`, timm's `GammaAct`, `StarReLU`, a
user's class), the outermost such module; or else a functional call (`F.relu(x)`, `x.relu_()`) in the forward of a
module that does more. `non_sites` decides whether a unit is a site or lies in a gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from torch import nn

from reborn_nas.activations import BLOCKS, CReLU, ExtendedConv, NormReLU, Reborn, SplitReborn
from reborn_nas.backbone.trace.graph import Expression, ModuleCall, Op, Trace, ValueRef
from reborn_nas.backbone.trace.ops import operation

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_BY_CLASS = {"Swish": "silu", "SiLU": "silu", "Mish": "mish", "HardSwish": "hardswish", "FReLU": "frelu"}


@dataclass(frozen=True)
class Unit:
    """One execution of an activation.

    Args:
        activation: registry name, or `other:ClassName`.
        path: path of the module that is the activation; None for a functional call.
        name: the function's name for a functional call, else the last component of the path.
        owner: path of the module whose forward makes the call.
        parent: index in `Trace.calls` of that module's call.
        first_op: index of its first operation.
        last_op: index of its last operation.
        input: id of the value on which it acts.
        output: id of its result.
        inplace: whether it overwrites its input.
        call: the module's call, or None.
        op: the operation of a functional call, or None; the last one of an expression.
        expression: the expression, for a unit of several operations, or None.
        ops: operations of a unit that is written out or called as a plain function.
        label: `torch.nn` class with arguments that an expression computes, or None.
    """

    activation: str
    path: str | None
    name: str
    owner: str
    parent: int
    first_op: int
    last_op: int
    input: int
    output: int
    inplace: bool
    call: ModuleCall | None
    op: Op | None
    expression: Expression | None = None
    ops: tuple[Op, ...] = ()
    label: str | None = None


def find_units(
    traces: Sequence[Trace], modules: Mapping[str, nn.Module], live: Sequence[frozenset[int]]
) -> tuple[tuple[Unit, ...], ...]:
    """The activation units of each run, in execution order.

    Args:
        traces: runs of one model, one per mode; a module is a unit only if it is one in all of them.
        modules: path → module of the model.
        live: for each run, ids of the values that depend on the model's inputs; the others are prepared weights.
    """
    acting = _ActivationModules(traces, modules, live)
    return tuple(tuple(_units(trace, alive, acting)) for trace, alive in zip(traces, live))


def _units(trace: Trace, live: frozenset[int], acting: _ActivationModules) -> Iterator[Unit]:
    taken: set[int] = set()
    for op in trace.ops:
        name = activation_name(op) or (op.name if operation(op.name).squashes else None)
        if (name is None and not operation(op.name).bounds) or live.isdisjoint(op.inputs):
            continue
        outer, call = None, op.call
        while call >= 0 and acting.activation(trace.calls[call].path) is not None:
            outer, call = call, trace.calls[call].parent
        if outer is None:
            if name is not None and not acting.is_block(trace.calls[op.call].path if op.call >= 0 else ""):
                yield _functional_unit(op, name)
        elif outer not in taken:
            taken.add(outer)
            yield _module_unit(trace, outer, acting.activation(trace.calls[outer].path) or "", live)


class _ActivationModules:
    """The modules that are one activation, in every call of every run."""

    def __init__(
        self, traces: Sequence[Trace], modules: Mapping[str, nn.Module], live: Sequence[frozenset[int]]
    ) -> None:
        self._modules = modules
        self._found: dict[str, str | None] = {}
        self._calls: dict[str, list[tuple[Trace, ModuleCall, frozenset[int]]]] = {}
        for trace, alive in zip(traces, live):
            for call in trace.calls:
                self._calls.setdefault(call.path, []).append((trace, call, alive))

    def is_block(self, path: str) -> bool:
        """Whether the module at `path` is a block of an earlier conversion, whose interior is not a site."""
        return isinstance(self._modules.get(path), BLOCKS)

    def activation(self, path: str) -> str | None:
        """The activation's name, or None if the module is not exactly one activation."""
        if path not in self._found:
            module = self._modules.get(path)
            calls = self._calls[path]
            # optical flow starts at zero: calls that do not depend on an input do not show what the module does
            reached = [each for each in calls if not each[2].isdisjoint(each[1].inputs)]
            names = {
                _name_in(trace, call, module, live) if module is not None and path else None
                for trace, call, live in reached or calls
            }
            self._found[path] = None if None in names else min(name for name in names if name)
        return self._found[path]


def activation_name(op: Op) -> str | None:
    """The registry name of the activation that this operation computes, or None."""
    if operation(op.name).activation:
        return op.name
    if op.name == "hardtanh":
        low, high = _argument(op, 1, "min_val", -1.0), _argument(op, 2, "max_val", 1.0)
        return _clipped(low, high) or ("other:hardtanh" if low == 0 else None)
    if op.name in ("clamp", "clip"):
        return _clipped(_argument(op, 1, "min", None), _argument(op, 2, "max", None))
    if op.name == "clamp_min":
        return _clipped(_argument(op, 1, "min", None), None)
    if op.name == "threshold":
        return "relu" if _argument(op, 1, "threshold", None) == 0 == _argument(op, 2, "value", None) else None
    return None


def _clipped(low: object, high: object) -> str | None:
    if isinstance(low, int | float) and low == 0:
        if high is None or high == inf:
            return "relu"
        return "relu6" if high == 6 else None
    return None


def _argument(op: Op, place: int, name: str, default: object) -> object:
    if name in op.kwargs:
        return op.kwargs[name]
    return op.args[place] if len(op.args) > place else default


def _name_in(trace: Trace, call: ModuleCall, module: nn.Module, live: frozenset[int]) -> str | None:
    """The activation that the module computes in a call: one of our blocks that keep channels, or a pointwise one."""
    if isinstance(module, BLOCKS):
        keeps = trace.values[call.inputs[0]].shape == trace.values[call.outputs[0]].shape
        return _block_name(module) if keeps else None
    return _as_activation(trace, call, module, live)


def _block_name(block: nn.Module) -> str:
    """The registry name of a block of an earlier conversion."""
    if isinstance(block, Reborn | SplitReborn):
        return "reborn" if block.negative else "positive_twin"
    names = {CReLU: "crelu", NormReLU: "norm_relu", ExtendedConv: "extended_conv"}
    return next(name for kind, name in names.items() if isinstance(block, kind))


def _as_activation(trace: Trace, call: ModuleCall, module: nn.Module, live: frozenset[int]) -> str | None:
    if isinstance(module, _CONTAINERS):
        return None
    inputs = [value for value in call.inputs if value in live]
    if len(inputs) != 1 or len(call.outputs) != 1 or call.outputs[0] == inputs[0]:
        return None
    kind = type(module).__name__
    if trace.values[inputs[0]].shape != trace.values[call.outputs[0]].shape:
        return None
    ops = trace.ops[call.first_op : call.last_op + 1]
    if kind == "FReLU" and any(op.name in ("max", "maximum") for op in ops):
        return "frelu"
    if not all(_is_pointwise(trace, op, live) for op in ops):
        return None
    reading = [op for op in ops if live.intersection(op.inputs)]
    if len(reading) == 1 and operation(reading[0].name).squashes:
        return reading[0].name
    named = [name for op in reading if (name := activation_name(op)) is not None]
    if not named and not _gates_itself(reading, live):
        return None
    return named[0] if len(reading) == 1 else _BY_CLASS.get(kind, f"other:{kind}")


def _is_pointwise(trace: Trace, op: Op, live: frozenset[int]) -> bool:
    """Whether the operation keeps the shape and works elementwise, or prepares a parameter."""
    if not live.intersection(op.inputs):
        return True
    if not operation(op.name).pointwise or len(op.outputs) != 1:
        return False
    data = next(value for value in op.inputs if value in live)
    return trace.values[op.outputs[0]].shape == trace.values[data].shape


def _gates_itself(ops: Iterable[Op], live: frozenset[int]) -> bool:
    """x · σ(x) and the like: a product of two functions of the input, one of them bounded."""
    bounded = False
    for op in ops:
        bounded = bounded or operation(op.name).bounds
        if bounded and op.name == "mul" and sum(value in live for value in op.inputs) > 1:
            return True
    return False


def _module_unit(trace: Trace, index: int, activation: str, live: frozenset[int]) -> Unit:
    call = trace.calls[index]
    ops = trace.ops[call.first_op : call.last_op + 1]
    given = next(value for value in call.inputs if value in live)
    return Unit(
        activation=activation,
        path=call.path,
        name=call.path.rsplit(".", 1)[-1],
        owner=call.caller,
        parent=call.parent,
        first_op=call.first_op,
        last_op=call.last_op,
        input=given,
        output=call.outputs[0],
        inplace=any(op.inplace and op.args and op.args[0] == ValueRef(given) for op in ops),
        call=call,
        op=None,
    )


def _functional_unit(op: Op, activation: str) -> Unit:
    return Unit(
        activation=activation,
        path=None,
        name=op.name,
        owner=op.module,
        parent=op.call,
        first_op=op.index,
        last_op=op.index,
        input=op.inputs[0],
        output=op.outputs[0],
        inplace=op.inplace,
        call=None,
        op=op,
    )
