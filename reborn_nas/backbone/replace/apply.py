"""Applies a plan; no other code changes modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from reborn_nas.backbone.forward.rewrite import rewritten
from reborn_nas.backbone.replace.plan import Placement, Plan, Width
from reborn_nas.backbone.trace.replica import copied
from reborn_nas.backbone.widen.edit import apply_widening
from reborn_nas.errors import ConversionError
from reborn_nas.seeds import derive_seed


def apply(model: nn.Module, plan: Plan, *, inplace: bool = False, seed: int | None = None) -> nn.Module:
    """Return a copy of `model`, converted as planned. Nothing is traced.

    Args:
        inplace: convert `model` in place.
        seed: draw each site's new weights from this seed and the site's name; None uses the global generator.

    Raises:
        ConversionError: the plan was made for another network, or a source file has changed since.
    """
    new = model if inplace else copied(model)
    if plan.widening is not None:
        with _stream(seed, "widening"):
            apply_widening(new, plan.widening, init="zero" if plan.init == "preserve" else "xavier")
    originals = {p.replaces: _module_at(new, p.replaces) for p in plan.placements if p.replaces is not None}
    for path, length in plan.loops:
        _put(new, path, nn.ModuleList(nn.Identity() for _ in range(length)))
    replaced: dict[int, nn.Module] = {}
    for placement in plan.placements:
        original = originals[placement.replaces] if placement.replaces is not None else None
        with _stream(seed, placement.site):
            made = _made(new, placement, original, plan.init)
        if placement.path == placement.replaces and original is not None:
            replaced[id(original)] = made
        if original is not None and made is not original:
            _take_hooks(made, original)
        _put(new, placement.path, made)
    for path in plan.spare:
        spare = _module_at(new, path)
        replaced[id(spare)] = nn.Identity()
        _put(new, path, replaced[id(spare)])
    _replace_references(new, replaced)
    for path, factor in plan.gains:
        conv: Any = _module_at(new, path)
        conv.scale *= factor
    for entry in plan.rewrites:
        owner = _module_at(new, entry.owner)
        name = f"{type(owner).__module__}:{type(owner).__qualname__}"
        if name != entry.cls:
            raise ConversionError(
                f"the plan is for a {entry.cls} at {entry.owner!r}, the network has a {name} there"
            )
        owner.__class__ = rewritten(type(owner), entry.change)
    set_widths(new, plan.widths)
    return new


def _made(model: nn.Module, placement: Placement, original: nn.Module | None, init: str) -> nn.Module:
    """The activation of one placement, with the device and dtype of the network's tensors."""
    parent = _module_at(model, placement.path.rpartition(".")[0])
    device, dtype = _where(parent, model)
    with torch.device("meta") if device.type == "meta" else nullcontext():
        made = placement.make(original, init)
    if made is original:
        return made
    made.to(device=device, dtype=dtype)
    return made.train(model.training if original is None else original.training)


def _where(parent: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for module in (parent, model):
        for tensor in module.parameters():
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _stream(seed: int | None, name: str) -> Any:
    """The random numbers of one site, which do not depend on other sites."""
    return nullcontext() if seed is None else _Seeded(derive_seed(seed, "activation", name))


class _Seeded:
    def __init__(self, seed: int) -> None:
        self._seed, self._fork = seed, torch.random.fork_rng(devices=[])

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def _module_at(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ConversionError(
            f"the network has no module {path!r}, which the plan names; plan again for this network"
        ) from error


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    holder = _module_at(model, parent)
    if name in holder._modules:
        holder._modules[name] = module
    else:
        holder.add_module(name, module)


def _take_hooks(made: nn.Module, original: nn.Module) -> None:
    """Move the hooks of the original to its replacement."""
    for name, value in vars(original).items():
        if name.startswith(("_forward_", "_backward_")) and isinstance(value, dict):
            vars(made)[name].update(value)
    made._is_full_backward_hook = original._is_full_backward_hook


def _replace_references(model: nn.Module, replaced: Mapping[int, nn.Module]) -> None:
    """Replace modules also in the plain lists, tuples and dicts that hold them."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_modules", "_parameters", "_buffers") and isinstance(value, list | tuple | dict):
                vars(module)[name] = _swapped(value, replaced)


def _swapped(value: Any, replaced: Mapping[int, nn.Module]) -> Any:
    if isinstance(value, nn.Module):
        return replaced.get(id(value), value)
    if type(value) is dict and any(isinstance(item, nn.Module | list | tuple) for item in value.values()):
        return {key: _swapped(item, replaced) for key, item in value.items()}
    if type(value) in (list, tuple) and any(isinstance(item, nn.Module | list | tuple) for item in value):
        return type(value)(_swapped(item, replaced) for item in value)
    return value


def set_widths(model: nn.Module, widths: Sequence[Width]) -> None:
    """Set the attributes found by `widths_of` in a converted network."""
    for width in widths:
        holder: Any = model.get_submodule(width.module)
        if width.row is None:
            setattr(holder, width.name, width.value)
        else:
            feature_rows(holder)[width.row]["num_chs"] = width.value


def feature_rows(model: nn.Module) -> list[dict[str, Any]]:
    table = getattr(model, "feature_info", None)
    return [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []
