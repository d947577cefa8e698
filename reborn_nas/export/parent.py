"""The start of a retraining: from scratch, or from a parent's weights and if possible its function."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Discovery, Plan, apply, build, discover, plan
from reborn_nas.backbone.replace.planning import other_functions
from reborn_nas.errors import some_of
from reborn_nas.models.weights import classifiers_of, identities, load_weights

__all__ = ["Parent", "Start", "make_start", "on_own_path"]

SAME = 1e-5  # relative to the largest logit: rounding in float32


@dataclass(frozen=True)
class Parent:
    """The network from whose weights a training starts.

    Args:
        pretrained: use the published weights of the backbone's library.
        checkpoint: a file with the state dict of the unconverted backbone: safetensors, or of `torch.save`, plain or as
            written by timm, torchvision and Lightning (averaged weights if there are any); or a folder with a
            `model.safetensors`; None if there is none.
    """

    pretrained: bool = False
    checkpoint: Path | None = None

    @property
    def given(self) -> bool:
        """Whether there is a parent."""
        return self.pretrained or self.checkpoint is not None


@dataclass(frozen=True)
class Start:
    """A network that is ready for training.

    Args:
        model: converted network in train mode.
        plan: plan of the conversion.
        undecayed: parameters without weight decay, since they start at an identity.
        deviation: deviation of its logits from the parent's on random images, relative to the largest; None without a
            parent.
        notes: messages for the user.
    """

    model: nn.Module
    plan: Plan
    undecayed: tuple[str, ...] = ()
    deviation: float | None = None
    notes: tuple[str, ...] = field(default=())


def make_start(
    architecture: Architecture,
    parent: Parent,
    *,
    init: str,
    seed: int,
    found: Discovery | None = None,
) -> Start:
    """Make the network of `architecture`, from one seed.

    Args:
        architecture: must have a complete backbone spec.
        init: "preserve" starts at the parent's function if the choices allow it, "xavier" draws the new weights.
        found: the backbone's sites, if known.

    Raises:
        ConfigError: the published weights are not available.
        TrainingError: the checkpoint does not fit this backbone.
    """
    spec = architecture.backbone
    template = build(spec, device="meta")
    found = found or discover(template, spec.input_size)
    conversion = plan(template, architecture, init=init, discovery=found)
    network = build(spec, pretrained=parent.pretrained, seed=seed)
    notes: list[str] = []
    if parent.checkpoint is not None:
        notes += load_weights(network, parent.checkpoint, classifiers_of(network, spec))
    new = apply(network, conversion, seed=seed)
    if not parent.given:
        return Start(new, conversion)
    deviation = _deviation(network, new, architecture)
    if init == "preserve":
        what = (
            "computes what the parent does" if deviation <= SAME else "does not compute what the parent does"
        )
        notes.append(
            f"before training the network {what}: largest deviation {deviation:.1e} of the largest logit"
        )
        if deviation > SAME:
            notes.append(_who_changes(architecture, found))
    return Start(new, conversion, identities(new) if init == "preserve" else (), deviation, tuple(notes))


def on_own_path(architecture: Architecture, found: Discovery) -> tuple[Architecture, tuple[str, ...]]:
    """Make reborn blocks keep the site's original activation on their positive path if it is not a ReLU.

    Otherwise they cannot start at the parent's function. Returns the architecture and the changed sites.
    """
    acts = {site.name: site.activation for site in found.sites}
    changed = {}
    for site, choice in architecture:
        paths = (
            choice.name in ("reborn", "positive_twin") and choice.options.get("positive", "relu") == "relu"
        )
        if paths and acts.get(site, "relu") != "relu":
            changed[site] = type(choice)(choice.name, **{**choice.options, "positive": "original"})
    return architecture.with_choices(changed), tuple(changed)


def _deviation(parent: nn.Module, new: nn.Module, architecture: Architecture) -> float:
    size = architecture.backbone.input_size
    assert size is not None
    x = torch.randn(4, *size, generator=torch.Generator().manual_seed(0))
    modes = parent.training, new.training
    with torch.no_grad():
        expected, got = parent.eval()(x), new.eval()(x)
    parent.train(modes[0])
    new.train(modes[1])
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _who_changes(architecture: Architecture, found: Discovery) -> str:
    sites = other_functions(architecture, found)
    if not sites:
        return "the difference comes from the backbone's own layers, not from a site's choice"
    return f"these choices cannot start at the parent's function: {some_of(sites)}"
