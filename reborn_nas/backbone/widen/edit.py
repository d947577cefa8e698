"""Applies a widening: tensors grow, widths of modules are updated, registered layers change their class.

RepVGG, MobileOne, GhostNetV3, LeViT and others fuse their branches, in timm's `reparameterize_model`, by formulas for
the plain convolutions and norms of which they were built. If one of these has another class after doubled channels, the
fused block would compute something else: `Unfused` keeps its branches.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reborn_nas.backbone.forward.rewrite import rewritten
from reborn_nas.backbone.layers.registry import Layer, layer_for
from reborn_nas.backbone.layers.steps import ACTIONS, ChannelMap, Widening, WidenStep
from reborn_nas.errors import ConversionError

WidenInit = Literal["zero", "xavier"]

_FRESH = {"weight": 1.0, "running_var": 1.0}  # all others start at zero


def apply_widening(
    model: nn.Module,
    widening: Widening,
    *,
    init: WidenInit = "zero",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Widen `model` in place, and return it. The doubled activations are inserted elsewhere.

    Call it before activations are replaced, while all modules of the plan are still the backbone's.

    Args:
        model: a copy that may be changed.
        widening: result of `widening` for the same network.
        init: initialisation of the weights for the extra channels: zero, which preserves the function, or Xavier
            uniform.
        generator: random generator of the Xavier weights.

    Raises:
        ConversionError: the widening was made for another network.
    """
    modules = dict(model.named_modules())
    classes = {step.module: type(modules.get(step.module)) for step in widening.steps}
    holders = _holders(model)
    for step in widening.steps:
        module = modules.get(step.module)
        if module is None:
            raise ConversionError(f"the network has no module '{step.module}', which a plan wants to widen")
        action, layer = ACTIONS[step.action], layer_for(step, module)
        for name in step.tensors if action.grows else ():
            new = _grown(module, name, step, layer, init, generator)
            _hold(module, name, new, holders)
        for width in action.widths:
            if isinstance(getattr(module, width, None), int):
                setattr(module, width, step.channels.width)
        if step.action in layer.actions:
            layer.apply(module, step)
        elif step.action == "consume" and step.groups > 1:
            layer.regroup(module, step)
    changed = {path for path, cls in classes.items() if type(modules[path]) is not cls}
    leave_unfused(model, changed)
    return model


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every holder of each tensor, by identity, so that tied weights stay tied."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, name))
    return found


def _grown(
    module: nn.Module,
    name: str,
    step: WidenStep,
    layer: Layer,
    init: WidenInit,
    generator: torch.Generator | None,
) -> Tensor:
    """The tensor `name` of the module, grown by the step."""
    old = getattr(module, name, None)
    if not isinstance(old, Tensor):
        raise ConversionError(f"'{step.module}' has no tensor {name!r}, which a plan wants to widen")
    grows = ACTIONS[step.action].grows
    groups = step.groups if grows == "columns" else 1

    def widen(tensor: Tensor) -> Tensor:
        channels = tensor.shape[step.dim] * groups
        if channels != step.channels.size:
            raise ConversionError(
                f"'{step.module}.{name}' has {channels} channels, but the plan was made for "
                f"{step.channels.size}; make a new plan for this network"
            )
        if grows == "columns":
            return _consuming(tensor, step.dim, groups, step.channels, init, generator)
        if grows == "fresh":
            return _with_fresh(tensor, step.channels, _FRESH.get(name, 0.0))
        return tensor.index_select(step.dim, torch.tensor(step.channels.sources(), device=tensor.device))

    with torch.no_grad():
        new = layer.grow(module, old, widen) if step.action in layer.actions else widen(old)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _hold(module: nn.Module, name: str, new: Tensor, holders: dict[int, list[tuple[nn.Module, str]]]) -> None:
    """Replace a tensor in all of its holders."""
    places = holders.pop(id(getattr(module, name)), [(module, name)])
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
    """The weight with columns for the extra channels; those of the true channels keep their values."""
    places, entries, per_group = channels.grouped(groups), channels.entries(), channels.size // groups
    if old.is_meta:
        return old.new_empty((*old.shape[:dim], len(places[0]), *old.shape[dim + 1 :]))
    # column -> the old column that it copies, or `per_group` for a new one
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


def _new_columns(rows: Tensor, init: WidenInit, width: int, generator: torch.Generator | None) -> Tensor:
    """Free columns (groups, out, width, …), at most as many as the widened weight has."""
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
    """The columns in their new order; each new one is a separate free column."""
    free = per_group + torch.arange(columns.shape[1], device=columns.device)
    index = torch.where(columns == per_group, free, columns)
    view = index[:, None, :].reshape(index.shape[0], 1, index.shape[1], *[1] * (padded.dim() - 3))
    return padded.gather(2, view.expand(-1, padded.shape[1], -1, *padded.shape[3:]))


def _with_fresh(old: Tensor, channels: ChannelMap, value: float) -> Tensor:
    """Per-channel values, with `value` for the extra channels."""
    kept = torch.tensor(channels.kept(), device=old.device)
    return old.new_full((channels.width,), value).index_copy(0, kept, old.detach())


# what `reparameterize_model` calls; `fuse` returns the replacement
_FUSING = ("fuse", "reparameterize", "switch_to_deploy")


@dataclass(frozen=True)
class Unfused:
    """The change of a class that fuses. Pickled with its instances."""

    def methods(self, base: type) -> dict[str, Any]:
        """The methods that fuse, each replaced by one that keeps the module."""
        return {name: _itself if name == "fuse" else _nothing for name in _FUSING if hasattr(base, name)}


def leave_unfused(model: nn.Module, changed: Collection[str]) -> None:
    """Make every block of `model` that contains a module of the paths `changed` keep its branches."""
    paths = {path[:end] for path in changed for end, letter in enumerate(path) if letter == "."}
    for path in sorted(paths | set(changed)):
        block = model.get_submodule(path)
        if block is not model and any(hasattr(block, name) for name in _FUSING):
            block.__class__ = rewritten(type(block), Unfused())


def _itself(self: nn.Module) -> nn.Module:
    return self


def _nothing(self: nn.Module) -> None:
    return None
