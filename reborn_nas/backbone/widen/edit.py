"""Carry out a widening: tensors grow, modules learn their new widths, grouped convolutions regroup their input."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import Tensor, nn

from reborn_nas.backbone.forward.unfused import leave_unfused
from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.backbone.layers.cut import make_cut
from reborn_nas.backbone.layers.regrouped import make_line, make_regrouped, make_split
from reborn_nas.backbone.layers.standardised import make_partly_standardised
from reborn_nas.backbone.layers.steps import Widening, WidenStep
from reborn_nas.errors import ConversionError

WidenInit = Literal["zero", "xavier"]

# what a module calls the width that a step changes
_WIDTHS = {
    "consume": ("in_channels", "in_features"),
    "repeat": ("out_channels", "out_features"),
    "norm": ("num_features",),
    "copy": ("num_parameters",),
    "filter": ("channels",),
    "line": (),
    "standardised": ("in_channels",),
    "split": (),
    "shuffle": (),
    "halve": (),
    "width": (),
    "cut": (),
    "depthwise": ("in_channels", "out_channels", "groups"),
    "experts": (),
}
_FORMS = ("line", "split", "shuffle", "halve", "cut")  # actions that change a module's form and no tensor
_CONSUMING = ("consume", "standardised")
_FRESH = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def apply_widening(
    model: nn.Module,
    widening: Widening,
    *,
    init: WidenInit = "zero",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Widen `model` itself, and return it. The doubled activations are not put in here.

    Call it before activations are replaced, so that every module of the plan is still the backbone's own.

    Args:
        model: a copy that may be changed.
        widening: what `widening` found on the same network.
        init: the weights that read the extra channels: zero, which keeps the function, or Xavier uniform.
        generator: for the Xavier weights.

    Raises:
        ConversionError: where the model is not the network that the widening was made for.
    """
    modules = dict(model.named_modules())
    kinds = {step.module: type(modules.get(step.module)) for step in widening.steps}
    holders = _holders(model)
    for step in widening.steps:
        module = modules.get(step.module)
        if module is None:
            raise ConversionError(f"the network has no module '{step.module}', which a plan wants to widen")
        for name in step.tensors:
            if step.action == "width":
                if not isinstance(getattr(module, name, None), int):
                    raise ConversionError(f"'{step.module}' holds no width in {name!r}, as the plan has it")
                setattr(module, name, step.channels.width)
            elif step.action not in _FORMS:
                _grow(module, name, step, init, generator, holders)
        for width in _WIDTHS[step.action]:
            if isinstance(getattr(module, width, None), int):
                setattr(module, width, step.channels.width)
        if step.action == "line":
            make_line(module, step.channels, step.module)
        elif step.action == "split":
            make_split(module, step.channels, step.module)
        elif step.action == "cut":
            make_cut(module, step.channels, step.module)
        elif step.action in ("shuffle", "halve"):
            from reborn_nas.backbone.widen.shuffled import (
                make_halved,
                make_shuffled,
            )  # torchvision is slow to import

            (make_shuffled if step.action == "shuffle" else make_halved)(module, step.channels, step.module)
        elif step.action == "standardised":
            make_partly_standardised(module, step.groups, step.channels, step.module)
        elif step.groups > 1 and step.action in ("consume", "experts"):
            make_regrouped(module, step.groups, step.channels, step.module)
    leave_unfused(
        model,
        {step.module for step in widening.steps if type(modules[step.module]) is not kinds[step.module]},
    )
    return model


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every place where a tensor is held, by its identity: tied weights stay tied."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, name))
    return found


