"""Where a retraining starts: at a parent's weights, with the same function as far as the choices can, or afresh."""

from __future__ import annotations

import os
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from reborn_nas.activations import CReLU, ExtendedConv, Reborn
from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Discovery, Plan, apply, build, discover, plan
from reborn_nas.errors import TrainingError, blame_machine
from reborn_nas.models.adapter import final_linear

__all__ = ["Parent", "Start", "make_start", "on_own_path"]

SAME = 1e-5  # relative to the largest logit: rounding in float32


@dataclass(frozen=True)
class Parent:
    """The network whose weights a training starts from.

    Args:
        pretrained: the backbone library's published weights.
        checkpoint: a file with the state dict of the unconverted backbone: safetensors, or of `torch.save`, plain or
            as timm, torchvision and Lightning write it (averaged weights where there are some); or a folder that holds
            a `model.safetensors`; None where there is none.
    """

    pretrained: bool = False
    checkpoint: Path | None = None

    @property
    def given(self) -> bool:
        """Whether there is a parent at all."""
        return self.pretrained or self.checkpoint is not None


@dataclass(frozen=True)
class Start:
    """A network that is ready to be trained.

    Args:
        model: converted, in train mode.
        plan: its conversion.
        undecayed: parameters that weight decay should leave alone, as they start at an identity.
        deviation: how far its logits are from the parent's on random images, relative to the largest; None where no
            parent was given.
        notes: what the user should be told.
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
    """The network of `architecture`, from one seed.

    Args:
        architecture: with a complete backbone spec.
        init: "preserve" starts at the parent's function where the choices can, "xavier" draws the new weights.
        found: the backbone's sites, where they are known.

    Raises:
        ConfigError: the published weights cannot be had.
        TrainingError: the checkpoint is none of this backbone.
    """
    spec = architecture.backbone
    template = build(spec, device="meta")
    found = found or discover(template, spec.input_size)
    conversion = plan(template, architecture, init=init, discovery=found)
    network = build(spec, pretrained=parent.pretrained, seed=seed)
    notes: list[str] = []
    if parent.checkpoint is not None:
        notes += load_parent(network, parent.checkpoint, _classifiers(network, architecture))
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
    return Start(new, conversion, _identities(new) if init == "preserve" else (), deviation, tuple(notes))


def on_own_path(architecture: Architecture, found: Discovery) -> tuple[Architecture, tuple[str, ...]]:
    """The architecture whose reborn blocks keep the site's own activation on their positive path where it is no ReLU.

    Only so can they start at the parent's function. Returns it with the sites whose choice changed.
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


