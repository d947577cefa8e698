"""reborn-nas: where reborn blocks help in a CNN, by how much, and how surely.

Importing the package is quick: names are loaded on first use, and the timm models are registered when timm is imported,
before or after this package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

if TYPE_CHECKING:
    from reborn_nas import activations, analysis, backbone, data, models, space, study, training  # noqa: F401
    from reborn_nas.activations import build_activation, fold
    from reborn_nas.analysis import minimum_detectable_effect, screen_design, site_effects
    from reborn_nas.api import check_training, export, recommend, report, search, train
    from reborn_nas.architecture import Architecture, BackboneSpec, Choice
    from reborn_nas.backbone import Plan, Site, apply, convert, find_sites, plan
    from reborn_nas.errors import RebornError
    from reborn_nas.export.network import load
    from reborn_nas.metric import Metric
    from reborn_nas.space import SearchSpace, load_space
    from reborn_nas.study import AdditiveSampler, StudyConfig
    from reborn_nas.study.trainer.job import Job
    from reborn_nas.training.measure.latency import measure_latency

__version__ = "0.1.0"

_LAZY = {
    "AdditiveSampler": "study",
    "Architecture": "architecture",
    "BackboneSpec": "architecture",
    "Choice": "architecture",
    "Job": "study.trainer.job",
    "Metric": "metric",
    "Plan": "backbone",
    "RebornError": "errors",
    "SearchSpace": "space",
    "Site": "backbone",
    "StudyConfig": "study",
    "apply": "backbone",
    "build_activation": "activations",
    "check_training": "api",
    "convert": "backbone",
    "export": "api",
    "find_sites": "backbone",
    "fold": "activations",
    "load": "export.network",
    "load_space": "space",
    "measure_latency": "training.measure.latency",
    "minimum_detectable_effect": "analysis",
    "plan": "backbone",
    "recommend": "api",
    "report": "api",
    "screen_design": "analysis",
    "search": "api",
    "site_effects": "analysis",
    "train": "api",
}
"""Public name → the room that defines it."""

_ROOMS = ("activations", "analysis", "api", "architecture", "backbone", "data", "errors", "models", "space", "study",
          "training")  # fmt: skip
"""Rooms that are attributes of the package without being imported."""

__all__ = [
    "AdditiveSampler",
    "Architecture",
    "BackboneSpec",
    "Choice",
    "Job",
    "Metric",
    "Plan",
    "RebornError",
    "SearchSpace",
    "Site",
    "StudyConfig",
    "apply",
    "build_activation",
    "check_training",
    "convert",
    "export",
    "find_sites",
    "fold",
    "load",
    "load_space",
    "measure_latency",
    "minimum_detectable_effect",
    "plan",
    "recommend",
    "report",
    "screen_design",
    "search",
    "site_effects",
    "train",
]


class _Package(ModuleType):
    """Keeps the public functions that have the name of a room.

    Importing `reborn_nas.report` would replace the package's function `report` by the room.
    """

    def __getattr__(self, name: str) -> Any:
        if name in _LAZY:
            value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        elif name in _ROOMS:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _LAZY and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *_LAZY})


sys.modules[__name__].__class__ = _Package


@when_imported("timm")
@when_imported("reborn_nas.backbone")
def _register_models(loaded: ModuleType) -> None:
    """Register the models of reborn-nas with timm; they need the backbones, which may import timm."""
    if loaded.__name__ != "timm" or f"{__name__}.backbone" not in sys.modules:
        import_module(f"{__name__}.models")
