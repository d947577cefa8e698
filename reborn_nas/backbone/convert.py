"""From a network and an architecture to a converted copy that keeps its class, API and state-dict keys."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.backbone.find import discover
from reborn_nas.backbone.load.source import build, resolve
from reborn_nas.backbone.proof.rehearsal import rehearsed
from reborn_nas.backbone.replace.apply import apply
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.replace.planning import architecture_for, draft_plan, other_functions
from reborn_nas.backbone.sites.site import Discovery
from reborn_nas.errors import some_of

__all__ = ["apply", "build_converted", "convert", "plan"]


def convert(
    model: nn.Module,
    architecture: Architecture | Mapping[str, Choice | str] | Choice | str,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    init: str = "xavier",
    seed: int | None = None,
) -> nn.Module:
    """Return a copy of `model` with the activations of `architecture`: `plan`, then `apply`.

    Args:
        architecture: an `Architecture`; or a mapping of site → choice; or one choice for every site that admits it,
            such as "reborn" or "leaky_relu(negative_slope=0.1)".
        input_size: (C, H, W) of one image; the model's own by default.
        example_inputs: arguments of the forward, if it takes anything but one image batch.
        init: "xavier" (the paper), or "preserve": the same function as before, if the choice allows it, such as reborn
            and CReLU in place of ReLU; a warning names the sites that start at another function.
        seed: draw the new weights from this seed, without touching the global generator.

    Raises:
        SiteError: unknown sites, and choices that a site does not admit; one message lists all.
        ConversionError: a network that cannot be traced or rewritten.

    Example:
        >>> new = convert(timm.create_model("resnet18"), "reborn", (3, 32, 32), init="preserve")
    """
    found = discover(model, input_size, example_inputs=example_inputs)
    wanted = architecture_for(found, architecture)
    steps = plan(model, wanted, init=init, discovery=found)
    changed = other_functions(wanted, found) if init == "preserve" else []
    if changed:
        warnings.warn(
            f"init='preserve': {len(changed)} of {len(found.sites)} sites do not start at their own function: "
            f"{some_of(changed)}"
            + ("; reborn(positive=original) does" if "positive=relu" in " ".join(changed) else ""),
            UserWarning,
            stacklevel=2,
        )
    return apply(model, steps, seed=seed)


def plan(
    model: nn.Module,
    architecture: Architecture,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    init: str = "xavier",
    discovery: Discovery | None = None,
) -> Plan:
    """Plan the conversion of `model` to this architecture. The model is not changed.

    Args:
        architecture: site → choice; sites that are not named keep their original.
        input_size: (C, H, W) of one image.
        example_inputs: arguments of the forward, if it takes anything but one image batch.
        init: "xavier" (the paper), or "preserve": the same function as before, if the choice allows it.
        discovery: result of `discover(model, …)`, to save the tracing.

    Raises:
        SiteError: unknown sites, and choices that a site does not admit; one message lists all.
        ConversionError: the forward cannot be traced or rewritten.
    """
    found = discovery or discover(model, input_size, example_inputs=example_inputs)
    steps = draft_plan(model, architecture, found, init)
    return replace(steps, widths=rehearsed(model, found, steps))


def build_converted(
    spec: BackboneSpec | str,
    architecture: Architecture,
    *,
    seed: int | None = None,
    init: str = "xavier",
    device: str | torch.device = "cpu",
    pretrained: bool = False,
) -> nn.Module:
    """Build the network of `spec` with this architecture, initialised from one seed.

    The backbone's weights depend only on the seed, those of a new activation on the seed and its site. Two
    architectures with the same seed therefore differ only at the sites where their choices differ.
    """
    complete = resolve(spec, pretrained=pretrained)
    template = build(complete, device="meta")
    steps = plan(template, architecture, complete.input_size, init=init)
    model = build(complete, pretrained=pretrained, seed=seed)
    return apply(model, steps, inplace=True, seed=seed).to(device)
