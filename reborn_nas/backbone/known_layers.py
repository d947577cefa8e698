"""Layers that no general rule can pass, but whose source is known: widened channels pass them by name.

timm's weight-standardised convolutions, `MixedConv2d` and `GhostModule`, recognised by the forward that runs the
operation (`CallSpan.function`), never by a module's path.
"""

from __future__ import annotations

from reborn_nas.backbone.channelmap import ChannelMap
from reborn_nas.backbone.spans import CallSpan
from reborn_nas.backbone.steps import WidenStep
from reborn_nas.backbone.trace import Op, Trace

STANDARDISED = frozenset({"StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"})
# layers that cut their output to the width that this attribute holds
_CUTS = {"GhostModule": "out_chs", "GhostModuleV2": "out_chs", "GhostModuleV3": "out_chs"}


def layer_class(span: CallSpan | None) -> str:
    """Name of the class whose method makes the call; "" where it is unknown."""
    return span.function.split(".")[0] if span is not None and "timm" in span.filename else ""


def standardised_weight(trace: Trace, op: Op, weight: int) -> str | None:
    """The stored parameter of a weight-standardised convolution whose computed weight is `weight`."""
    if layer_class(op.span) not in STANDARDISED:
        return None
    shape = trace.values[weight].shape
    while (producer := trace.producer(weight)) is not None and producer.module == op.module:
        weight = producer.inputs[0]
        if trace.values[weight].param is not None and trace.values[weight].shape == shape:
            return trace.values[weight].param
    return None


def repeats_alike(channels: ChannelMap, groups: int) -> bool:
    """Whether the true channels stand at the same places in every group."""
    places = channels.grouped(groups)
    if places is None:
        return False
    entries = channels.entries()
    return len({tuple(entries[p][1] for p in group) for group in places}) == 1


def mixed_split(op: Op, channels: ChannelMap) -> tuple[tuple[ChannelMap, ...], WidenStep] | None:
    """The maps of the parts into which a `MixedConv2d` splits its channels, and the step that lets it."""
    sizes = op.args[1] if len(op.args) > 1 else None
    if layer_class(op.span) != "MixedConv2d" or op.name != "split" or not isinstance(sizes, list | tuple):
        return None
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = tuple(channels.part(start, size) for start, size in zip(starts, sizes))
    return parts, WidenStep("split", op.module, ("splits",), 1, 1, channels)


def whole_cut(op: Op, cut: object, channels: ChannelMap) -> WidenStep | None:
    """The step for a layer that cuts its output to its own width, where that is all of it."""
    attribute = _CUTS.get(layer_class(op.span))
    whole = isinstance(cut, slice) and cut.start in (None, 0) and cut.step in (None, 1)
    if attribute is None or not whole or not isinstance(cut, slice) or cut.stop != channels.size:
        return None
    return WidenStep("width", op.module, (attribute,), 0, 1, channels)
