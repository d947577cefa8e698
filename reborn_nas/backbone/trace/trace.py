"""One forward run on the meta device, recorded: every operation, value and module call, with its place.

The model is copied with its tensors replaced by meta tensors: no data is copied and nothing is computed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from reborn_nas.backbone.layers.registry import kinds_in
from reborn_nas.backbone.load.failing import place_of, reason_of, way_out
from reborn_nas.backbone.load.quiet import quiet
from reborn_nas.backbone.trace.events import ModuleCall, Op, Trace, Value, ValueRef
from reborn_nas.backbone.trace.inputs import arguments, call_text, moved
from reborn_nas.backbone.trace.recorder import Recorder
from reborn_nas.backbone.trace.replica import replicate
from reborn_nas.backbone.trace.spans import CallSpan
from reborn_nas.errors import ConversionError

__all__ = ["CallSpan", "ModuleCall", "Op", "Trace", "Value", "ValueRef", "trace", "trace_modes"]


def trace(model: nn.Module, inputs: Any, *, training: bool) -> Trace:
    """Run `model` once on a meta-device copy and record it. The model itself is never changed.

    Args:
        inputs: as `inputs.inputs_of` returns them; on the meta device only shapes and dtypes matter.
        training: record the forward of train mode instead of eval mode.

    A forward that needs real numbers (`.item()`, an operation without a meta kernel) runs on the CPU instead.

    Raises:
        ConversionError: when the forward runs on neither; names the module and the reason.
    """
    return _trace(_Replicas(model), inputs, training)


def trace_double(double: nn.Module, inputs: Any, *, training: bool, quick: bool = False) -> Trace:
    """`trace` of a meta-device model that is a copy itself: it is run as it is, and left in the mode asked for.

    Args:
        quick: skip torch's meta kernels of point-wise activations (`Recorder`).
    """
    replicas = _Replicas(double)
    replicas["meta"] = double
    return _trace(replicas, inputs, training, quick)


def trace_modes(model: nn.Module, inputs: Any) -> tuple[Trace, Trace | None]:
    """`trace` in eval mode and in train mode, with one copy of the model.

    The second is None where train mode wants more than these inputs, such as targets of a loss in the forward.

    Raises:
        ConversionError: when the forward of eval mode runs on neither device.
    """
    replicas = _Replicas(model)
    in_eval = _trace(replicas, inputs, training=False)
    try:
        return in_eval, _trace(replicas, inputs, training=True)
    except ConversionError:
        return in_eval, None


class _Replicas(dict[str, nn.Module]):
    """Copies of one model by device, made when first asked for."""

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
        stack.enter_context(quiet(device))  # a forward that draws numbers does the same in each trace
        stack.enter_context(recorder.attached())
        stack.enter_context(recorder)
        try:
            output = model(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise _RunError(recorder.where(place_of(error)), reason_of(error)) from error
    return replace(recorder.finish(output, training), on_cpu=device == "cpu", kinds=kinds_in(model))
