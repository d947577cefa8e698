"""How operations move the dimensions of their inputs: the only such rules, for sites and for widened channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reborn_nas.backbone.trace.graph import Op, ValueRef
from reborn_nas.backbone.trace.ops import operation

Shape = Sequence[int]


def moved(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    """The dimension of the result that dimension `dim` of the input becomes; None if it disappears or no rule applies.

    Dimensions that a reshape merges or splits become the last of the dimensions that hold the same elements.

    Args:
        before: shape of the input.
        after: shape of the result.

    Raises:
        IndexError, TypeError, ValueError: the operation is called in a form that its rule does not cover.
    """
    rule = _RULES.get(operation(op.name).moves)
    if rule is not None:
        return rule(op, before, after, dim)
    return dim if len(before) == len(after) else None


def ran_over(op: Op, rank: int, default: int | None = None) -> set[int] | None:
    """The dimensions of its input over which an operation runs, such as a sum; None if none are given."""
    place, kwargs = operation(op.name).dim_place, op.kwargs
    dims = op.arg(place, "dim", kwargs.get("dims", kwargs.get("axis", default)))
    if op.name == "flip":
        dims = _one_by_one(op, dims)
    if dims is None or isinstance(dims, str | ValueRef):
        return None
    return {dim % rank for dim in _listed(dims)} or set(range(rank))


def same_elements(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions of both shapes that hold the same elements; empty if there are none."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        ins, outs = [], []
        left = right = 1
        if i < len(before):
            ins, left, i = [i], before[i], i + 1
        if j < len(after):
            outs, right, j = [j], after[j], j + 1
        while left != right:
            if left < right and i < len(before):
                ins.append(i)
                left, i = left * before[i], i + 1
            elif right < left and j < len(after):
                outs.append(j)
                right, j = right * after[j], j + 1
            else:
                return []
        runs.append((ins, outs))
    return runs


def index_items(op: Op, rank: int) -> list[Any]:
    """The index of `x[...]` into each of `rank` dimensions, and None for each new one."""
    index = op.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    rest = [slice(None)] * (rank - sum(item is not None and item is not Ellipsis for item in items))
    place = next((place for place, item in enumerate(items) if item is Ellipsis), len(items))
    items[place : place + 1] = rest
    return items


def _permuted(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    order = list(range(len(before)))
    if op.name == "permute":
        order = [int(d) % len(before) for d in _one_by_one(op, op.arg(1, "dims"))]
    elif op.name in ("T", "t"):
        order.reverse()
    else:
        pair = (
            (-2, -1) if op.name == "mT" else (_first(op, 1, "dim0", "axis0"), _first(op, 2, "dim1", "axis1"))
        )
        a, b = (d % len(before) for d in pair)
        order[a], order[b] = b, a
    return order.index(dim)


def _one_by_one(op: Op, dims: Any) -> Sequence[Any]:
    """The dimensions of `x.permute(0, 2, 1)`, which may also be a tuple."""
    return dims if isinstance(dims, list | tuple) else op.args[1:]


def _first(op: Op, place: int, name: str, other: str) -> int:
    return int(op.arg(place, name, op.kwargs.get(other)))


def _regrouped(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    return next((outs[-1] for ins, outs in same_elements(before, after) if dim in ins and outs), None)


def _unflattened(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    split = int(op.arg(1, "dim")) % len(before)
    return dim + (len(after) - len(before) if split <= dim else 0)


def _unsqueezed(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    return dim + (int(op.arg(1, "dim")) % len(after) <= dim)


def _squeezed(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    over = ran_over(op, len(before))
    gone = {d for d, size in enumerate(before) if size == 1 and (over is None or d in over)}
    return None if dim in gone else dim - sum(d < dim for d in gone)


def _dropped(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    taken = int(op.arg(1, "dim", 0)) % len(before)
    return None if dim == taken else dim - (taken < dim)


def _stacked(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    return dim + (int(op.arg(1, "dim", 0)) % len(after) <= dim)


def _expanded(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    return dim + len(after) - len(before)


def _reduced(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    if len(before) == len(after):
        return dim
    over = ran_over(op, len(before))
    return None if over is None or dim in over else dim - sum(d < dim for d in over)


def _indexed(op: Op, before: Shape, after: Shape, dim: int) -> int | None:
    """x[:, 0] drops dimensions, x[:, None] adds some, x[..., :8] does neither."""
    position = old = 0
    for item in index_items(op, len(before)):
        if isinstance(item, ValueRef | list | bool):
            return dim if len(before) == len(after) else None
        if item is None:
            position += 1
        elif old == dim:
            return None if isinstance(item, int) else position
        else:
            position += not isinstance(item, int)
            old += 1
    return None


def _listed(dims: Any) -> list[int]:
    return [int(d) for d in dims] if isinstance(dims, list | tuple) else [int(dims)]


_RULES: dict[str, Callable[[Op, Shape, Shape, int], int | None]] = {
    "permuted": _permuted,
    "regrouped": _regrouped,
    "unflattened": _unflattened,
    "unsqueezed": _unsqueezed,
    "squeezed": _squeezed,
    "dropped": _dropped,
    "stacked": _stacked,
    "expanded": _expanded,
    "reduced": _reduced,
    "indexed": _indexed,
}
"""Name in the table of operations → rule."""