def load_parent(model: nn.Module, path: str | os.PathLike[str], classifiers: tuple[str, ...]) -> list[str]:
    """Load a checkpoint into the unconverted `model`, and return what of it was not taken as it is.

    A classifier that it lacks, or has for other classes, stays fresh. A first convolution of another number of input
    channels is adapted as timm does for its own weights: summed for one channel, else repeated and scaled.

    Raises:
        TrainingError: there is no such file, it holds no weights or weights that are not finite, or it is of another
            network.
    """
    given, notes = _read(Path(path), model)
    own = model.state_dict()
    heads = {f"{name}.{end}" for name in classifiers for end in ("weight", "bias")} & set(own)
    fresh = sorted(k for k in heads if k not in given or given[k].shape != own[k].shape)
    kept = {key: value for key, value in given.items() if key not in fresh}
    notes += _adapt_first_layer(model, kept)
    faults = [f"lacks {key}" for key in own if key not in kept and key not in fresh]
    faults += [f"has {key}, which the backbone has not" for key in kept if key not in own]
    faults += [
        f"{key} is {tuple(kept[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in kept and kept[key].shape != own[key].shape
    ]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise TrainingError(
            f"{path} is no checkpoint of this backbone: it {'; '.join(faults[:3])}{more}; name the backbone, its "
            "--model-arg and its --stem as it was trained (an ImageNet checkpoint has --stem original)"
        )
    broken = [
        k for k, value in kept.items() if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise TrainingError(
            f"{path} holds numbers that are not finite, in {', '.join(broken[:3])}{more}: the training that wrote it "
            "diverged; take an earlier checkpoint"
        )
    model.load_state_dict({**own, **kept})
    if fresh:
        why = "the checkpoint lacks it" if not set(fresh) & set(given) else "the parent's has other classes"
        notes.append(f"the classifier starts afresh, as {why}: {', '.join(fresh)}")
    return notes


def _adapt_first_layer(model: nn.Module, given: dict[str, Tensor]) -> list[str]:
    """Change the weights of the first convolution in `given` to the channels that `model` takes; what was done."""
    name, conv = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    key = f"{name}.weight"
    theirs = given.get(key)
    if conv is None or theirs is None or theirs.ndim != 4:
        return []
    want, have = conv.weight.shape, theirs.shape
    if conv.groups != 1 or want[1] == have[1] or (want[0], *want[2:]) != (have[0], *have[2:]):
        return []
    given[key] = adapt_input_conv(want[1], theirs, base_chans=have[1])
    how = "summed over" if want[1] == 1 else "repeated and scaled from"
    return [f"{key} takes {want[1]} channels: the checkpoint's are {how} its {have[1]}, as timm does"]


def _read(path: Path, model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a file, its names those of `model`, and notes; what a pickle may ask for is not run."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise TrainingError(f"there is no checkpoint {file}")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            with torch.serialization.safe_globals([Namespace]):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle raise whatever the bytes make them
        blame_machine(error, file)
        said = " ".join(str(error).split())[:300]
        raise TrainingError(
            f"{file} cannot be read as weights ({said}); only safetensors and files of torch.save that hold tensors "
            "alone are read, anything else may run code; convert yours: safetensors.torch.save_file(state_dict, FILE)"
        ) from error
    notes: list[str] = []
    for key in _STATE_DICTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            notes += [f"the averaged weights of the checkpoint are taken ({key})"] if "ema" in key else []
            break
    if not isinstance(content, Mapping):
        raise TrainingError(f"{file} holds {type(content).__name__}, not a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    prefix = _prefix(tensors, model.state_dict())
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    outside = [name for name in tensors if not name.startswith(prefix)]
    if outside:
        shown = ", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
        notes.append(f"not taken from the checkpoint, as they stand outside of {prefix}*: {shown}")
    return inside, notes


_STATE_DICTS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "net", "weights",
)  # fmt: skip
"""Where timm, torchvision, Lightning and own loops keep a network's weights in what they save; averaged ones first."""


def _prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What wrappers have put before the network's own names: `module.`, `model.`, `_orig_mod.`; often nothing."""
    counts: Counter[str] = Counter()
    ends: dict[str, list[str]] = {}
    for name in own:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    for name in given:
        for inner in ends.get(name.rpartition(".")[2], ()):
            if name == inner or name.endswith(f".{inner}"):
                counts[name.removesuffix(inner)] += 1
    if not counts:
        return ""
    most = max(counts.values())
    return min((prefix for prefix, count in counts.items() if count == most), key=len)


def _classifiers(model: nn.Module, architecture: Architecture) -> tuple[str, ...]:
    """Paths of the last linear layers: those that timm names, else the one that gives the output."""
    config = getattr(model, "pretrained_cfg", None) or {}
    named = config.get("classifier")
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    size = architecture.backbone.input_size
    found = final_linear(model, size) if size is not None else None
    return () if found is None else (found,)


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


def _identities(model: nn.Module) -> tuple[str, ...]:
    """Weights that start at [I | 0]: weight decay would pull the signal down at every step, away from the parent."""
    names = []
    for path, module in model.named_modules():
        if isinstance(module, Reborn | CReLU) and module.compress is not None:
            names.append(f"{path}.compress.weight".lstrip("."))
        elif isinstance(module, ExtendedConv):
            names.append(f"{path}.conv.weight".lstrip("."))
    return tuple(names)


def _who_changes(architecture: Architecture, found: Discovery) -> str:
    acts = {site.name: site.activation for site in found.sites}
    able = ("reborn", "positive_twin", "crelu", "extended_conv", "prelu", "relu")
    sites = [
        f"{site} ({acts.get(site, '?')} → {choice})"
        for site, choice in architecture
        if not (
            choice.options.get("positive") == "original" or (choice.name in able and acts.get(site) == "relu")
        )
    ]
    if not sites:
        return "the difference comes from the backbone's own layers, not from a site's choice"
    shown = ", ".join(sites[:3]) + (f" and {len(sites) - 3} more" if len(sites) > 3 else "")
    return f"these choices cannot start at the parent's function: {shown}"
