"""Record one forward run: module hooks keep a stack, a `TorchFunctionMode` sees each operation.

The model is copied to the meta device: no data is copied and nothing is computed. Values are identified by their tensor
objects, which are kept alive so that no identity is used twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reborn_nas.backbone.load.third_party import place_of, quiet, reason_of, way_out
from reborn_nas.backbone.trace.call_site import SpanFinder, Spot
from reborn_nas.backbone.trace.graph import CallSpan, ModuleCall, Op, Trace, Value, ValueRef
from reborn_nas.backbone.trace.inputs import arguments, call_text, moved
from reborn_nas.backbone.trace.ops import operation
from reborn_nas.backbone.trace.replica import replace_tensors, replicate, tensors_in
from reborn_nas.errors import ConversionError

__all__ = ["CallSpan", "ModuleCall", "Op", "Trace", "Value", "ValueRef", "trace", "trace_modes"]


def trace(model: nn.Module, inputs: Any, *, training: bool) -> Trace:
    """Run `model` once on a meta-device copy and record it. The model is never changed.

    Args:
        inputs: as `inputs_of` returns them; on the meta device only shapes and dtypes matter.
        training: record the forward in train mode instead of eval mode.

    A forward that needs real numbers (`.item()`, an operation without a meta kernel) runs on the CPU instead.

    Raises:
        ConversionError: the forward runs on neither; the message names the module and the reason.
    """
    return _trace(_Replicas(model), inputs, training)


def trace_double(double: nn.Module, inputs: Any, *, training: bool, quick: bool = False) -> Trace:
    """`trace` of a model that is already a meta-device copy: it is run without copying, and left in the requested mode.

    Args:
        quick: skip torch's meta kernels of pointwise activations (`Recorder`).
    """
    replicas = _Replicas(double)
    replicas["meta"] = double
    return _trace(replicas, inputs, training, quick)


def trace_modes(model: nn.Module, inputs: Any) -> tuple[Trace, Trace | None]:
    """`trace` in eval mode and in train mode, with one copy of the model.

    The second is None if train mode needs more than these inputs, such as targets of a loss in the forward.

    Raises:
        ConversionError: the forward in eval mode runs on neither device.
    """
    replicas = _Replicas(model)
    in_eval = _trace(replicas, inputs, training=False)
    try:
        return in_eval, _trace(replicas, inputs, training=True)
    except ConversionError:
        return in_eval, None


class _Replicas(dict[str, nn.Module]):
    """Copies of one model by device, made on first use."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, device: str) -> nn.Module:
        self[device] = replicate(self.model, device)
        return self[device]


class _RunError(Exception):
    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason = where, reason


def _trace(replicas: _Replicas, inputs: Any, training: bool, quick: bool = False) -> Trace:
    try:
        return _run(
            replicas["meta"], *arguments(moved(inputs, "meta")), training=training, device="meta", quick=quick
        )
    except _RunError as error:
        on_meta = error
    try:
        return _run(replicas["cpu"], *arguments(moved(inputs, "cpu")), training=training, device="cpu")
    except _RunError as on_cpu:
        raise ConversionError(
            f"{type(replicas.model).__name__}: called with {call_text(inputs)}, the forward fails in {on_cpu.where}: "
            f"{on_cpu.reason}; {way_out(on_cpu.reason, 'give input_size or example_inputs that the network takes')}"
            + ("; a list is one argument, several go into a tuple" if isinstance(inputs, list) else "")
        ) from on_meta


