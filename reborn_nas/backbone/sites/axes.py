"""The channel dimension of each value: set by layers, then followed from operation to operation."""

from __future__ import annotations

from collections.abc import Sequence

from reborn_nas.backbone.trace.dims import moved
from reborn_nas.backbone.trace.graph import Op, Trace
from reborn_nas.backbone.trace.ops import operation

_LAYOUTS = {
    (2, 1): "nc",
    (3, 1): "ncl",
    (3, 2): "nlc",
    (4, 1): "nchw",
    (4, 3): "nhwc",
    (5, 1): "ncdhw",
    (5, 4): "ndhwc",
}


def channel_axes(trace: Trace) -> dict[int, int]:
    """Value id → channel dimension, for the results of operations and for inputs (0 is the batch)."""
    axes = {value: default_axis(len(trace.values[value].shape)) for value in trace.inputs}
    for op in trace.ops:
        given = [value for value in op.inputs if value in axes]
        source = max(given, key=lambda value: len(trace.values[value].shape)) if given else None
        for made in op.outputs:
            axes[made] = _axis(trace, op, source, made, axes)
    return axes


def default_axis(rank: int) -> int:
    """The usual channel dimension: (B, C, H, W), tokens (B, L, C), (B, C)."""
    return 2 if rank == 3 else min(1, max(rank - 1, 0))


def layout_name(rank: int, axis: int) -> str:
    """One of the layouts of the activation families, or `other` if none applies."""
    return _LAYOUTS.get((rank, axis), "other")


def _axis(trace: Trace, op: Op, source: int | None, made: int, axes: dict[int, int]) -> int:
    after = trace.values[made].shape
    rank = len(after)
    if rank <= 1 or source is None:
        return default_axis(rank)
    known = operation(op.name).axis
    if known == "first":
        return 1
    if known == "last" or (known == "norm_last" and _normalised_dims(op) == 1):
        return rank - 1
    if known == "product":
        return _product(trace, op, axes, rank)
    before, axis = trace.values[source].shape, axes[source]
    try:
        found = moved(op, before, after, axis)
    except (IndexError, TypeError, ValueError):  # a form of the call that no rule covers
        found = None
    if found is None and len(before) == rank:
        found = axis
    return found if found is not None and 0 <= found < rank else default_axis(rank)


def _product(trace: Trace, op: Op, axes: dict[int, int], rank: int) -> int:
    """The result has rows of the left and columns of the right factor, and the channels where a factor has them."""
    left, right = op.inputs[0], op.inputs[-1]
    holder = left if left in axes else right
    return rank - 2 if axes.get(holder) == len(trace.values[holder].shape) - 2 else rank - 1


def _normalised_dims(op: Op) -> int:
    shape = op.arg(1, "normalized_shape", ())
    return len(shape) if isinstance(shape, Sequence) else 1
