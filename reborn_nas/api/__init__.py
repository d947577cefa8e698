"""The public functions on runs: search → view → report, dashboard, networks, export, train. The CLI calls these."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.api.dashboards import dashboard
    from reborn_nas.api.exports import export, exportable
    from reborn_nas.api.run import resume_line
    from reborn_nas.api.searches import check_training, join, search, surer
    from reborn_nas.api.trainings import train
    from reborn_nas.api.view import answer, estimates, networks, recommend, report, run_view

_LAZY = {  # reading results must not import PyTorch
    "answer": "view",
    "check_training": "searches",
    "dashboard": "dashboards",
    "estimates": "view",
    "export": "exports",
    "exportable": "exports",
    "join": "searches",
    "networks": "view",
    "recommend": "view",
    "report": "view",
    "resume_line": "run",
    "run_view": "view",
    "search": "searches",
    "surer": "searches",
    "train": "trainings",
}

__all__ = [
    "answer",
    "check_training",
    "dashboard",
    "estimates",
    "export",
    "exportable",
    "join",
    "networks",
    "recommend",
    "report",
    "resume_line",
    "run_view",
    "search",
    "surer",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import names on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