def _run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    training: bool,
    device: str,
    quick: bool = False,
) -> Trace:
    recorder = Recorder(model, (args, kwargs), quick=quick)
    model.train(training)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(quiet(device))  # a forward that draws random numbers draws the same in each trace
        stack.enter_context(recorder.attached())
        stack.enter_context(recorder)
        try:
            output = model(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise _RunError(recorder.where(place_of(error)), reason_of(error)) from error
    return replace(
        recorder.finish(output, training),
        on_cpu=device == "cpu",
        classes={path: type(module) for path, module in model.named_modules()},
    )


_IN_PLACE_DUNDER = frozenset(
    {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ior__", "__iand__", "__ipow__"}
)


class Recorder(TorchFunctionMode):
    """Collects operations, values and module calls while a model runs.

    Args:
        quick: on the meta device, answer pointwise activations with an empty tensor of the input's shape; torch's meta
            kernels for these are written in Python and take longer than a convolution's.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, quick: bool = False) -> None:
        super().__init__()
        self.model, self.quick = model, quick
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.calls: list[ModuleCall | None] = []
        self._alive: list[Tensor] = []
        self._ids: dict[int, int] = {}
        self._modules: list[nn.Module] = [model]
        self._stack: list[str] = []
        self._open: list[tuple[int, int, str, CallSpan | None, tuple[int, ...]]] = []
        self._ordinals: dict[str, int] = {}
        self._shape_reads: set[tuple[int, int]] = set()
        self._spans = SpanFinder()
        self._frames: dict[int, tuple[FrameType, int]] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._new(tensor, name)
        self.inputs = tuple(self._new(tensor) for tensor in tensors_in(inputs))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach hooks to all modules inside the context. They return None: a return value would replace the output."""
        handles = []
        for path, module in self.model.named_modules():
            handles.append(
                module.register_forward_pre_hook(self._enter(path), prepend=True, with_kwargs=True)
            )
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            caller = self._stack[-1] if self._stack else ""
            span = self._spans.find(sys._getframe(1), self._modules[-1]) if self._stack else None
            given = tuple(self._value(tensor) for tensor in tensors_in((args, kwargs)))
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
        made = tuple(self._value(tensor) for tensor in tensors_in(output))
        parent = self._open[-1][0] if self._open else -1
        self.calls[place] = ModuleCall(
            path, ordinal, first, len(self.ops) - 1, given, made, caller, span, parent
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if name is None or name == "size":
            if args and (name or _asks_shape(func)):
                self._shape_reads.add((self._value(args[0]), self._open[-1][0] if self._open else -1))
            return func(*args, **kwargs)
        tensors = list(tensors_in((args, kwargs)))
        inputs = tuple(self._value(tensor) for tensor in tensors)
        recorded = (
            replace_tensors(args, self._ref),
            {key: replace_tensors(value, self._ref) for key, value in kwargs.items()},
        )
        result = self._shortcut(name, args) if tensors and tensors[0].is_meta else None
        if result is None and self.quick and operation(name).quick and not _writes(func, name, args, kwargs):
            result = torch.empty_like(args[0]) if args and args[0].is_meta else None
        result = func(*args, **kwargs) if result is None else result
        made = list(tensors_in(args[0] if name == "setitem" else result))
        if not made:
            return result
        inplace = any(tensor is made[0] for tensor in tensors) and _writes(func, name, args, kwargs)
        spot = self._spans.spot(sys._getframe(1), self._modules[-1])
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
                span=spot.span,
                call=self._open[-1][0] if self._open else -1,
                raw=getattr(func, "__name__", ""),
                names=self._names(spot, tensors),
                turn=self._turn(spot),
                function=self._function(spot),
            )
        )
        return result

    def _names(self, spot: Spot, tensors: Sequence[Tensor]) -> tuple[tuple[str, int], ...]:
        if spot.frame is None:
            return ()
        wanted = {id(tensor): self._ids[id(tensor)] for tensor in tensors}
        local = spot.frame.f_locals
        return tuple((name, wanted[id(value)]) for name, value in local.items() if id(value) in wanted)

    def _turn(self, spot: Spot) -> int:
        if spot.helper is None:
            return 0
        self._frames.setdefault(
            id(spot.helper), (spot.helper, len(self._frames) + 1)
        )  # kept, so that no id is used twice
        return self._frames[id(spot.helper)][1]

    def _function(self, spot: Spot) -> tuple[Any, tuple[Any, ...]] | None:
        if spot.forward is None:
            return None
        code, local = spot.forward.f_code, spot.forward.f_locals
        for function in subclasses(torch.autograd.Function):
            if getattr(vars(function).get("forward"), "__func__", None) is not None and (
                vars(function)["forward"].__func__.__code__ is code
            ):
                given = [local.get(name) for name in code.co_varnames[: code.co_argcount]]
                if given and isinstance(given[0], torch.autograd.function.FunctionCtx):
                    del given[0]
                return function, tuple(replace_tensors(given, self._ref))
        return None

    def _shortcut(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """A meta tensor like the first argument, if the operation's meta kernel is slow and adds nothing."""
        if name == "batch_norm" and len(args) > 1 and args[0].dim() > 1:
            mean = args[1]
            if mean is None or mean.shape == args[0].shape[1:2]:
                return torch.empty_like(args[0])
        return None

    def finish(self, output: Any, training: bool) -> Trace:
        """The complete record; `output` is the result of the model."""
        outputs = tuple(self._value(tensor) for tensor in tensors_in(output))
        calls = tuple(call for call in self.calls if call is not None)
        reads = frozenset(self._shape_reads)
        return Trace(tuple(self.ops), tuple(self.values), calls, self.inputs, outputs, training, reads)

    def where(self, place: str = "") -> str:
        """The running module and the place in its source, for a message."""
        path = self._stack[-1] if self._stack else ""
        kind = type(self._modules[-1]).__name__
        return f"module {path or '(the model)'!r} ({kind}{', ' if place else ''}{place})"

    def _new(self, tensor: Tensor, param: str | None = None) -> int:
        floating = tensor.is_floating_point() or tensor.is_complex()
        value = Value(len(self.values), tuple(tensor.shape), param, floating)
        self.values.append(value)
        self._alive.append(tensor)
        self._ids[id(tensor)] = value.id
        return value.id

    def _value(self, tensor: Tensor) -> int:
        found = self._ids.get(id(tensor))
        return self._new(tensor) if found is None else found

    def _ref(self, tensor: Tensor) -> ValueRef:
        return ValueRef(self._value(tensor))


def subclasses(cls: type) -> Iterator[type]:
    """All subclasses of a class."""
    each: type
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


def function_name(func: Any) -> str | None:
    """The normalised name of a torch function, or None if it is not a tensor operation (attribute access)."""
    name = getattr(func, "__name__", "") or ""
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", "") or ""
        return name if operation(name).attribute else None
    if name == "__set__":
        return None
    if name in _IN_PLACE_DUNDER:
        return name.strip("_")[1:]
    if name.startswith("__r") and operation(name.strip("_")[1:]).reflected:
        return name.strip("_")[1:]
    return name.strip("_") or None


def _asks_shape(func: Any) -> bool:
    return getattr(getattr(func, "__self__", None), "__name__", "") == "shape"


def _writes(func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the call writes to its first tensor, rather than returning it unchanged as dropout does in eval mode."""
    raw = getattr(func, "__name__", "")
    if name == "setitem" or raw in _IN_PLACE_DUNDER or kwargs.get("inplace") or "out" in kwargs:
        return True
    if raw.endswith("_") and not raw.endswith("__"):
        return True
    # F.relu(x, True): the flag is positional
    return any(argument is True for argument in args[1:]) and operation(name).inplace_flag
