"""One forward run on the meta device, recorded: every operation, value and module call, with its place.

The model is copied with its tensors replaced by meta tensors (no data is copied, nothing is computed), module
hooks keep a stack of the modules that run, and a `TorchFunctionMode` sees every tensor operation. Values are
tensors mapped by identity; references are kept, so that no identity is used twice. An in-place operation gives
a new value.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reborn_nas.backbone.spans import CallSpan, SpanFinder
from reborn_nas.errors import ConversionError

__all__ = ["CallSpan", "ModuleCall", "Op", "Trace", "Value", "ValueRef", "trace"]

_IN_PLACE_DUNDER = frozenset(
    {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ior__", "__iand__", "__ipow__"}
)


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
    """

    id: int
    shape: tuple[int, ...]
    param: str | None = None


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
    """What one forward run did. `calls` stand in the order in which they began."""

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    calls: tuple[ModuleCall, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    training: bool

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

    def consumers(self, value: int) -> tuple[Op, ...]:
        """The operations that read the value with this id, in execution order."""
        return self._consumers.get(value, ())

    def producer(self, value: int) -> Op | None:
        """The operation that made the value; None for inputs, parameters and constants."""
        return self._producers.get(value)


def trace(model: nn.Module, inputs: Any, *, training: bool) -> Trace:
    """Run `model` once on a meta-device copy and record it. The model itself is never changed.

    Args:
        inputs: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments; only
            shapes and dtypes matter.
        training: record the forward of train mode instead of eval mode.

    A forward that needs real numbers (`.item()`, an operation without a meta kernel) runs on the CPU instead.

    Raises:
        ConversionError: when the forward runs on neither; names the module and the reason.
    """
    args, kwargs = _arguments(inputs)
    try:
        return _run(_copy(model, "meta"), *_move((args, kwargs), "meta"), training=training, device="meta")
    except _RunError as on_meta:
        failure = on_meta
    try:
        return _run(_copy(model, "cpu"), *_move((args, kwargs), "cpu"), training=training, device="cpu")
    except _RunError as on_cpu:
        # the CPU's message is the user's own fault, the meta device's may be ours
        raise ConversionError(
            f"{type(model).__name__}: the forward fails in {on_cpu.where} on inputs of shape "
            f"{_shapes((args, kwargs))}: {on_cpu.reason}; give input_size or example_inputs that the network takes"
        ) from failure


class _RunError(Exception):
    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason = where, reason


def _run(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, training: bool, device: str
) -> Trace:
    recorder = _Recorder(model, (args, kwargs))
    model.train(training)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if device == "meta":
            stack.enter_context(torch.device("meta"))
        else:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        recorder.attach()
        stack.enter_context(recorder)
        try:
            output = model(*args, **kwargs)
        except Exception as error:
            where = recorder.where()
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise _RunError(where, reason) from error
    return recorder.finish(output, training)


class _Recorder(TorchFunctionMode):
    """Collects operations, values and module calls while a model runs."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.model = model
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.calls: list[ModuleCall | None] = []
        self._alive: list[Tensor] = []
        self._ids: dict[int, int] = {}
        self._modules: list[nn.Module] = [model]
        self._stack: list[str] = []
        self._open: list[tuple[int, int, str, CallSpan | None, tuple[int, ...]]] = []
        self._ordinals: dict[str, int] = {}
        self._spans = SpanFinder()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._new(tensor, name)
        self.inputs = tuple(self._new(tensor) for tensor in _tensors(inputs))

    def attach(self) -> None:
        """Put hooks on every module. They return None: a hook's return value would replace the output."""
        for path, module in self.model.named_modules():
            module.register_forward_pre_hook(self._enter(path), prepend=True, with_kwargs=True)
            module.register_forward_hook(self._leave, with_kwargs=True)

    def _enter(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            caller = self._stack[-1] if self._stack else ""
            span = self._spans.find(sys._getframe(1), self._modules[-1]) if self._stack else None
            given = tuple(self._value(tensor) for tensor in _tensors((args, kwargs)))
            self._open.append((len(self.calls), len(self.ops), caller, span, given))
            self.calls.append(None)
            self._stack.append(path)
            self._modules.append(module)

        return hook

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path = self._stack.pop()
        self._modules.pop()
        place, first, caller, span, given = self._open.pop()
        ordinal = self._ordinals.get(path, 0)
        self._ordinals[path] = ordinal + 1
        made = tuple(self._value(tensor) for tensor in _tensors(output))
        parent = self._open[-1][0] if self._open else -1
        self.calls[place] = ModuleCall(
            path, ordinal, first, len(self.ops) - 1, given, made, caller, span, parent
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name is None:
            return func(*args, **kwargs)
        tensors = list(_tensors((args, kwargs)))
        inputs = tuple(self._value(tensor) for tensor in tensors)
        recorded = (
            _replace(args, self._ref),
            {key: _replace(value, self._ref) for key, value in kwargs.items()},
        )
        result = func(*args, **kwargs)
        made = list(_tensors(args[0] if name == "setitem" else result))
        if not made:
            return result
        inplace = any(tensor is made[0] for tensor in tensors) and _writes(func, name, args, kwargs)
        self.ops.append(
            Op(
                index=len(self.ops),
                name=name,
                module=self._stack[-1] if self._stack else "",
                stack=tuple(self._stack),
                inputs=inputs,
                outputs=tuple(self._new(tensor) for tensor in made),
                args=recorded[0],
                kwargs=recorded[1],
                inplace=inplace,
                span=self._spans.find(sys._getframe(1), self._modules[-1]),
                call=self._open[-1][0] if self._open else -1,
            )
        )
        return result

    def finish(self, output: Any, training: bool) -> Trace:
        """The finished record; `output` is what the model returned."""
        outputs = tuple(self._value(tensor) for tensor in _tensors(output))
        calls = tuple(call for call in self.calls if call is not None)
        return Trace(tuple(self.ops), tuple(self.values), calls, self.inputs, outputs, training)

    def where(self) -> str:
        """The module that runs now, for a message."""
        path = self._stack[-1] if self._stack else ""
        return f"module {path or '(the model)'!r} ({type(self._modules[-1]).__name__})"

    def _new(self, tensor: Tensor, param: str | None = None) -> int:
        value = Value(len(self.values), tuple(tensor.shape), param)
        self.values.append(value)
        self._alive.append(tensor)
        self._ids[id(tensor)] = value.id
        return value.id

    def _value(self, tensor: Tensor) -> int:
        found = self._ids.get(id(tensor))
        return self._new(tensor) if found is None else found

    def _ref(self, tensor: Tensor) -> ValueRef:
        return ValueRef(self._value(tensor))


def _name(func: Any) -> str | None:
    """The normalised name of a torch function, or None where it is no tensor operation (attribute access)."""
    name = getattr(func, "__name__", "") or ""
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", "") or ""
        return name if name in ("T", "mT", "H", "mH", "data", "real", "imag") else None
    if name == "__set__":
        return None
    if name in _IN_PLACE_DUNDER:
        return name.strip("_")[1:]
    if name.startswith("__r") and name.strip("_")[1:] in ("add", "sub", "mul", "truediv", "div", "pow"):
        return name.strip("_")[1:]
    return name.strip("_") or None


def _writes(func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the call writes into its first tensor (rather than returning it unchanged, as eval-mode dropout does)."""
    raw = getattr(func, "__name__", "")
    if name == "setitem" or raw in _IN_PLACE_DUNDER or kwargs.get("inplace") or "out" in kwargs:
        return True
    if raw.endswith("_") and not raw.endswith("__"):
        return True
    # F.relu(x, True): the flag by position
    return any(argument is True for argument in args[1:]) and name in _POSITIONAL_INPLACE


_POSITIONAL_INPLACE = frozenset(
    {
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "silu",
        "mish",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
    }
    | {"rrelu", "threshold", "dropout", "dropout2d"}
)


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and dataclass-like objects, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from _tensors(item)
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _tensors(item)
    elif hasattr(tree, "__dataclass_fields__"):
        for field in tree.__dataclass_fields__:
            yield from _tensors(getattr(tree, field))


def _replace(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """A copy of nested tuples, lists, mappings and slices with each tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, torch.Size):
        return tuple(tree)
    if isinstance(tree, dict):
        return {key: _replace(item, change) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_replace(item, change) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_replace(item, change) for item in tree)
    if isinstance(tree, slice):
        return slice(*(_replace(item, change) for item in (tree.start, tree.stop, tree.step)))
    return tree


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, Sequence):
        return tuple(inputs), {}
    return (inputs,), {}


def _move(tree: Any, device: str) -> Any:
    def change(tensor: Tensor) -> Tensor:
        if device == "cpu" and tensor.is_meta:
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return tensor.detach().to(device)

    return _replace(tree, change)


def _shapes(tree: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(tree))


def _copy(model: nn.Module, device: str) -> nn.Module:
    """A deep copy of `model` with every tensor on `device`; on "meta" no data is copied."""
    memo: dict[int, Any] = {}
    keep: list[Tensor] = []
    for module in model.modules():
        held = [*module._parameters.values(), *module._buffers.values()]
        held += [tensor for tensor in _tensors(list(module.__dict__.values())) if tensor is not None]
        for tensor in held:
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _copy_tensor(tensor, device)
                keep.append(tensor)
    try:
        return _unalias(copy.deepcopy(model, memo))
    except Exception as error:
        raise ConversionError(
            f"{type(model).__name__} cannot be copied: {error}; a network to convert must support copy.deepcopy"
        ) from error


def _unalias(model: nn.Module) -> nn.Module:
    """Give a module that is registered at several paths an object at each, sharing the tensors.

    `nn.Sequential(conv1, act, conv2, act)` then has the paths "1" and "3", each replaceable by itself.
    """
    seen: set[int] = set()
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is None:
                continue
            if id(child) in seen and not any(True for _ in child.children()):
                twin = copy.copy(child)
                twin._forward_hooks = OrderedDict(child._forward_hooks)
                twin._forward_pre_hooks = OrderedDict(child._forward_pre_hooks)
                module._modules[name] = twin
            seen.add(id(child))
    return model


def _copy_tensor(tensor: Tensor, device: str) -> Tensor:
    data = tensor.detach()
    if device == "cpu" and data.is_meta:
        data = torch.zeros(data.shape, dtype=data.dtype)
    else:
        data = data.to(device) if device == "meta" else data.to(device, copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data
