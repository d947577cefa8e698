"""Runs or resumes a study."""

from __future__ import annotations

from collections.abc import Mapping
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
from reborn_nas.study.trainer.rehearsal import TrainingCheck
from reborn_nas.study.trainer.rehearsal import check_training as try_training
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
    """Plan and run a study; the same settings resume it.

    Args:
        config: a `StudyConfig`, the path of a study YAML, or None to use only the settings.
        progress: called on every phase, trial and epoch; "auto": bars on a terminal and in a notebook; None: nothing.
        plan: result of `plan_search` for the same settings, to avoid making it again.

    The settings below are those of `StudyConfig`; they override `config`.

    Returns:
        The run: its folder, records, candidate architecture, and whether it is complete.

    Raises:
        ConfigError: the settings have faults, all of which are listed.
        StudyError: the run folder holds a study with other settings.
    """
    settled = _settled(config, dict(settings))
    shown = bars_where_seen() if progress == "auto" else nullcontext(progress)
    with shown as watching:
        watcher = AfterPhase(watching or SilentProgress(), lambda: describe(settled.folder))
        result = run_search(settled, progress=watcher, plan=plan, illustrate=trial_pictures)
    with suppress(Exception):  # the dashboard's notes must not fail a finished run
        describe(result.folder)
    return result


@with_settings
def check_training(config: StudyConfig | Run | None = None, **settings: Unpack[Settings]) -> TrainingCheck:
    """Call the user's own training of a study a few times with one epoch, and check what the study relies on.

    Checked are: the given network is trained and stays on its device; the same seed gives the same value; different
    splits give different values; the test part gives another value than the validation part; the network with the
    tested activation everywhere can be trained. Nothing is stored.

    Args:
        config: a `StudyConfig`, the path of a study YAML, or None to use only the settings.

    The settings below are those of `StudyConfig`; they override `config`.

    Returns:
        The checks with their observations; `.ok` is true if all pass.

    Raises:
        ConfigError: the settings have faults, or have no training of the user's own.
    """
    return try_training(_settled(config, dict(settings)))


def _settled(config: StudyConfig | Run | None, settings: Mapping[str, Any]) -> StudyConfig:
    if isinstance(config, StudyConfig):
        return config.replace(**settings) if settings else config
    return load_config(None if config is None else Path(config), **settings)


def join(storage: str, study: str, **settings: Any) -> bool:
    """Call `reborn_nas.study.join` with pictures of each training for the dashboard."""
    return worker_joins(storage, study, illustrate=trial_pictures, **settings)


def surer(result: RunResult) -> tuple[str, int] | None:
    """The command of the smallest search that also runs retest and control, and its additional trainings."""
    total = next_total(result.plan)
    if total is None:
        return None
    return resume_command(result.plan.config.replace(trials=total)), total - result.plan.total
