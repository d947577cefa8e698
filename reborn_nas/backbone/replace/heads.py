"""What a timm network says of the widths of its features, after a widening that changed them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_WIDTHS = ("num_features", "head_hidden_size", "in_features", "hidden_size")


@dataclass(frozen=True)
class Width:
    """One number that a network holds about its own widths.

    Args:
        module: path of the module that holds it.
        name: of the attribute.
        value: what it is after widening.
        row: index of the row whose `num_chs` it is, where the attribute is timm's `feature_info`; else None.
    """

    module: str
    name: str
    value: int
    row: int | None = None


def widths_of(new: nn.Module, model: nn.Module, input_size: tuple[int, ...]) -> tuple[Width, ...]:
    """What timm reads off `new` and widening changes: `feature_info`, and the width from which `reset_classifier` makes
    a layer. Nothing where the network is none of timm's.

    Args:
        new: `model` converted, with widened layers.
        model: the network before.
        input_size: (C, H, W) of one image.
    """
    found = _classifier_widths(new, _classifier_width(model), _classifier_width(new))
    rows = _rows(model)
    if rows:
        widths = zip(rows, _feature_widths(model, input_size), _feature_widths(new, input_size))
        for index, (row, old, now) in enumerate(widths):
            if old is not None and now is not None and old == row.get("num_chs") and now != old:
                found.append(Width("", "feature_info", now, index))
    return tuple(found)


def set_widths(model: nn.Module, widths: Sequence[Width]) -> None:
    """Write what `widths_of` found into a converted network."""
    for width in widths:
        holder: Any = model.get_submodule(width.module)
        if width.row is None:
            setattr(holder, width.name, width.value)
        else:
            _rows(holder)[width.row]["num_chs"] = width.value


def _classifier_width(model: nn.Module) -> int | None:
    """What the last linear layer of a timm network reads, None where timm does not name one."""
    paths, layer = _classifier(model)
    return getattr(layer, "in_features", None) if paths else None


def _classifier_widths(model: nn.Module, before: int | None, now: int | None) -> list[Width]:
    if before is None or now is None or now == before:
        return []
    paths, _ = _classifier(model)
    found = []
    for path in sorted({"", *paths[:-1]}):
        holder: Any = model.get_submodule(path)
        for name in _WIDTHS:
            if vars(holder).get(name) == before and not isinstance(holder, nn.Linear):
                found.append(Width(path, name, now))
    return found


def _feature_widths(model: nn.Module, input_size: tuple[int, ...]) -> list[int | None]:
    """Channels that leave each module of timm's `feature_info`, run on the meta device; None where it is no map."""
    twin = copy.deepcopy(model).to("meta").eval()
    modules = dict(twin.named_modules())
    rows = _rows(model)
    found: list[int | None] = [None] * len(rows)

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[index] = output.shape[1] if isinstance(output, Tensor) and output.ndim == 4 else None

        return hook

    for index, row in enumerate(rows):
        if row.get("module") in modules:
            modules[row["module"]].register_forward_hook(keep(index))
    with torch.no_grad(), torch.device("meta"):
        twin(torch.empty(1, *input_size))
    return found


def _rows(model: nn.Module) -> list[dict[str, Any]]:
    table = getattr(model, "feature_info", None)
    return [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []


def _classifier(model: nn.Module) -> tuple[list[str], nn.Module | None]:
    """The paths from the network's head down to its classifier, and the classifier."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("classifier")
    if not isinstance(name, str):
        return [], None
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        return [], None
    parts = name.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts) + 1)], layer
