"""Which dimension of each value holds the channels, followed from operation to operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reborn_nas.backbone.trace.graph import Op, Trace, ValueRef
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
    """For each value that an operation made, and each input, the dimension of its channels (0 is the batch)."""
    axes = {value: default_axis(len(trace.values[value].shape)) for value in trace.inputs}
    for op in trace.ops:
        given = [value for value in op.inputs if value in axes]
        source = max(given, key=lambda value: len(trace.values[value].shape)) if given else None
        for made in op.outputs:
            axes[made] = _axis(trace, op, source, made, axes)
    return axes


def default_axis(rank: int) -> int:
    """The usual dimension of channels: (B, C, H, W), tokens (B, L, C), (B, C)."""
    return 2 if rank == 3 else min(1, max(rank - 1, 0))


def layout_name(rank: int, axis: int) -> str:
    """One of the layouts of the activation families, or `other` where none goes."""
    return _LAYOUTS.get((rank, axis), "other")


def _axis(trace: Trace, op: Op, source: int | None, made: int, axes: dict[int, int]) -> int:
    after = trace.values[made].shape
    rank = len(after)
    if rank <= 1 or source is None:
        return default_axis(rank)
    before, axis = trace.values[source].shape, axes[source]
    known = operation(op.name).axis
    if known == "first":
        return 1
    if known == "last" or (known == "norm_last" and _normalised_dims(op) == 1):
        return rank - 1
    if known == "product":
        return _product(trace, op, axes, rank)
    rule = _RULES.get(known)
    found = rule(op, before, after, axis) if rule is not None else None
    if found is None and known != "reduced" and len(before) == rank:
        found = axis
    return found if found is not None and 0 <= found < rank else default_axis(rank)


def _product(trace: Trace, op: Op, axes: dict[int, int], rank: int) -> int:
    """Rows of the result are the left factor's, columns the right one's; the channels are where a factor has them."""
    left, right = op.inputs[0], op.inputs[-1]
    holder = left if left in axes else right
    return rank - 2 if axes.get(holder) == len(trace.values[holder].shape) - 2 else rank - 1


def _normalised_dims(op: Op) -> int:
    shape = op.kwargs.get("normalized_shape", op.args[1] if len(op.args) > 1 else ())
    return len(shape) if isinstance(shape, Sequence) else 1


def _numbers(op: Op, *names: str) -> list[int]:
    """The operation's integer arguments after the tensor, flattened, positional before named."""
    numbers: list[int] = []
    for argument in [*op.args[1:], *(op.kwargs[name] for name in names if name in op.kwargs)]:
        items = argument if isinstance(argument, tuple | list) else (argument,)
        numbers += [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
    return numbers


def _permute(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    dims = [dim % len(before) for dim in _numbers(op, "dims")]
    return dims.index(axis) if axis in dims else None


def _transpose(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    dims = [dim % len(before) for dim in _numbers(op, "dim0", "dim1", "axis0", "axis1")]
    if len(dims) != 2:
        return None
    return dims[1] if axis == dims[0] else dims[0] if axis == dims[1] else axis


def _flatten(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    dims = _numbers(op, "start_dim", "end_dim")
    start, end = (dims + [0, -1][len(dims) :])[:2]
    start, end = start % len(before), end % len(before)
    return axis if axis < start else start if axis <= end else axis - (end - start)


def _unsqueeze(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    dims = _numbers(op, "dim")
    return axis + (dims[0] % len(after) <= axis) if dims else None


def _unbind(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    dim = (_numbers(op, "dim") or [0])[0] % len(before)
    return axis - (dim < axis)


def _stack(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    dim = (_numbers(op, "dim") or [0])[0] % len(after)
    return axis + (dim <= axis)


def _reshape(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """Runs of dimensions that merge or split have equal products; the channels stay the last of their run."""
    old = new = 0
    while old < len(before) and new < len(after):
        old_end, new_end = old + 1, new + 1
        left, right = before[old], after[new]
        while left != right:
            if left < right and old_end < len(before):
                left, old_end = left * before[old_end], old_end + 1
            elif left > right and new_end < len(after):
                right, new_end = right * after[new_end], new_end + 1
            else:
                return None
        if old <= axis < old_end:
            return new_end - 1
        old, new = old_end, new_end
    return None


def _getitem(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """x[:, 0] drops dimensions, x[:, None] adds some, x[..., :8] does neither."""
    index = op.args[1] if len(op.args) > 1 else ()
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(item, ValueRef | list) for item in items):
        return axis if len(before) == len(after) else None
    if Ellipsis in items:
        place = items.index(Ellipsis)
        taken = sum(1 for item in items if item is not None and item is not Ellipsis)
        items[place : place + 1] = [slice(None)] * (len(before) - taken)
    position, old = 0, 0
    for item in items:
        if item is None:
            position += 1
            continue
        if old == axis:
            return None if isinstance(item, int) else position
        position += not isinstance(item, int)
        old += 1
    return position + axis - old


def _reduced(op: Op, before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    if len(before) == len(after):
        return axis
    dims = {dim % len(before) for dim in _numbers(op, "dim", "axis") if -len(before) <= dim < len(before)}
    return None if axis in dims else axis - sum(1 for dim in dims if dim < axis)


_Rule = Callable[[Op, Sequence[int], Sequence[int], int], int | None]
_RULES: dict[str, _Rule] = {
    "permute": _permute,
    "transpose": _transpose,
    "flatten": _flatten,
    "unsqueeze": _unsqueeze,
    "unbind": _unbind,
    "stack": _stack,
    "reshape": _reshape,
    "getitem": _getitem,
    "reduced": _reduced,
}