def _grow(
    module: nn.Module,
    name: str,
    step: WidenStep,
    init: WidenInit,
    generator: torch.Generator | None,
    holders: dict[int, list[tuple[nn.Module, str]]],
) -> None:
    old = getattr(module, name, None)
    if not isinstance(old, Tensor):
        raise ConversionError(f"'{step.module}' has no tensor {name!r}, which a plan wants to widen")
    groups = step.groups if step.action in (*_CONSUMING, "experts") else 1
    width = module.weight_shape[1] if isinstance(module, CondConv2d) else old.shape[step.dim]
    if width * groups != step.channels.size:
        raise ConversionError(
            f"'{step.module}.{name}' has {width * groups} channels, but the plan was made for "
            f"{step.channels.size}; make the plan anew for this network"
        )
    with torch.no_grad():
        if step.action in _CONSUMING:
            new = _consuming(old, step.dim, step.groups, step.channels, init, generator)
        elif isinstance(module, CondConv2d):
            new = _routed(module, old, step, init, generator)
        elif step.action == "norm":
            new = _with_fresh(old, step.channels, _FRESH[name])
        else:
            new = old.index_select(step.dim, torch.tensor(step.channels.sources(), device=old.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    places = holders.pop(id(old), [(module, name)])
    holders[id(new)] = places
    for holder, held in places:
        (holder._parameters if held in holder._parameters else holder._buffers)[held] = new  # type: ignore[assignment]


def _consuming(
    old: Tensor,
    dim: int,
    groups: int,
    channels: ChannelMap,
    init: WidenInit,
    generator: torch.Generator | None,
) -> Tensor:
    """The weight with columns for the extra channels; those of the true channels keep their numbers."""
    places, entries, per_group = channels.grouped(groups), channels.entries(), channels.size // groups
    if old.is_meta:
        return old.new_empty((*old.shape[:dim], len(places[0]), *old.shape[dim + 1 :]))
    # column -> the old column that it copies, or `per_group`, which stands for a new one
    copied = [
        [
            per_group if entries[place][1] or place in group[:column] else entries[place][0] % per_group
            for column, place in enumerate(group)
        ]
        for group in places
    ]
    columns = torch.tensor(copied, device=old.device)  # (groups, widened columns)
    moved = old.movedim(dim, 1)
    rows = moved.reshape(groups, -1, *moved.shape[1:])  # (groups, out, in, …)
    padded = torch.cat([rows, _new_columns(rows, init, len(places[0]), generator)], dim=2)
    picked = _pick(padded, columns, per_group)
    return picked.flatten(0, 1).movedim(1, dim).contiguous()


def _routed(
    conv: Any, old: Tensor, step: WidenStep, init: WidenInit, generator: torch.Generator | None
) -> Tensor:
    """The weights of a `CondConv2d`, one row an expert."""
    experts = old.reshape(-1, *conv.weight_shape)  # (experts, out, in / groups, k, k)
    new = torch.stack([_consuming(w, 1, step.groups, step.channels, init, generator) for w in experts])
    conv.weight_shape = tuple(new.shape[1:])
    conv.in_channels = conv.weight_shape[1] * conv.groups
    return new.flatten(1)


def _new_columns(rows: Tensor, init: WidenInit, width: int, generator: torch.Generator | None) -> Tensor:
    """Free columns (groups, out, width, …), as many as the widened weight has at most."""
    shape = (*rows.shape[:2], width, *rows.shape[3:])
    if init == "zero":
        return rows.new_zeros(shape)
    field = math.prod(rows.shape[3:])
    bound = math.sqrt(6.0 / (width * field + rows.shape[0] * rows.shape[1] * field))
    new = torch.empty(
        shape, dtype=torch.float32, device=rows.device if generator is None else generator.device
    )
    return new.uniform_(-bound, bound, generator=generator).to(rows)


def _pick(padded: Tensor, columns: Tensor, per_group: int) -> Tensor:
    """The columns in their new order; each new one is taken from a free column of its own."""
    free = per_group + torch.arange(columns.shape[1], device=columns.device)
    index = torch.where(columns == per_group, free, columns)
    view = index[:, None, :].reshape(index.shape[0], 1, index.shape[1], *[1] * (padded.dim() - 3))
    return padded.gather(2, view.expand(-1, padded.shape[1], -1, *padded.shape[3:]))


def _with_fresh(old: Tensor, channels: ChannelMap, value: float) -> Tensor:
    """Per-channel numbers with `value` for the extra channels."""
    kept = torch.tensor(channels.kept(), device=old.device)
    return old.new_full((channels.width,), value).index_copy(0, kept, old.detach())
