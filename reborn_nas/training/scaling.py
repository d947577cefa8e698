"""Loss scaling for fp16, whose small gradients would become zero: scale and skip without reading the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

FIRST = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale doubles; both as in `torch.amp.GradScaler`."""


class LossScaler:
    """`torch.amp.GradScaler`'s rule in tensors that a CUDA graph can hold and a snapshot can restore.

    The loss is multiplied by a scale before the backward pass. Where a gradient overflows, the step is skipped and
    the scale halved; it doubles after `GROWTH_INTERVAL` good steps. The fused optimisers unscale and skip by the
    attributes `grad_scale` and `found_inf`, so that nothing waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((1,), FIRST, device=device)
        self.good = torch.zeros(1, device=device, dtype=torch.int32)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state, for snapshots and checkpoints."""
        return {"scale": self.scale, "good": self.good}

    def step(self, loss: torch.Tensor, optimiser: Any, parameters: Sequence[torch.Tensor]) -> None:
        """Backward and optimiser step of a fused optimiser, which divides the gradients by the scale."""
        (loss * self.scale[0]).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # the norm is infinite or no number where any gradient is
        overflow = ~torch.nn.utils.get_total_norm(gradients).isfinite().view(1)
        optimiser.grad_scale, optimiser.found_inf = self.scale, overflow.float()
        optimiser.step()
        self.good.copy_(torch.where(overflow, 0, self.good + 1))
        grown = self.good >= GROWTH_INTERVAL
        self.scale.mul_(torch.where(overflow, 0.5, torch.where(grown, 2.0, 1.0)))
        self.good.mul_(~grown)
