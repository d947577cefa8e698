"""Channel doubling: what must be widened behind a doubled activation, and widening it.

CReLU and the uncompressed reborn block turn C channels into 2C, the positive path first. `widening` walks the
recorded run from such sites to their consumers and says which tensors must grow, or what blocks;
`apply_widening` makes them grow.
"""

from __future__ import annotations

from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.backbone.layers.steps import Refusal, Widening, WidenStep
from reborn_nas.backbone.widen.edit import apply_widening
from reborn_nas.backbone.widen.widening import widening

__all__ = ["ChannelMap", "Refusal", "WidenStep", "Widening", "apply_widening", "widening"]
