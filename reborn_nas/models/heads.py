"""What a timm network says of the width of its features, after a widening in front of its classifier."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["classifier_width", "tell_width"]

_WIDTHS = ("num_features", "head_hidden_size", "in_features", "hidden_size")


def classifier_width(model: nn.Module) -> int | None:
    """What the last linear layer of a timm network reads, None where timm does not name one."""
    paths, layer = _classifier(model)
    return getattr(layer, "in_features", None) if paths else None


def tell_width(model: nn.Module, before: int | None) -> None:
    """Correct the widths that the network and its head keep, from which `reset_classifier` makes a new layer.

    Args:
        before: `classifier_width` before the conversion.
    """
    now = classifier_width(model)
    if before is None or now is None or now == before:
        return
    paths, _ = _classifier(model)
    for path in {"", *paths[:-1]}:
        holder: Any = model.get_submodule(path)
        for name in _WIDTHS:
            if vars(holder).get(name) == before and not isinstance(holder, nn.Linear):
                setattr(holder, name, now)


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
