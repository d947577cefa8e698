"""The study: plan, storage, workers, samplers. The only room that knows Optuna."""

from reborn_nas.study.additive_sampler import AdditiveSampler
from reborn_nas.study.config import StudyConfig
from reborn_nas.study.dashboard import serve_dashboard
from reborn_nas.study.joining import join
from reborn_nas.study.loading import load_config, shipped_studies
from reborn_nas.study.phases import Phase, plan_phases
from reborn_nas.study.planning import PlanView, plan_search
from reborn_nas.study.progress import Progress, SilentProgress
from reborn_nas.study.reading import RunInfo, RunStatus, load_records, load_run, status
from reborn_nas.study.run import RunResult, run_search
from reborn_nas.study.samplers import make_sampler, sampler_names
from reborn_nas.study.stopping import Stopper

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
