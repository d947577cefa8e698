"""Search, report, export and recommend, put together for Python users. The CLI calls nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.architecture import Architecture

if TYPE_CHECKING:
    from reborn_nas.report import RunView
    from reborn_nas.study import Progress, RunInfo, RunResult, StudyConfig

__all__ = ["export", "recommend", "report", "search"]

Run = str | os.PathLike[str]


def search(
    config: StudyConfig | Run | None = None, *, progress: Progress | None = None, **settings: Any
) -> RunResult:
    """Plan and run a study, or resume it: the same settings continue where the run folder stands.

    Args:
        config: a `StudyConfig`, the path of a study YAML, or None for `settings` alone.
        progress: told of every phase, trial and epoch; None is silent.
        settings: fields of `StudyConfig`, such as `backbone="resnet18", dataset="cifar10"`; they override `config`.

    Returns:
        The run: its folder, records, candidate architecture, and whether it is complete.

    Raises:
        ConfigError: listing every fault of the settings.
        StudyError: where the run folder holds a study with other settings.
    """
    from reborn_nas.study import StudyConfig, load_config, run_search

    if isinstance(config, StudyConfig):
        settled = config.replace(**settings) if settings else config
    else:
        settled = load_config(config, **settings)
    return run_search(settled, progress=progress)


def report(study_or_path: RunResult | Run, out: Run | None = None) -> Path:
    """Write the report of a run: `index.html`, CSVs and figures.

    Args:
        study_or_path: what `search` returned, or a run folder.
        out: the folder to write; `RUN/report` if None.

    Returns:
        The path of `index.html`.
    """
    from reborn_nas.report import build_report

    view = run_view(study_or_path)
    return build_report(view, Path(out) if out is not None else _folder(study_or_path) / "report")


def run_view(study_or_path: RunResult | Run) -> RunView:
    """A run as the plain data that a report is made from."""
    from reborn_nas.report import RunView
    from reborn_nas.study import load_run

    return RunView.of(load_run(_folder(study_or_path)))


def _folder(study_or_path: RunResult | Run) -> Path:
    if isinstance(study_or_path, str | os.PathLike):
        return Path(study_or_path)
    return Path(study_or_path.folder)


def _info(study_or_path: RunResult | Run) -> RunInfo:
    from reborn_nas.study import load_run

    return load_run(_folder(study_or_path))


def export(study_or_arch: RunResult | Run | Architecture, out: Run, **options: Any) -> Path:
    raise NotImplementedError


def recommend(study: RunResult | Run) -> Any:
    raise NotImplementedError
