"""reborn-nas: where reborn blocks help in a CNN, by how much, and how surely.

Importing the package registers its timm models. Names that need pandas, scipy or Optuna are loaded when
they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# the rooms `report` and `export` are bound before the public functions of the same names
import reborn_nas.export
import reborn_nas.models
import reborn_nas.report  # noqa: F401
from reborn_nas.activations import build_activation, fold
from reborn_nas.api import export, report, search
from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.backbone import Plan, Site, apply, convert, find_sites, plan
from reborn_nas.errors import RebornError

if TYPE_CHECKING:
    from reborn_nas.analysis import minimum_detectable_effect, screen_design, site_effects
    from reborn_nas.api import recommend
    from reborn_nas.retraining import train
    from reborn_nas.space import SearchSpace, load_space
    from reborn_nas.study import AdditiveSampler, StudyConfig
    from reborn_nas.training.latency import measure_latency

__version__ = "0.1.0"

_LAZY = {
    "AdditiveSampler": "reborn_nas.study",
    "SearchSpace": "reborn_nas.space",
    "StudyConfig": "reborn_nas.study",
    "load_space": "reborn_nas.space",
    "measure_latency": "reborn_nas.training.latency",
    "minimum_detectable_effect": "reborn_nas.analysis",
    "recommend": "reborn_nas.api",
    "screen_design": "reborn_nas.analysis",
    "site_effects": "reborn_nas.analysis",
    "train": "reborn_nas.retraining",
}

__all__ = [
    "AdditiveSampler",
    "Architecture",
    "BackboneSpec",
    "Choice",
    "Plan",
    "RebornError",
    "SearchSpace",
    "Site",
    "StudyConfig",
    "apply",
    "build_activation",
    "convert",
    "export",
    "find_sites",
    "fold",
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


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'reborn_nas' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
