"""Stand-ins: the activations by which a proof distinguishes the sites of a network, each with unique parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reborn_nas.architecture import Choice
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.sites.site import Site


def stand_ins(sites: Sequence[Site], *, own: bool = False) -> dict[str, Choice]:
    """The stand-in for each site: for classes of no known library one with parameters, which a forward may read."""
    if own:
        return {site.name: Choice("prelu") for site in sites}
    count = max((site.index for site in sites), default=0) + 2
    return {
        site.name: Choice("leaky_relu", negative_slope=round(0.02 + 0.9 * (site.index + 1) / count, 6))
        for site in sites
    }


def acting(double: nn.Module, steps: Plan) -> dict[str, Callable[[Tensor], Tensor]]:
    """Site → stand-in of a plan, for the original network `double`."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {}
    like = next((p for p in double.parameters() if p.is_floating_point()), torch.empty(0))
    for placement in steps.placements:
        original = None if placement.replaces is None else double.get_submodule(placement.replaces)
        made = placement.make(original, steps.init)
        functions[placement.site] = sloped(made.to(device=like.device, dtype=like.dtype), placement.site)
    return functions


def sloped(made: nn.Module, site: str) -> nn.Module:
    """Set the parameters of a stand-in to values that no other site has."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(site.encode()).hexdigest()[:8], 16))
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.is_meta:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.9 + 0.05)
    return made


def randomised(double: nn.Module) -> nn.Module:
    """Randomise `double`, so that no weight, shift or scale has a neutral value that hides differences."""
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
