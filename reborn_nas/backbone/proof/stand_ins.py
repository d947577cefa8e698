"""What stands in for activations while a network is put to the proof, in flight and put in by conversion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.architecture import Choice
from reborn_nas.backbone.proof.marks import Converted, Untouched, run
from reborn_nas.backbone.proof.program import Program
from reborn_nas.backbone.replace.apply import apply
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.sites.site import Site
from reborn_nas.backbone.trace.replica import copied
from reborn_nas.errors import ConversionError


def untouched(
    double: nn.Module,
    sites: Sequence[Site],
    steps: Plan,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: bool,
    *,
    gradients: bool = False,
    seed: int = 0,
) -> tuple[Program, Untouched]:
    """The program of `double`, with what `steps` puts in acting in flight."""
    functions = _functions(double, sites, steps)

    def make(recorder: Any) -> Untouched:
        return Untouched(double, recorder, sites, functions)

    program, marks = run(make, double, args, kwargs, training=training, gradients=gradients, seed=seed)
    assert isinstance(marks, Untouched)
    return program, marks


def converted(
    double: nn.Module,
    steps: Plan,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: bool,
    *,
    gradients: bool = False,
) -> Program:
    """The program of a copy of the converted `double`."""
    try:
        new = apply(double, steps, inplace=True)
        if not gradients:  # those that only show what runs also show that copies of it run the same
            new = copied(new)
    except ConversionError as error:
        return Program(error=error)
    for placement in steps.placements:
        sloped(new.get_submodule(placement.path), placement.site)
    paths = {placement.path: placement.site for placement in steps.placements}
    program, _ = run(
        lambda recorder: Converted(new, recorder, paths),
        new,
        args,
        kwargs,
        training=training,
        gradients=gradients,
    )
    return program


def _functions(
    double: nn.Module, sites: Sequence[Site], steps: Plan
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Site → the stand-in that acts there in flight."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {}
    like = next((p for p in double.parameters() if p.is_floating_point()), torch.empty(0))
    for placement in steps.placements:
        original = None if placement.replaces is None else double.get_submodule(placement.replaces)
        made = placement.make(original, steps.init)
        functions[placement.site] = sloped(made.to(device=like.device, dtype=like.dtype), placement.site)
    return functions


def sloped(made: nn.Module, site: str) -> nn.Module:
    """Give a stand-in with parameters numbers that no other site has."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(site.encode()).hexdigest()[:8], 16))
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.is_meta:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.9 + 0.05)
    return made


def stand_ins(sites: Sequence[Site], *, own: bool = False) -> dict[str, Choice]:
    """What acts at each site for the proof: for classes of unknown making with parameters, which a forward may read."""
    if own:
        return {site.name: Choice("prelu") for site in sites}
    count = max((site.index for site in sites), default=0) + 2
    return {
        site.name: Choice("leaky_relu", negative_slope=round(0.02 + 0.9 * (site.index + 1) / count, 6))
        for site in sites
    }
