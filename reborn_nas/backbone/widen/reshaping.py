"""How widened channels pass the operations that move, regroup or run over dimensions: view, permute, index, sum.

The sizes of a view are traced in its source. Widened channels pass `x.view(B, C, H * W)` with C from `x.shape`, but not
`x.view(B, 64, H * W)`.
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
from reborn_nas.backbone.trace import dims
from reborn_nas.backbone.trace.call_site import function_tree
from reborn_nas.backbone.trace.dims import same_elements
from reborn_nas.backbone.trace.graph import CallSpan, Op, ValueRef


def viewed(scene: Scene) -> Outcome:
    """view, reshape, flatten: the channels stay a separate dimension or merge with the following ones."""
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
    for ins, outs in same_elements(old, new):
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


def _sizes(scene: Scene) -> tuple[Any, ...] | None:
    """The target shape in the arguments of the call."""
    given = scene.op.args[1:] or tuple(v for k, v in scene.op.kwargs.items() if k in ("size", "shape"))
    sizes = tuple(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else tuple(given)
    if len(sizes) != len(scene.shape(scene.op.outputs[0])):
        return None
    return sizes if all(isinstance(size, int) for size in sizes) else None


def moved(scene: Scene) -> Outcome:
    """permute, transpose, squeeze, unsqueeze: the channels stay a separate dimension."""
    value, wide = scene.subject()
    return scene.same(_moved(scene, value, wide, f"a {scene.op.name} of the channels"))


def _moved(scene: Scene, value: int, wide: Wide, what: str) -> Wide:
    dim = dims.moved(scene.op, scene.shape(value), scene.shape(scene.op.outputs[0]), wide.dim)
    if dim is None:
        raise Blocked(what)
    return Wide(dim, wide.channels)


def over_other_dims(scene: Scene, what: str, default: int | None = None) -> Outcome:
    """An operation over given dimensions passes channels that are not among them, whichever dimension they become.

    Args:
        what: text for the channels that are among them.
        default: the dimension if none is given; None means all.
    """
    value, wide = scene.subject()
    over = dims.ran_over(scene.op, len(scene.shape(value)), default)
    if over is None or wide.dim in over:
        raise Blocked(what)
    return scene.same(_moved(scene, value, wide, what))


def along(scene: Scene) -> Outcome:
    """Operations over given dimensions that keep the shape: softmax, cumsum."""
    return over_other_dims(scene, "a softmax or sum over the channels")


def reduced(scene: Scene) -> Outcome:
    """Operations over given dimensions, which disappear or keep one element: mean, sum, amax."""
    return over_other_dims(scene, "a reduction over the channels")


def divided(scene: Scene) -> Outcome:
    """split, chunk, unbind, narrow, select along another dimension."""
    return over_other_dims(scene, f"a {scene.op.name} of the channels", 0)


def rolled(scene: Scene) -> Outcome:
    """roll and flip along other dimensions."""
    return over_other_dims(scene, f"a {scene.op.name} of the channels")


def unflattened(scene: Scene) -> Outcome:
    """unflatten of another dimension."""
    value, wide = scene.subject()
    what = "a reshape that divides the channels into groups (channel shuffle, attention heads)"
    if int(scene.arg(1, "dim")) % len(scene.shape(value)) == wide.dim:
        raise Blocked(what)
    return scene.same(_moved(scene, value, wide, what))


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
    sizes, made = _sizes(scene), _moved(scene, scene.op.inputs[0], wide, "an expand of the channels")
    if sizes is None or sizes[made.dim] != -1:
        raise Blocked("an expand to a fixed number of channels")
    return scene.same(made)


def indexed(scene: Scene) -> Outcome:
    """x[...]: all channels must be taken."""
    value = scene.op.inputs[0]
    if value not in scene.wide or len(scene.op.inputs) != 1:
        raise Blocked("indexing by a tensor")
    wide, rank = scene.wide[value], len(scene.shape(value))
    taken = [item for item in dims.index_items(scene.op, rank) if item is not None][: wide.dim + 1]
    if any(isinstance(item, list | bool | ValueRef) for item in taken):
        raise Blocked("indexing by a list")
    if taken[wide.dim] != slice(None):
        raise Blocked("a slice of the channels")
    return scene.same(_moved(scene, value, wide, "a slice of the channels"))


def stacking(scene: Scene) -> Outcome:
    """Stacked values must be widened alike."""
    parts = [part.id for part in scene.arg(0, "tensors")]
    wides = [scene.wide.get(part) for part in parts]
    first = wides[0]
    if first is None or any(wide != first for wide in wides):
        raise Blocked("a stack of values that are widened differently")
    return scene.same(_moved(scene, parts[0], first, "a stack of the channels"))


def fixes_size(span: CallSpan | None, dim: int) -> bool:
    """Whether the source of a view has the size of `dim` as a number or an attribute of self, not from a shape."""
    given = None if span is None else _given(span)
    if given is None:
        return True
    if dim >= len(given):
        return False
    return not any(isinstance(node, ast.Name) and node.id != "self" for node in ast.walk(given[dim]))


@lru_cache(maxsize=4096)
def _given(span: CallSpan) -> tuple[ast.expr, ...] | None:
    """The sizes in the source of a view; None if the call is not a view."""
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
    """Whether a view has a dimension of `size` by a name that its forward bound to dimension `dim` of a shape."""
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
    "moved": moved,
    "along": along,
    "reduced": reduced,
    "unflattened": unflattened,
    "expanded": expanded,
    "divided": divided,
    "rolled": rolled,
    "indexed": indexed,
    "stacking": stacking,
}
"""Name in the table of operations → rule."""
