"""Trained networks as ordinary timm models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.export.card import Accuracy, Card, card_of, front_readme
    from reborn_nas.export.choosing import Trainings, choose
    from reborn_nas.export.folder import check_target
    from reborn_nas.export.forms import check_forms
    from reborn_nas.export.parent import Parent
    from reborn_nas.export.settle import prepare, read_architecture
    from reborn_nas.export.timm_model import Trained, bare_network, export_trained, export_trained_many
    from reborn_nas.export.trainings import Retrained, claim_folder, retrain

_LAZY = {  # importing the package must not import exports
    "Accuracy": "card",
    "Card": "card",
    "Parent": "parent",
    "Retrained": "trainings",
    "Trained": "timm_model",
    "Trainings": "choosing",
    "bare_network": "timm_model",
    "card_of": "card",
    "check_forms": "forms",
    "check_target": "folder",
    "choose": "choosing",
    "claim_folder": "trainings",
    "export_trained": "timm_model",
    "export_trained_many": "timm_model",
    "front_readme": "card",
    "prepare": "settle",
    "read_architecture": "settle",
    "retrain": "trainings",
}

__all__ = [
    "Accuracy",
    "Card",
    "Parent",
    "Retrained",
    "Trained",
    "Trainings",
    "bare_network",
    "card_of",
    "check_forms",
    "check_target",
    "choose",
    "claim_folder",
    "export_trained",
    "export_trained_many",
    "front_readme",
    "prepare",
    "read_architecture",
    "retrain",
]


def __getattr__(name: str) -> Any:
    """Import names on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
