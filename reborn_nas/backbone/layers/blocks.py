"""Blocks that slice, split or shuffle their channels themselves: timm's GhostNet modules, torchvision's ShuffleNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.ghostnet import GhostModule, GhostModuleV2, GhostModuleV3
from torch import nn

from reborn_nas.backbone.layers.convolutions import index_buffer
from reborn_nas.backbone.layers.registry import Layer, Outcome, Scene, Wide
from reborn_nas.backbone.layers.steps import Action, ChannelMap, WidenStep
from reborn_nas.errors import ConversionError


class GhostBlock(Layer):
    """`width`: the block slices its output to a width that is an attribute, named by the step."""

    classes = (GhostModule, GhostModuleV2, GhostModuleV3)
    actions: Mapping[str, Action] = {"width": Action(uses="layer")}

    def plan(self, scene: Scene) -> Outcome | None:
        """`out[:, : self.out_chs, :, :]`, if that is the entire output."""
        index = scene.op.args[1] if scene.op.name == "getitem" else None
        value = scene.op.inputs[0]
        if not isinstance(index, tuple) or len(scene.op.inputs) != 1 or value not in scene.wide:
            return None
        wide = scene.wide[value]
        others = [item for place, item in enumerate(index) if place != wide.dim]
        if wide.dim >= len(index) or any(item != slice(None) for item in others):
            return None
        cut = index[wide.dim]
        if not isinstance(cut, slice) or cut.start not in (None, 0) or cut.step not in (None, 1):
            return None
        if cut.stop != wide.channels.size:
            return None
        return Outcome((wide,), (WidenStep("width", scene.op.module, ("out_chs",), 0, 1, wide.channels),))

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Set its new width."""
        for name in step.tensors:
            if not isinstance(getattr(module, name, None), int):
                raise ConversionError(f"'{step.module}' holds no width in {name!r}, as the plan has it")
            setattr(module, name, step.channels.width)


class ShuffleBlock(Layer):
    """`shuffle`, `halve`: ShuffleNet's block shuffles and splits the widened channels like the original ones."""

    named = ("torchvision.models.shufflenetv2:InvertedResidual",)
    actions: Mapping[str, Action] = {"shuffle": Action(uses=""), "halve": Action(uses="layer")}

    def plan(self, scene: Scene) -> Outcome | None:
        """The view that begins a shuffle, and the `chunk` into halves."""
        if scene.op.name == "view":
            return self._shuffle(scene)
        return self._halve(scene) if scene.op.name == "chunk" else None

    def apply(self, module: nn.Module, step: WidenStep) -> None:
        """Make it shuffle or split the channels of the step."""
        from reborn_nas.backbone.layers.shuffled import wide_block  # torchvision is slow to import

        wide: Any = wide_block(module, step.module)
        if step.action == "shuffle":
            order, _ = shuffled(step.channels, step.groups)
            index_buffer(module, "order", order)
        else:
            first = step.channels.part(0, step.channels.size // 2).width
            wide.sizes = [first, step.channels.width - first]

    def _shuffle(self, scene: Scene) -> Outcome | None:
        """The value after the three operations of `channel_shuffle`, with its map."""
        trace, op = scene.trace, scene.op
        _, wide = scene.subject()
        if wide.dim != 1 or op.span is None or op.span.helper != "channel_shuffle":
            return None
        shape = scene.shape(op.inputs[0])
        for later in trace.ops[op.index + 1 : op.index + 5]:
            if later.module != op.module:
                break
            if later.span == op.span and later.name == "view" and scene.shape(later.outputs[0]) == shape:
                behind = Wide(1, shuffled(wide.channels, 2)[1])
                step = scene.form("shuffle", "order", wide.channels, 2)
                return Outcome((None,), (step,), later=((later.outputs[0], behind),))
        return None

    def _halve(self, scene: Scene) -> Outcome | None:
        """The maps of the halves, if each half is contiguous."""
        value, wide = scene.subject()
        dim = int(scene.arg(2, "dim", 0)) % len(scene.shape(value))
        channels, half = wide.channels, wide.channels.size // 2
        sides = [channel >= half for channel in channels.sources()]
        if dim != wide.dim or scene.op.args[1:2] != (2,) or sides != sorted(sides):
            return None
        parts = (Wide(dim, channels.part(0, half)), Wide(dim, channels.part(half, half)))
        return Outcome(parts, (scene.form("halve", "sizes", channels),))


def shuffled(channels: ChannelMap, groups: int) -> tuple[list[int], ChannelMap]:
    """The index before a shuffle of each channel after it, and the map after it.

    The shuffle moves channel i·(C/g) + j to j·g + i. Extra channels stay in the half of their true one, after it, so
    that the next block's split finds each half in one piece.
    """
    per_group, half = channels.size // groups, channels.size // 2
    entries = [
        ((channel % per_group) * groups + channel // per_group, extra)
        for channel, extra in channels.entries()
    ]
    order = sorted(range(len(entries)), key=lambda p: (entries[p][0] // half, entries[p][1], entries[p][0]))
    runs = [(entries[place][0], 1, entries[place][1]) for place in order]
    return order, ChannelMap.of(channels.size, runs)
