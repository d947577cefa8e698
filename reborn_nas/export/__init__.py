"""Trained networks as ordinary timm models. Import `export_trained` from `reborn_nas.export.timm_model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.export.card import Accuracy, Card
    from reborn_nas.export.timm_model import check_target, export_trained

__all__ = ["Accuracy", "Card", "check_target", "export_trained"]


def __getattr__(name: str) -> Any:
    """The names are loaded when first used: importing the package must not pay for exports."""
    if name in ("Accuracy", "Card"):
        from reborn_nas.export import card

        return getattr(card, name)
    if name in ("check_target", "export_trained"):
        from reborn_nas.export import timm_model

        return getattr(timm_model, name)
    raise AttributeError(name)
