"""Trained networks as ordinary timm models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.export.bare import bare_network
    from reborn_nas.export.card import Accuracy, Card
    from reborn_nas.export.choosing import choose
    from reborn_nas.export.record_card import card_of, front_readme
    from reborn_nas.export.target import check_target
    from reborn_nas.export.timm_model import Trained, export_trained, export_trained_many

_LAZY = {  # importing the package must not pay for exports
    "Accuracy": "card",
    "Card": "card",
    "Trained": "timm_model",
    "bare_network": "bare",
    "card_of": "record_card",
    "check_target": "target",
    "choose": "choosing",
    "export_trained": "timm_model",
    "export_trained_many": "timm_model",
    "front_readme": "record_card",
}

__all__ = [
    "Accuracy",
    "Card",
    "Trained",
    "bare_network",
    "card_of",
    "check_target",
    "choose",
    "export_trained",
    "export_trained_many",
    "front_readme",
]


def __getattr__(name: str) -> Any:
    """The names are loaded when first used."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
