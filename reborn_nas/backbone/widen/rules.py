"""How widened channels pass one operation of a trace: one rule per kind of operation.

A rule is given the widened inputs, and returns how the outputs are widened. It may add steps (tensors to widen) and may
require other values to be widened too (the gate of a squeeze-excite). Whatever no rule proves possible is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from reborn_nas.backbone.layers.registry import Blocked, Outcome, Scene, Wide, layer_of
from reborn_nas.backbone.layers.steps import ChannelMap
from reborn_nas.backbone.trace.graph import Op, Trace
from reborn_nas.backbone.trace.ops import operation

Rule = Callable[[Scene], Outcome]


def pass_through(scene: Scene) -> Outcome:
    """Every output has the input's shape, channel by channel."""
    _, wide = scene.subject()
    return scene.same(wide)


def pooled(scene: Scene) -> Outcome:
    """Pooling, padding, resampling of the dimensions after the channels."""
    value, wide = scene.subject()
    rank = len(scene.shape(value))
    name = scene.op.name
    if name == "pad":
        spatial = len(scene.arg(1, "pad")) // 2
        if any(scene.arg(1, "pad")[2 * (rank - 1 - wide.dim) : 2 * (rank - wide.dim)]):
            raise Blocked("padding of the channels")
        spatial = 0
    else:
        spatial = spatial_rank(scene.op) or rank - 2
    if wide.dim >= rank - spatial:
        raise Blocked("pooling over the channels")
    return scene.same(wide)


def elementwise(scene: Scene) -> Outcome:
    """Broadcasting arithmetic: operands must be widened alike; another factor or parameter is widened too."""
    rank = len(scene.shape(scene.op.outputs[0]))
    places = {v: scene.wide[v].dim + rank - len(scene.shape(v)) for v in scene.op.inputs if v in scene.wide}
    place = next(iter(places.values()))
    channels = next(scene.wide[v].channels for v in places)
    if any(p != place or scene.wide[v].channels != channels for v, p in places.items()):
        raise Blocked(f"{_operation(scene.op.name)} of two values that are widened differently")
    wanted: list[tuple[int, Wide]] = []
    for value in dict.fromkeys(scene.op.inputs):
        shape = scene.shape(value)
        dim = place - (rank - len(shape))
        if value in places or dim < 0 or shape[dim] == 1:
            continue
        # any factor made by a layer is possible: the layer can return each channel twice
        factor = scene.op.name in ("mul", "multiply") or is_gate(scene, value, dim)
        if not (factor or is_stored(scene.trace, value)):
            raise Blocked(f"{_operation(scene.op.name)} with a value that keeps its {shape[dim]} channels")
        wanted.append((value, Wide(dim, channels)))
    if scene.shape(scene.op.outputs[0])[place] != channels.size:
        raise Blocked("broadcasting of its one channel")
    return Outcome((Wide(place, channels),) * len(scene.op.outputs), (), tuple(wanted))


def is_gate(scene: Scene, value: int, dim: int) -> bool:
    """Whether the value has one number per channel for the entire map."""
    shape, full = scene.shape(value), scene.shape(scene.op.outputs[0])
    offset = len(full) - len(shape)
    return any(shape[d] != full[d + offset] for d in range(len(shape)) if d != dim and d + offset > 0)


def is_stored(trace: Trace, value: int) -> bool:
    """Whether the value is a parameter or buffer, possibly reshaped."""
    while trace.values[value].param is None:
        op = trace.producer(value)
        if op is None or not operation(op.name).reshapes:
            return False
        value = op.inputs[0]
    return True


def _operation(name: str) -> str:
    return {"add": "a sum", "sub": "a difference", "mul": "a product", "div": "a quotient"}.get(
        name, f"{name}"
    )


def spatial_rank(op: Op) -> int:
    """The 2 of `conv2d`; 0 if the name has no such digit."""
    return next((int(letter) for letter in op.name if letter.isdigit()), 0)


def convolution(scene: Scene) -> Outcome:
    """A convolution reads the widened channels, also if it is grouped or depthwise; a fixed blur passes them on."""
    value, wide = scene.subject()
    weight = scene.tensor(1, "weight")
    groups = int(scene.arg(6, "groups", 1))
    rank = len(scene.shape(value))
    if weight is None:
        raise Blocked("a convolution without a weight")
    if wide.dim == rank - 1 and scene.op.name == "conv1d":
        raise Blocked("a convolution along the channels")
    if wide.dim != rank - spatial_rank(scene.op) - 1:
        raise Blocked("a convolution over the channels")
    step = scene.step("consume", (weight,), 1, wide.channels, groups)
    if groups > 1 and not scene.layer.regroups:
        raise Blocked(f"a convolution in {groups} groups whose forward is not PyTorch's own")
    return scene.narrow(step)


def transposed_convolution(scene: Scene) -> Outcome:
    """A transposed convolution without groups reads the widened channels."""
    value, wide = scene.subject()
    if (
        int(scene.arg(6, "groups", 1)) != 1
        or wide.dim != len(scene.shape(value)) - spatial_rank(scene.op) - 1
    ):
        raise Blocked("a grouped transposed convolution")
    return scene.narrow(scene.step("consume", (scene.tensor(1, "weight"),), 0, wide.channels))


def linear(scene: Scene) -> Outcome:
    """A linear layer reads the widened columns; over another dimension it passes them on."""
    value, wide = scene.subject()
    if wide.dim != len(scene.shape(value)) - 1:
        return scene.same(wide)
    return scene.narrow(scene.step("consume", (scene.tensor(1, "weight"),), 1, wide.channels))


