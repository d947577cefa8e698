"""optuna-dashboard for a run: notes with the answer so far, its graphs, the report and every training's pictures."""

from __future__ import annotations

import html
import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import ThreadingMixIn
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore
from optuna_dashboard import get_note, save_note, save_plotly_graph_object, wsgi
from plotly.graph_objects import Figure

from reborn_nas.commands import command_line
from reborn_nas.errors import ConfigError, StudyError
from reborn_nas.files import safe_join, write_atomic
from reborn_nas.metric import spoken
from reborn_nas.records import TrialRecord, public_name, validation_accuracy
from reborn_nas.study.plan.phases import DESIGN, RETEST
from reborn_nas.study.store.compat import keep_artifact, study_id, trial_id
from reborn_nas.study.store.journal import together
from reborn_nas.study.store.opening import is_writable, open_store
from reborn_nas.study.store.outcome import ARTIFACTS
from reborn_nas.study.store.reading import RunStatus, read_records, read_status

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from reborn_nas.study.store.storage import RunStore

__all__ = [
    "Shown",
    "describe_studies",
    "note_trials",
    "serve_dashboard",
    "study_note",
]

GRAPHS = {"": ("effects", "control"), DESIGN: ("effects",), RETEST: ("confirmation", "control")}
"""Suffix of a study's name → its graphs."""

CAVEAT = "the answer; hyperparameter importance has neither sign nor interval, and may contradict it"

FRESH = 60.0
"""Seconds between two checks of a running dashboard whether the answer has changed."""

_log = logging.getLogger("reborn_nas.study")


@dataclass(frozen=True)
class Shown:
    """Content of the dashboard in addition to a run's trials.

    Args:
        note: the answer so far, Markdown.
        graphs: name → Plotly figure as JSON values.
        page: the report's `index.html`, if there is one.
    """

    note: str = ""
    graphs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    page: Path | None = None


def serve_dashboard(
    run: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    show: Callable[[], Shown] | None = None,
) -> None:
    """Serve optuna-dashboard for a run folder until interrupted. It has no login: use it on loopback only.

    Args:
        show: returns the content in addition to the trials; called again while the run continues.

    Raises:
        ConfigError: the port is invalid.
        StudyError: there is no such run, or the port is in use.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port: a number from 1 to 65535 (0: any that is free), not {port}")
    writable = is_writable(run)
    store = open_store(run, read_only=not writable)
    with _artifact_folder(Path(run), writable) as folder:
        if not writable:
            _log.warning(
                "%s is opened for reading: notes and graphs stay as they are, and none can be added", run
            )
        _serve(store, folder, host, port, (show or Shown) if writable else None)


@contextmanager
def _artifact_folder(run: Path, writable: bool) -> Iterator[Path]:
    """The folder of the run's artifacts; an empty one if there is none and none can be created."""
    folder = safe_join(run, ARTIFACTS)
    if writable:
        folder.mkdir(exist_ok=True)
    if folder.is_dir():
        yield folder
        return
    with TemporaryDirectory() as empty:
        yield Path(empty)


