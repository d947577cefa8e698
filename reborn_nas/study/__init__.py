"""The study: a configuration becomes a plan, its runs are queued and trained, and records are read back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.samplers.additive import AdditiveSampler
    from reborn_nas.samplers.registry import make_sampler, sampler_names
    from reborn_nas.study.config.config import StudyConfig
    from reborn_nas.study.config.loading import load_config, shipped_studies
    from reborn_nas.study.plan.phases import Phase, plan_phases
    from reborn_nas.study.result.dashboard import serve_dashboard
    from reborn_nas.study.search import RunResult, run_search
    from reborn_nas.study.setup.planning import PlanView, plan_search
    from reborn_nas.study.store.reading import RunInfo, RunStatus, load_records, load_run, status
    from reborn_nas.study.worker.pool import join
    from reborn_nas.study.worker.progress import Progress, SilentProgress
    from reborn_nas.study.worker.stop import Stopper

_LAZY = {  # reading a run must not import samplers and scipy, which takes a second
    "AdditiveSampler": "samplers.additive",
    "Phase": "study.plan.phases",
    "PlanView": "study.setup.planning",
    "Progress": "study.worker.progress",
    "RunInfo": "study.store.reading",
    "RunResult": "study.search",
    "RunStatus": "study.store.reading",
    "SilentProgress": "study.worker.progress",
    "Stopper": "study.worker.stop",
    "StudyConfig": "study.config.config",
    "join": "study.worker.pool",
    "load_config": "study.config.loading",
    "load_records": "study.store.reading",
    "load_run": "study.store.reading",
    "make_sampler": "samplers.registry",
    "plan_phases": "study.plan.phases",
    "plan_search": "study.setup.planning",
    "run_search": "study.search",
    "sampler_names": "samplers.registry",
    "serve_dashboard": "study.result.dashboard",
    "shipped_studies": "study.config.loading",
    "status": "study.store.reading",
}

__all__ = [
    "AdditiveSampler",
    "Phase",
    "PlanView",
    "Progress",
    "RunInfo",
    "RunResult",
    "RunStatus",
    "SilentProgress",
    "Stopper",
    "StudyConfig",
    "join",
    "load_config",
    "load_records",
    "load_run",
    "make_sampler",
    "plan_phases",
    "plan_search",
    "run_search",
    "sampler_names",
    "serve_dashboard",
    "shipped_studies",
    "status",
]


def __getattr__(name: str) -> Any:
    """Import names on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reborn_nas.{_LAZY[name]}"), name)
