"""The same numbers: one small forward and backward of the converted network beside the untouched one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reborn_nas.backbone.proof.program import Program
from reborn_nas.backbone.trace.replica import tensors_in

Runs = tuple[Program, Program]
_CLOSE = 1e-4  # gradients are sums, whose order may differ


def randomised(double: nn.Module) -> nn.Module:
    """`double` with numbers that hide nothing: no weight, shift or scale stays at a neutral start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in [*double.named_parameters(), *double.named_buffers()]:
            if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
                continue
            if tensor.numel() > 1 and tensor.min() != tensor.max():
                continue
            last = name.rpartition(".")[2]
            noise = torch.empty(tensor.shape, dtype=torch.float32)
            if "var" in last or (tensor.ndim < 2 and any(w in last for w in ("weight", "gamma", "scale"))):
                noise.uniform_(0.7, 1.3, generator=generator)
            elif tensor.ndim > 1:
                noise.normal_(0, min(1.0, (2.0 / max(1, tensor[0].numel())) ** 0.5), generator=generator)
            else:
                noise.normal_(0, 0.1, generator=generator)
            tensor.copy_(noise)
    return double


def other_numbers(before: Program, after: Program, put_in: Sequence[str]) -> str | None:
    """What the converted network computes otherwise, or None where it computes the same.

    Args:
        before: the untouched network's run.
        after: the converted network's.
        put_in: module paths below which parameters belong to activations.
    """
    mine, theirs = list(tensors_in(before.output)), list(tensors_in(after.output))
    for one, other in zip(mine, theirs, strict=True):
        if not torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)):
            gap = float((one.double() - other.double()).abs().max())
            return (
                f"the converted network gives other numbers than the original (largest difference {gap:.2g})"
            )
    inside = tuple(f"{path}." for path in put_in)
    for name, gradient in before.gradients.items():
        if name.startswith(inside):
            continue
        got = after.gradients.get(name)
        if got is None:
            return f"the parameter {name!r} would get no gradient any more"
        if not _close(gradient, got):
            return f"the gradient of {name!r} would be another"
    for name in after.gradients:
        if name not in before.gradients and not name.startswith(inside):
            return f"the parameter {name!r}, which the original does not train, would get a gradient"
    return None


def _close(one: Tensor, other: Tensor) -> bool:
    one, other = one.to_dense(), other.to_dense()
    if torch.equal(one, other):
        return True
    one, other = one.double(), other.double()
    scale = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)
