"""A study run from its settings to its end, or resumed."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, Unpack

from reborn_nas.api.dashboards import describe
from reborn_nas.api.run import Run
from reborn_nas.report import trial_pictures
from reborn_nas.study import (
    PlanView,
    Progress,
    RunResult,
    SilentProgress,
    StudyConfig,
    load_config,
    run_search,
)
from reborn_nas.study.config.flags import resume_command, with_settings
from reborn_nas.study.config.keywords import Settings
from reborn_nas.study.setup.planning import next_total
from reborn_nas.study.worker.pool import join as worker_joins
from reborn_nas.study.worker.progress import AfterPhase, bars_where_seen


@with_settings
def search(
    config: StudyConfig | Run | None = None,
    *,
    progress: Progress | Literal["auto"] | None = "auto",
    plan: PlanView | None = None,
    **settings: Unpack[Settings],
) -> RunResult:
    """Plan and run a study, or resume it: the same settings continue where the run folder stands.

    Args:
        config: a `StudyConfig`, the path of a study YAML, or None for the settings alone.
        progress: told of every phase, trial and epoch; "auto" shows bars on a terminal and in a notebook, None nothing.
        plan: what `plan_search` gave for the same settings, to spare making it again.

    The settings below are those of `StudyConfig`; they override `config`.

    Returns:
        The run: its folder, records, candidate architecture, and whether it is complete.

    Raises:
        ConfigError: listing every fault of the settings.
        StudyError: where the run folder holds a study with other settings.
    """
    given: dict[str, Any] = dict(settings)
    if isinstance(config, StudyConfig):
        settled = config.replace(**given) if given else config
    else:
        settled = load_config(None if config is None else Path(config), **given)
    shown = bars_where_seen() if progress == "auto" else nullcontext(progress)
    with shown as watching:
        watcher = AfterPhase(watching or SilentProgress(), lambda: describe(settled.folder))
        result = run_search(settled, progress=watcher, plan=plan, illustrate=trial_pictures)
    with suppress(Exception):  # the dashboard's notes: nothing that a finished run should fail of
        describe(result.folder)
    return result


def join(storage: str, study: str, **settings: Any) -> bool:
    """`reborn_nas.study.join`, with the pictures of each training in the dashboard."""
    return worker_joins(storage, study, illustrate=trial_pictures, **settings)


def surer(result: RunResult) -> tuple[str, int] | None:
    """The command of the least search that also retests the top sites and runs the control, and its trainings more."""
    total = next_total(result.plan)
    if total is None:
        return None
    return resume_command(result.plan.config.replace(trials=total)), total - result.plan.total
