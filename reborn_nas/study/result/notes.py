"""The notes that optuna-dashboard shows: what each study of a run is for, and what each trial is."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.commands import command_line
from reborn_nas.records import TrialRecord, public_name
from reborn_nas.study.store.journal import together
from reborn_nas.study.store.reading import RunStatus, read_records
from reborn_nas.winners import validation_accuracy

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from reborn_nas.study.store.storage import RunStore

__all__ = ["note_trials", "study_note"]

MEANING = {
    "/design": "**Open this one first for where it helps.** Baseline and balanced screen: what the effects are "
    "estimated from. Its trials have no parameters to rank, so the graph below is the answer.",
    "": "The trainings that the sampler proposed, and copies of the screen's that it started from. *Best trial*: the "
    "highest validation accuracy, which is partly luck. *Hyperparameter importance*: how much of these trials' spread "
    "goes with a parameter; it has neither sign nor interval and may contradict the answer above, which stands.",
    "/confirm": "Candidate beside its parent on the test images; the top sites again, and their control, on images "
    "unused before.",
}
"""Suffix of a study's name → what it is for, in the order in which to read them."""

TITLES = {
    "/design": "1. baseline and screen: the effects",
    "": "2. exploration: what the sampler found",
    "/confirm": "3. candidate, retest, control",
}

MOST_NOTED = 1000
"""Trials of a study that get a note: each is a change of its own in the storage."""


def study_note(store: RunStore, study: Study, state: RunStatus, answer: str, page: str) -> str:
    """The note of one of the run's studies, Markdown.

    Args:
        answer: the answer so far.
        page: the dashboard's path to the report, or "".
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
        found.append(f"**{title}** (this one)" if here else f"[{title}](/dashboard/studies/{one._study_id})")
    return " · ".join(found)


def note_trials(store: RunStore, run: Path | None) -> None:
    """Give each finished trial that has none a note: what it is, its accuracy, its network, how to export it.

    Args:
        run: the run folder, for the command.
    """
    import optuna
    from optuna_dashboard import get_note, save_note

    records = {record.key: record for record in read_records(store)}
    for study in store.studies():
        trials = study.get_trials(deepcopy=False)[:MOST_NOTED]
        finished = [trial for trial in trials if trial.state.is_finished()]
        notes = {trial.number: text for trial in finished if (text := _trial_note(trial, records, run))}
        handles = [optuna.trial.Trial(study, trial._trial_id) for trial in finished if trial.number in notes]
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
        return "no accuracy"
    value = record.accuracy if record.accuracy_part != "validation" else validation_accuracy(record)
    return f"{value:.2%} of {record.accuracy_n:,} {record.accuracy_part} images"


def _plain(text: str) -> str:
    """`text` without what Markdown or HTML would read as markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(text.split()))
