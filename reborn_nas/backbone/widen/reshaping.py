"""How widened channels pass the operations that only move or regroup dimensions: view, permute, flatten, index.

Where the sizes in a view come from is read off its source. Widened channels pass `x.view(B, C, H * W)` with C from
`x.shape`, and do not pass `x.view(B, 64, H * W)`.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

from reborn_nas.backbone.layers.registry import Blocked, Outcome, Scene, Wide
from reborn_nas.backbone.trace.call_site import function_tree
from reborn_nas.backbone.trace.graph import CallSpan, Op, ValueRef


def viewed(scene: Scene) -> Outcome:
    """view, reshape, flatten: the channels keep a dimension of their own or merge with what lies behind them."""
    value, wide = scene.subject()
    old, new = scene.shape(value), scene.shape(scene.op.outputs[0])
    outcome = regrouped(old, new, wide)
    if scene.op.name in ("view", "reshape"):
        sizes = _sizes(scene)
        if sizes is None:
            raise Blocked(f"a {scene.op.name} to another tensor's shape or type")
        if sizes[outcome.dim] != -1 and fixes_size(scene.op.span, outcome.dim):
            raise Blocked(f"a {scene.op.name} that fixes the size {new[outcome.dim]} in the source")
    return scene.same(outcome)


def regrouped(old: tuple[int, ...], new: tuple[int, ...], wide: Wide) -> Wide:
    """The widened dimension of shape `old`, in shape `new` of the same elements."""
    for ins, outs in _matched(old, new):
        if wide.dim not in ins:
            continue
        real = [d for d in outs if new[d] != 1]
        before, behind = prod(old[ins[0] : wide.dim]), prod(old[wide.dim + 1 : ins[-1] + 1])
        if len(real) != 1 or (before > 1 and ins[0] == 0):
            raise Blocked(
                "a reshape that divides the channels into groups (channel shuffle, attention heads)"
            )
        return Wide(real[0], wide.channels.merged(before, behind))
    raise Blocked("a reshape that mixes the channels with other dimensions")


def _matched(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of dimensions of both shapes that hold the same elements."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        ins, outs = [], []
        left = right = 1
        if i < len(old):
            ins, left, i = [i], old[i], i + 1
        if j < len(new):
            outs, right, j = [j], new[j], j + 1
        while left != right:
            if left < right and i < len(old):
                ins.append(i)
                left, i = left * old[i], i + 1
            elif right < left and j < len(new):
                outs.append(j)
                right, j = right * new[j], j + 1
            else:
                return []
        runs.append((ins, outs))
    return runs


def _sizes(scene: Scene) -> tuple[Any, ...] | None:
    """The target shape as the call gives it."""
    given = scene.op.args[1:] or tuple(v for k, v in scene.op.kwargs.items() if k in ("size", "shape"))
    sizes = tuple(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else tuple(given)
    if len(sizes) != len(scene.shape(scene.op.outputs[0])):
        return None
    return sizes if all(isinstance(size, int) for size in sizes) else None


def permuted(scene: Scene) -> Outcome:
    """permute, transpose, T: the channels' dimension moves."""
    value, wide = scene.subject()
    rank = len(scene.shape(value))
    name = scene.op.name
    order = list(range(rank))
    if name == "permute":
        given = list(scene.op.args[1:]) or [scene.arg(1, "dims")]
        given = list(given[0]) if isinstance(given[0], list | tuple) else given
        order = [int(d) % rank for d in given]
    elif name == "T":
        order = order[::-1]
    elif name == "mT":
        order = [*order[:-2], order[-1], order[-2]]
    else:
        a, b = (int(scene.arg(i, n, scene.op.kwargs.get(m))) % rank for i, n, m in _PAIR)
        order[a], order[b] = order[b], order[a]
    return scene.same(Wide(order.index(wide.dim), wide.channels))


_PAIR = ((1, "dim0", "axis0"), (2, "dim1", "axis1"))


def squeezed(scene: Scene) -> Outcome:
    """squeeze and unsqueeze of other dimensions."""
    value, wide = scene.subject()
    shape = scene.shape(value)
    if scene.op.name == "unsqueeze":
        dim = int(scene.arg(1, "dim")) % (len(shape) + 1)
        return scene.same(Wide(wide.dim + (dim <= wide.dim), wide.channels))
    dims = scene.arg(1, "dim")
    over = range(len(shape)) if dims is None else [d % len(shape) for d in _listed(dims)]
    gone = {d for d in over if shape[d] == 1}
    if wide.dim in over and (dims is not None or shape[wide.dim] == 1):
        raise Blocked("a squeeze of the channels")
    return scene.same(Wide(wide.dim - sum(d < wide.dim for d in gone), wide.channels))


def unflattened(scene: Scene) -> Outcome:
    """unflatten of another dimension."""
    value, wide = scene.subject()
    dim = int(scene.arg(1, "dim")) % len(scene.shape(value))
    if dim == wide.dim:
        raise Blocked("a reshape that divides the channels into groups (channel shuffle, attention heads)")
    more = len(scene.shape(scene.op.outputs[0])) - len(scene.shape(value))
    return scene.same(Wide(wide.dim + more * (dim < wide.dim), wide.channels))


