"""optuna-dashboard for a run, with the answer so far in the notes of its studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reborn_nas.api.run import Run, folder_of
from reborn_nas.api.view import run_view
from reborn_nas.metric import speaking
from reborn_nas.report import study_findings
from reborn_nas.report.page.live import answer_note, graphs
from reborn_nas.study import serve_dashboard
from reborn_nas.study.config.own import metric_of
from reborn_nas.study.result.dashboard import Shown, describe_studies
from reborn_nas.study.store.opening import open_store
from reborn_nas.study.store.outcome import ARTIFACTS
from reborn_nas.study.store.reading import read_status

if TYPE_CHECKING:
    from reborn_nas.study.search import RunResult


def dashboard(study_or_path: RunResult | Run, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve optuna-dashboard for a run until interrupted; see `reborn_nas.study.serve_dashboard`."""
    folder = folder_of(study_or_path)
    serve_dashboard(folder, host=host, port=port, show=lambda: _shown(folder))


def describe(folder: Path) -> None:
    """Update the notes and graphs of a run's studies."""
    store = open_store(folder, read_only=False)
    shown = _shown(folder)
    with speaking(metric_of(store.attribute("config", {}))):
        describe_studies(store, read_status(store), shown, folder / ARTIFACTS)


def _shown(folder: Path) -> Shown:
    """The answer so far, its graphs and the report, for optuna-dashboard."""
    view = run_view(folder, brief=True)
    page = folder / "report" / "index.html"
    if not view.records:
        return Shown()
    with speaking(view.metric):
        findings = study_findings(view)
        note, drawn = answer_note(view, findings), graphs(view, findings)
    return Shown(note, drawn, page if page.is_file() else None)
