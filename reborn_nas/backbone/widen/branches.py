"""Rules for two branches that meet a widened value: the identity branch of a sum, the depthwise branch of a factor.

The walk asks for them where an operation's general rule (`rules.RULES`) would block.
"""

from __future__ import annotations

from reborn_nas.backbone.layers.cut import CUT
from reborn_nas.backbone.layers.steps import WidenStep
from reborn_nas.backbone.trace.trace import Op, Trace
from reborn_nas.backbone.widen.flow import Blocked, Outcome, Scene, spatial_rank
from reborn_nas.backbone.widen.known_layers import regroups


def identity_branch(trace: Trace, total: Op, value: int) -> Op | None:
    """The batch norm that makes `value`, an operand of the sum `total` and of nothing else."""
    norm = trace.producer(value)
    if norm is None or norm.name != "batch_norm" or total.name != "add":
        return None
    if trace.kinds.get(norm.module) not in CUT or list(trace.consumers(value)) != [total]:
        return None
    return norm


def cut(scene: Scene) -> Outcome:
    """The identity branch of a sum (RepVGG, MobileOne): its norm reads the original channels alone.

    The other branches, which have weights, read the extra ones.
    """
    _, wide = scene.subject()
    if wide.dim != 1:
        raise Blocked("a norm over the channels")
    return scene.narrow(WidenStep("cut", scene.op.module, ("kept",), 1, 1, wide.channels))


def is_depthwise(scene: Scene) -> bool:
    """Whether the convolution makes each channel from the one at its place."""
    op = scene.op
    groups = 1 if op.name == "linear" else int(scene.arg(6, "groups", 1))
    place = len(scene.shape(op.inputs[0])) - spatial_rank(op) - 1
    widths = {scene.shape(value)[place] for value in (op.inputs[0], op.outputs[0])}
    return groups > 1 and widths == {groups} and regroups(scene.trace, op)


def copied(scene: Scene) -> Outcome:
    """A depthwise convolution on the way to a factor (GhostNetV2's attention) gets copies of its filters."""
    _, wide = scene.subject()
    tensors = (scene.tensor(1, "weight"), scene.tensor(2, "bias"))
    return Outcome((wide,), (scene.step("depthwise", tensors, 0, wide.channels),))
