"""Layers that no general rule can pass, but whose source is known: widened channels pass them by type.

timm's weight-standardised convolutions, `MixedConv2d`, `SelectiveKernel`, `CondConv2d` and `GhostModule`,
torchvision's ShuffleNet block: each is recognised by its type (`layers.kind_of`), never by a module's path.
"""

from __future__ import annotations

from timm.layers.cond_conv2d import CondConv2d

from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.backbone.layers.registry import CUTTING, REGROUPED, SPLITTING, WIDE, is_shuffle_block
from reborn_nas.backbone.layers.steps import WidenStep
from reborn_nas.backbone.trace.trace import Op, Trace


def regroups(trace: Trace, op: Op) -> bool:
    """Whether the convolution that runs can be told to bring the channels of its groups together."""
    return trace.kinds.get(op.module) in REGROUPED


def standardised_weight(trace: Trace, op: Op, weight: int) -> str | None:
    """The stored parameter of a weight-standardised convolution whose computed weight is `weight`."""
    if trace.kinds.get(op.module) not in WIDE:
        return None
    shape = trace.values[weight].shape
    while (producer := trace.producer(weight)) is not None and producer.module == op.module:
        weight = producer.inputs[0]
        if trace.values[weight].param is not None and trace.values[weight].shape == shape:
            return trace.values[weight].param
    return None


def repeats_alike(channels: ChannelMap, groups: int) -> bool:
    """Whether the true channels stand at the same places in every group."""
    entries = channels.entries()
    return len({tuple(entries[p][1] for p in group) for group in channels.grouped(groups)}) == 1


def known_split(
    trace: Trace, op: Op, channels: ChannelMap
) -> tuple[tuple[ChannelMap, ...], WidenStep] | None:
    """The maps of the parts into which one of timm's layers splits its channels, and the step that lets it."""
    sizes = op.args[1] if len(op.args) > 1 else None
    if trace.kinds.get(op.module) not in SPLITTING or op.name != "split":
        return None
    if isinstance(sizes, int):
        sizes = [min(sizes, channels.size - start) for start in range(0, channels.size, sizes)]
    if not isinstance(sizes, list | tuple):
        return None
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = tuple(channels.part(start, size) for start, size in zip(starts, sizes))
    return parts, WidenStep("split", op.module, ("splits",), 1, 1, channels)


def experts(trace: Trace, op: Op, channels: ChannelMap) -> WidenStep | None:
    """The step for a `CondConv2d`, whose reshape `op` lets each image be convolved with a weight of its own."""
    if trace.kinds.get(op.module) is not CondConv2d or op.name != "reshape":
        return None
    conv = next(later for later in trace.ops[op.index :] if later.name == "conv2d")
    groups = conv.kwargs.get("groups", conv.args[6] if len(conv.args) > 6 else None)
    batch = trace.values[op.inputs[0]].shape[0]
    return WidenStep("experts", op.module, ("weight",), 1, int(groups) // batch, channels)


def whole_cut(trace: Trace, op: Op, cut: object, channels: ChannelMap) -> WidenStep | None:
    """The step for a layer that cuts its output to its own width, where that is all of it."""
    kind = trace.kinds.get(op.module)
    attribute = None if kind is None else CUTTING.get(kind)
    whole = isinstance(cut, slice) and cut.start in (None, 0) and cut.step in (None, 1)
    if attribute is None or not whole or not isinstance(cut, slice) or cut.stop != channels.size:
        return None
    return WidenStep("width", op.module, (attribute,), 0, 1, channels)


def shuffled(trace: Trace, op: Op, channels: ChannelMap) -> tuple[int, ChannelMap, WidenStep] | None:
    """The result of ShuffleNet's channel shuffle that begins with `op`, its map, and the step that lets it."""
    if (
        not is_shuffle_block(trace.kinds.get(op.module))
        or getattr(op.span, "helper", None) != "channel_shuffle"
        or op.name != "view"
    ):
        return None
    shape = trace.values[op.inputs[0]].shape
    for later in trace.ops[op.index + 1 : op.index + 5]:
        if (
            later.span == op.span
            and later.module == op.module
            and trace.values[later.outputs[0]].shape == shape
        ):
            if later.name == "view":
                step = WidenStep("shuffle", op.module, ("order",), 1, 2, channels)
                return later.outputs[0], shuffle_order(channels, 2)[1], step
        elif later.module != op.module:
            break
    return None


def shuffle_order(channels: ChannelMap, groups: int) -> tuple[list[int], ChannelMap]:
    """Where each channel behind a shuffle stands before it, and the map behind it.

    The shuffle moves channel i·(C/g) + j to j·g + i. Extra channels stay in the half of their true one, behind it,
    so that the next block's split finds each half whole.
    """
    per_group, half = channels.size // groups, channels.size // 2
    entries = [
        ((channel % per_group) * groups + channel // per_group, extra)
        for channel, extra in channels.entries()
    ]
    order = sorted(range(len(entries)), key=lambda p: (entries[p][0] // half, entries[p][1], entries[p][0]))
    runs = [(entries[place][0], 1, entries[place][1]) for place in order]
    return order, ChannelMap.of(channels.size, runs)


def halved(trace: Trace, op: Op, channels: ChannelMap) -> tuple[tuple[ChannelMap, ...], WidenStep] | None:
    """The maps of the halves into which ShuffleNet's block splits its channels, where each lies together."""
    if not is_shuffle_block(trace.kinds.get(op.module)) or op.name != "chunk" or op.args[1:2] != (2,):
        return None
    half = channels.size // 2
    sides = [channel >= half for channel in channels.sources()]
    if sides != sorted(sides):
        return None
    parts = (channels.part(0, half), channels.part(half, half))
    return parts, WidenStep("halve", op.module, ("sizes",), 1, 1, channels)