def batch_norm(scene: Scene) -> Outcome:
    """A norm with per-channel statistics gets as many more channels."""
    _, wide = scene.subject()
    if wide.dim != 1:
        raise Blocked("a norm over the channels")
    names = ("running_mean", "running_var", "weight", "bias")
    order = (1, 2, 3, 4)
    tensors = [scene.tensor(place, name) for place, name in zip(order, names)]
    if all(tensor is None for tensor in tensors):
        return scene.same(wide)
    return Outcome((wide,) * len(scene.op.outputs), (scene.step("norm", tensors, 0, wide.channels),))


def layer_norm(scene: Scene) -> Outcome:
    """A norm over the last dimensions passes only channels that are not among them."""
    value, wide = scene.subject()
    normalised = scene.arg(1, "normalized_shape")
    if wide.dim >= len(scene.shape(value)) - len(normalised):
        raise Blocked("a norm over the channels")
    return scene.same(wide)


def prelu(scene: Scene) -> Outcome:
    """PReLU with one slope per channel gets copies of the slopes."""
    _, wide = scene.subject()
    weight = scene.tensor(1, "weight")
    if weight is None or prod(scene.shape(weight)) == 1:
        return scene.same(wide)
    if wide.dim != 1:
        raise Blocked("a PReLU over another dimension")
    return Outcome((wide,), (scene.step("copy", (weight,), 0, wide.channels),))


def concatenation(scene: Scene) -> Outcome:
    """Concatenated channels are in consecutive ranges."""
    tensors = scene.arg(0, "tensors")
    parts = [part.id for part in tensors]
    rank = len(scene.shape(parts[0]))
    dim = int(scene.arg(1, "dim", scene.op.kwargs.get("axis", 0))) % rank
    wides = [scene.wide.get(part) for part in parts]
    dims = {wide.dim for wide in wides if wide}
    if dims == {dim}:
        maps = [
            wide.channels if wide else ChannelMap.identity(scene.shape(part)[dim])
            for part, wide in zip(parts, wides)
        ]
        return scene.same(Wide(dim, ChannelMap.concatenated(maps)))
    if wides[0] is None or any(wide != wides[0] for wide in wides):
        raise Blocked("a concatenation of values that are widened differently")
    return scene.same(wides[0])


def matrix_product(scene: Scene) -> Outcome:
    """Channels that are not summed over pass: the rows of the left factor, the columns of the right one."""
    value = next(v for v in scene.op.inputs if v in scene.wide)
    wide, rank = scene.wide[value], len(scene.shape(value))
    out = len(scene.shape(scene.op.outputs[0]))
    places = [n for n, v in enumerate(scene.op.inputs) if v == value]
    if len(scene.op.inputs) != 2 or len(places) != 1 or scene.op.inputs[1 - places[0]] in scene.wide:
        raise Blocked("a matrix product (attention)")
    free = rank - 2 + places[0]
    if wide.dim != free or rank < 2 or len(scene.shape(scene.op.inputs[1 - places[0]])) < 2:
        raise Blocked("a matrix product over the channels (attention)")
    return scene.same(Wide(out - 2 + places[0], wide.channels))


def made_new(scene: Scene) -> Outcome:
    """A new tensor of a given shape, such as drop path's mask, must not have the channels' size."""
    wide = next(iter(scene.wide[v] for v in scene.op.inputs if v in scene.wide))
    shape = scene.shape(scene.op.outputs[0])
    if len(shape) > wide.dim and shape[wide.dim] == wide.channels.size > 1:
        raise Blocked("a new tensor of the same number of channels")
    return scene.narrow()


def identity_branch(trace: Trace, total: Op, value: int) -> Op | None:
    """The norm whose result is `value`, which only the sum `total` reads."""
    norm = trace.producer(value)
    if norm is None or norm.name != "batch_norm" or total.name != "add":
        return None
    if not layer_of(trace.classes.get(norm.module)).cuts or list(trace.consumers(value)) != [total]:
        return None
    return norm


def cut(scene: Scene) -> Outcome:
    """The identity branch of a sum: its norm reads only the original channels."""
    _, wide = scene.subject()
    if wide.dim != 1:
        raise Blocked("a norm over the channels")
    return scene.narrow(scene.layer.cut(scene))


def is_depthwise(scene: Scene) -> bool:
    """Whether the convolution computes each channel from the one at the same index."""
    op = scene.op
    groups = 1 if op.name == "linear" else int(scene.arg(6, "groups", 1))
    place = len(scene.shape(op.inputs[0])) - spatial_rank(op) - 1
    widths = {scene.shape(value)[place] for value in (op.inputs[0], op.outputs[0])}
    return groups > 1 and widths == {groups} and scene.layer.regroups


def copied(scene: Scene) -> Outcome:
    """A depthwise convolution in the computation of a factor (GhostNetV2's attention) gets copies of its filters."""
    _, wide = scene.subject()
    tensors = (scene.tensor(1, "weight"), scene.tensor(2, "bias"))
    return Outcome((wide,), (scene.step("depthwise", tensors, 0, wide.channels),))


RULES: dict[str, Rule] = {
    "same": pass_through,
    "elementwise": elementwise,
    "pooled": pooled,
    "made_new": made_new,
    "convolution": convolution,
    "transposed": transposed_convolution,
    "linear": linear,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "prelu": prelu,
    "concatenation": concatenation,
    "matrix_product": matrix_product,
}
"""Name in the table of operations → rule."""