def expanded(scene: Scene) -> Outcome:
    """expand and expand_as along other dimensions, or to a widened value's channels."""
    value = scene.tensor(0, "input")
    shape, new = scene.shape(scene.op.inputs[0]), scene.shape(scene.op.outputs[0])
    wide = scene.wide.get(-1 if value is None else value)
    if scene.op.name == "expand_as":
        other_id = scene.tensor(1, "other")
        other = None if other_id is None else scene.wide.get(other_id)
        if other is None:
            raise Blocked("an expand_as to a value that keeps its channels")
        dim = other.dim - (len(new) - len(shape))
        if wide is None and dim >= 0 and shape[dim] != 1:
            return Outcome((other,), (), ((scene.op.inputs[0], Wide(dim, other.channels)),))
        if wide is not None and (wide.dim != dim or wide.channels != other.channels):
            raise Blocked("an expand_as of two values that are widened differently")
        return scene.same(other)
    if wide is None:
        raise Blocked("an expand by another tensor")
    given = scene.op.args[1:]
    sizes = tuple(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given
    dim = wide.dim + len(new) - len(shape)
    if not sizes or sizes[dim] != -1:
        raise Blocked("an expand to a fixed number of channels")
    return scene.same(Wide(dim, wide.channels))


def divided(scene: Scene) -> Outcome:
    """split, chunk, unbind, narrow, select along another dimension."""
    value, wide = scene.subject()
    rank = len(scene.shape(value))
    place, default = (1, 0) if scene.op.name in ("unbind", "select", "narrow", "index_select") else (2, 0)
    dim = int(scene.arg(place, "dim", default)) % rank
    if dim == wide.dim:
        raise Blocked(f"a {scene.op.name} of the channels")
    drops = scene.op.name in ("unbind", "select")
    return scene.same(Wide(wide.dim - (drops and dim < wide.dim), wide.channels))


def rolled(scene: Scene) -> Outcome:
    """roll and flip along other dimensions."""
    value, wide = scene.subject()
    dims = scene.arg(2, "dims") if scene.op.name == "roll" else scene.arg(1, "dims")
    if dims is None or any(d % len(scene.shape(value)) == wide.dim for d in _listed(dims)):
        raise Blocked(f"a {scene.op.name} of the channels")
    return scene.same(wide)


def indexed(scene: Scene) -> Outcome:
    """x[...]: all channels must be taken."""
    value = scene.op.inputs[0]
    if value not in scene.wide or len(scene.op.inputs) != 1:
        raise Blocked("indexing by a tensor")
    wide, rank = scene.wide[value], len(scene.shape(value))
    index = scene.op.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(item is not None and item is not Ellipsis for item in items)
    filler = [slice(None)] * (rank - used)
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = filler
    else:
        items += filler
    dim = position = 0
    for item in items:
        if isinstance(item, list | bool | ValueRef):
            raise Blocked("indexing by a list")
        if item is None:
            position += 1
        elif dim == wide.dim:
            if item != slice(None):
                raise Blocked("a slice of the channels")
            return scene.same(Wide(position, wide.channels))
        else:
            dim += 1
            position += isinstance(item, slice)
    raise Blocked("a slice of the channels")


def _listed(dims: Any) -> list[int]:
    return [int(d) for d in dims] if isinstance(dims, list | tuple) else [int(dims)]


def fixes_size(span: CallSpan | None, dim: int) -> bool:
    """Whether the source of a view gives the size of `dim` as a number or an attribute of self, not from a shape."""
    given = None if span is None else _given(span)
    if given is None:
        return True
    if dim >= len(given):
        return False
    return not any(isinstance(node, ast.Name) and node.id != "self" for node in ast.walk(given[dim]))


@lru_cache(maxsize=4096)
def _given(span: CallSpan) -> tuple[ast.expr, ...] | None:
    """The sizes in the source of a view; None where the call is another, whose source is not looked for."""
    lines = [linecache.getline(span.filename, n) for n in range(span.line, span.end_line + 1)]
    text = "".join(lines).encode()
    tail = len(lines[-1].encode()) - span.end_column if lines else 0
    try:
        call = ast.parse(text[span.column : len(text) - tail].decode().strip(), mode="eval").body
    except (SyntaxError, UnicodeDecodeError, IndexError):
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute | ast.Name):
        return None
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
    if name not in ("view", "reshape"):
        return None  # the view is in a function that this method calls
    given: list[ast.expr] = list(call.args)
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        given = given[1:] if call.func.value.id in ("torch", "F") else given
    if len(given) == 1 and isinstance(given[0], ast.Tuple | ast.List):
        given = list(given[0].elts)
    return tuple(given)


def takes_size(op: Op, size: int, dim: int) -> bool:
    """Whether a view makes a dimension of `size`, by a name that its forward bound to dimension `dim` of a shape."""
    given = op.args[1:]
    sizes = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    if op.span is None or size not in sizes:
        return False
    names = _read_off(op.span.filename, op.span.first_line, dim)
    return any(
        each == size and any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(text))
        for each, text in zip(sizes, _given(op.span) or ())
    )


@lru_cache(maxsize=4096)
def _read_off(filename: str, first_line: int, dim: int) -> frozenset[str]:
    """Names that a function binds to dimension `dim` of a shape: `B, C, H, W = x.shape`, `C = x.size(1)`."""
    tree = function_tree(filename, first_line)
    names = set()
    for node in ast.walk(tree) if tree is not None else ():
        if not isinstance(node, ast.Assign) or not _SHAPE.search(ast.unparse(node.value)):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name):
                names.add(target.id)
            elif isinstance(target, ast.Tuple) and dim < len(target.elts):
                element = target.elts[dim]
                names.update([element.id] if isinstance(element, ast.Name) else [])
    return frozenset(names)


_SHAPE = re.compile(r"\.shape\b|\.size\(")


RULES: dict[str, Callable[[Scene], Outcome]] = {
    "viewed": viewed,
    "permuted": permuted,
    "squeezed": squeezed,
    "unflattened": unflattened,
    "expanded": expanded,
    "divided": divided,
    "rolled": rolled,
    "indexed": indexed,
}
"""Name in the table of operations → rule."""