def _serve(store: RunStore, folder: Path, host: str, port: int, show: Callable[[], Shown] | None) -> None:
    """Serve until interrupted; with `show`, its content is updated while the run continues."""
    app = wsgi(store.storage, artifact_store=FileSystemArtifactStore(folder))
    try:
        server: Any = make_server(host, port, app, server_class=_threaded(WSGIServer), handler_class=_quiet())
    except OSError as error:
        raise StudyError(
            f"dashboard: {host}:{port} cannot be served ({error}); choose another --port or --host"
        ) from error
    over = threading.Event()
    if show is not None:
        threading.Thread(target=_keep_fresh, args=(store, folder, show, over), daemon=True).start()
    first = study_id(store.study("screen"))
    print(f"optuna-dashboard on http://{host}:{port}/  (Ctrl-C ends it)")
    print(f"open first: http://{host}:{port}/dashboard/studies/{first}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return
    finally:
        over.set()
        server.server_close()


def _keep_fresh(store: RunStore, folder: Path, show: Callable[[], Shown], over: threading.Event) -> None:
    """Describe the run at once, without making the pages wait, and again when it is complete or has a tenth more
    results than at the last description.
    """
    seen = -1
    while True:
        try:
            state = read_status(store)
            if (
                seen < 0
                or state.done >= seen + max(1, state.total // 10)
                or (state.complete and state.done > seen)
            ):
                describe_studies(store, state, show(), folder)
                seen = state.done
        except Exception as error:  # the dashboard continues; the next check may succeed
            _log.warning("notes and graphs cannot be brought up to date: %s", error)
        if over.wait(FRESH):
            return


def describe_studies(
    store: RunStore, state: RunStatus, shown: Shown | None = None, artifacts: Path | None = None
) -> None:
    """Write a note with the answer so far and its limitations, and the graphs, to each study.

    Args:
        shown: content; without it the notes report only the progress of the run.
        artifacts: folder of the artifacts; with it the report is stored there and linked in the notes.
    """
    shown = shown or Shown()
    for study in store.studies():
        page = _keep_page(study, shown.page, artifacts)
        _unless_same(study, study_note(store, study, state, shown.note, page), save_note)
        for name in GRAPHS.get(study.study_name.removeprefix(store.name), ()):
            if name in shown.graphs:
                figure = Figure(shown.graphs[name])
                if study.study_name == store.name and name == "effects":  # shown under the importances
                    title = f"{figure.layout.title.text or ''}<br><sub>{CAVEAT}</sub>"
                    figure.update_layout(title_text=title, margin_t=115)
                save_plotly_graph_object(study, figure, graph_object_id=name)
    note_trials(store, None if artifacts is None else artifacts.parent)


def _unless_same(study: Study, note: str, save: Callable[[Study, str], None]) -> None:
    """Save `note` unless it is unchanged, since a journal keeps every version."""
    if get_note(study) != note:
        save(study, note)


def _keep_page(study: Study, page: Path | None, artifacts: Path | None) -> str:
    """Store the report as an artifact of `study`, in place of an earlier one; returns its dashboard path, or ""."""
    if page is None or artifacts is None or not page.is_file():
        return ""
    key = str(uuid.uuid5(uuid.NAMESPACE_OID, study.study_name))
    artifacts.mkdir(parents=True, exist_ok=True)
    write_atomic(artifacts / key, page.read_bytes())
    meta = ArtifactMeta(artifact_id=key, filename="report.html", mimetype="text/html", encoding=None)
    keep_artifact(study, meta)
    return f"/artifacts/{study_id(study)}/{key}"


def _threaded(base: type) -> type:
    return type("ThreadedServer", (ThreadingMixIn, base), {"daemon_threads": True})


def _quiet() -> type:
    class Quiet(WSGIRequestHandler):
        """Logs no requests."""

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    return Quiet


MEANING = {
    DESIGN: "**Open this one first for where it helps.** Baseline and balanced screen: what the effects are "
    "estimated from. Its trials have no parameters to rank, so the graph below is the answer.",
    "": "The trainings that the sampler proposed, and copies of the screen's that it started from. *Best trial*: the "
    "best validation value, which is partly luck. *Hyperparameter importance*: how much of these trials' spread "
    "goes with a parameter; it has neither sign nor interval and may contradict the answer above, which stands.",
    RETEST: "Candidate beside its parent on the test part; the top sites again, and their control, on a part that "
    "was unused before.",
}
"""Suffix of a study's name → its purpose, in the order for reading."""

TITLES = {
    DESIGN: "1. baseline and screen: the effects",
    "": "2. exploration: what the sampler found",
    RETEST: "3. candidate, retest, control",
}

MOST_NOTED = 1000
"""Trials of a study that get a note: each is a separate change in the storage."""


def study_note(store: RunStore, study: Study, state: RunStatus, answer: str, page: str) -> str:
    """The note of one of the run's studies, in Markdown.

    Args:
        answer: the answer so far.
        page: path of the report in the dashboard, or "".
    """
    suffix = study.study_name.removeprefix(store.name)
    rows = "\n".join(
        f"| {public_name(phase.name)} | {phase.done} | {phase.planned} | {html.escape(phase.reason)} |"
        for phase in state.phases
    )
    progress = f"| phase | done | planned | |\n|---|---|---|---|\n{rows}\n"
    best = "" if state.best is None else f"\nBest observed: {state.best.label}, {_accuracy(state.best)}.\n"
    candidate = f"\nCandidate: {html.escape(state.reason)}.\n" if state.reason else ""
    parts = [
        answer,
        f"{_links(store, study, page)}\n\n{MEANING.get(suffix, '')}",
        progress + best + candidate,
    ]
    return "\n\n".join(part for part in parts if part)


def _links(store: RunStore, study: Study, page: str) -> str:
    by_suffix = {one.study_name.removeprefix(store.name): one for one in store.studies()}
    found = [f"[**the report**]({page})"] if page else []
    for suffix, title in TITLES.items():
        one = by_suffix[suffix]
        here = one.study_name == study.study_name
        found.append(f"**{title}** (this one)" if here else f"[{title}](/dashboard/studies/{study_id(one)})")
    return " · ".join(found)


def note_trials(store: RunStore, run: Path | None) -> None:
    """Add a note to each finished trial without one: its role, accuracy and network, and how to export it.

    Args:
        run: the run folder, for the command.
    """
    records = {record.key: record for record in read_records(store)}
    for study in store.studies():
        trials = study.get_trials(deepcopy=False)[:MOST_NOTED]
        finished = [trial for trial in trials if trial.state.is_finished()]
        notes = {trial.number: text for trial in finished if (text := _trial_note(trial, records, run))}
        handles = [optuna.trial.Trial(study, trial_id(trial)) for trial in finished if trial.number in notes]
        bare = [trial for trial in handles if not get_note(trial)]
        with together(store.storage):
            for trial in bare:
                save_note(trial, notes[trial.number])


def _trial_note(trial: FrozenTrial, records: Mapping[str, TrialRecord], run: Path | None) -> str:
    attributes: Mapping[str, Any] = trial.user_attrs
    original = attributes.get("copy_of")
    record = records.get(str(original or (attributes.get("record") or {}).get("key", "")))
    if record is None:
        return ""
    lines = [f"**{record.label}**"]
    if original:
        lines.append(
            "*A copy*: the training itself is a trial of the study of baseline and screen; it is here because the "
            "sampler started from it."
        )
    lines.append(f"{record.state}, {_accuracy(record)}, {record.params:,} parameters")
    if record.reason:
        lines.append(_plain(record.reason))
    choices = dict(record.architecture.get("choices") or {})
    changed = "\n".join(f"- `{site}`: `{choice}`" for site, choice in choices.items())
    lines.append(changed or "Every site keeps its original activation.")
    if run is not None and record.checkpoint and (run / record.checkpoint).is_file():
        command = command_line("reborn-nas", "export", run, "--trial", record.label, "--out", "my-model")
        lines.append(f"Export it: `{command}`")
    return "\n\n".join(lines)


def _accuracy(record: TrialRecord) -> str:
    if record.accuracy is None:
        return "no value"
    value = record.accuracy if record.accuracy_part != "validation" else validation_accuracy(record)
    count = f"{record.accuracy_n:,} " if record.accuracy_n else ""
    cases = f"{count}{record.accuracy_part} {spoken().counted}"
    return f"{value:.2%} of {cases}" if spoken().is_accuracy else spoken().measured(value, cases)


def _plain(text: str) -> str:
    """`text` without characters that are markup in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(text.split()))
