"""optuna-dashboard over a run, with a note on what it shows and the report and curves as artifacts."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.errors import StudyError
from reborn_nas.study.reading import RunStatus, open_store, status

if TYPE_CHECKING:
    from reborn_nas.study.storage import RunStore

__all__ = ["describe_studies", "serve_dashboard"]

ARTIFACTS = "artifacts"


def serve_dashboard(run: str | Path, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve optuna-dashboard for a run folder until interrupted. It has no login: keep it on loopback.

    Raises:
        StudyError: no such run, or the port is taken.
    """
    store = open_store(run)
    describe_studies(store, status(run))
    folder = Path(run) / ARTIFACTS
    folder.mkdir(exist_ok=True)
    from wsgiref.simple_server import WSGIServer, make_server

    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    app = wsgi(store.storage, artifact_store=FileSystemArtifactStore(folder))
    try:
        server: Any = make_server(host, port, app, server_class=_threaded(WSGIServer), handler_class=_quiet())
    except OSError as error:
        raise StudyError(
            f"dashboard: {host}:{port} cannot be served ({error}); choose another --port"
        ) from error
    print(f"optuna-dashboard on http://{host}:{port}/  (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return
    finally:
        server.server_close()


def describe_studies(store: RunStore, state: RunStatus) -> None:
    """Write a note to each study: what it holds, how far the run is, and what may not be read off it."""
    from optuna_dashboard import save_note

    rows = "\n".join(
        f"| {phase.name} | {phase.done} | {phase.planned} | {html.escape(phase.reason)} |"
        for phase in state.phases
    )
    progress = f"| phase | done | planned | |\n|---|---|---|---|\n{rows}\n"
    candidate = f"\nCandidate: {html.escape(state.reason)}.\n" if state.reason else ""
    notes = {
        "": "What the sampler ran, and the screen's runs that it started from. The best trial's accuracy is partly "
        "luck, and importances here carry neither sign nor interval: the effects are in the report.",
        "/design": "Baseline and balanced screen: what the effects are estimated from.",
        "/confirm": "Candidate against parent on the test images, confirmation and control on the reserved images.",
    }
    for study in store.studies():
        suffix = study.study_name.removeprefix(store.name)
        save_note(study, f"{notes.get(suffix, '')}\n\n{progress}{candidate}")


def _threaded(base: type) -> type:
    from socketserver import ThreadingMixIn

    return type("ThreadedServer", (ThreadingMixIn, base), {"daemon_threads": True})


def _quiet() -> type:
    from wsgiref.simple_server import WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        """Logs no requests."""

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Quiet
