"""From a view to files: `index.html`, CSVs and figures. The page comes last, so that it never links missing files."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from reborn_nas.errors import StudyError
from reborn_nas.files import PathError, safe_join, write_atomic
from reborn_nas.metric import speaking, spoken
from reborn_nas.report.figures import features
from reborn_nas.report.page.contents import page_of
from reborn_nas.report.page.page import Page, Pair, render
from reborn_nas.report.results import tables
from reborn_nas.report.results.findings import Findings, study_findings
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import unit_name

MANIFEST = "files.json"


def build_report(view: RunView, out: str | os.PathLike[str]) -> Path:
    """Write the report of `view` into the folder `out` and return the path of its `index.html`.

    Files of an earlier report that this one does not have are removed; other files in `out` are kept.

    Raises:
        StudyError: the study has no trainings, or `out` cannot be written.
    """
    if not any(record.state != "running" for record in view.records):
        raise StudyError(
            f"study {view.title!r} has no finished training to report; run `reborn-nas search` on it first"
        )
    folder = Path(out)
    with speaking(view.metric):
        findings = study_findings(view)
        table = tables.trial_table(view)
        page = page_of(view, findings, table, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
        files: dict[str, str | bytes] = {**csv_files(view, findings, table)}
        files |= figure_files(page)
        html = render(page)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(safe_join(folder, name), content)
        index = write_atomic(folder / "index.html", html)
        _remove_stale(folder, set(files))
        write_atomic(folder / MANIFEST, json.dumps(sorted(files), indent=1) + "\n")
    except OSError as error:
        reason = error.strerror or str(error)
        raise StudyError(
            f"report folder {folder} cannot be written: {reason}; name another with --out"
        ) from error
    return index


def csv_files(view: RunView, findings: Findings, trials: pd.DataFrame) -> dict[str, str]:
    """The tables that belong to the page, by file name; those of effects name both activations."""
    compared = {
        "sites": findings.effects, "stages": findings.stages, "pooled": findings.pooled,
        "confirmation": findings.confirmation, "alone": findings.checks.alone, "rate": findings.checks.rate,
    }  # fmt: skip
    frames = {
        **{name: _of(frame, *view.arms) for name, frame in compared.items()},
        "control": _of(findings.control, view.arms[0], "positive_twin"), "controls": findings.checks.controls,
        "features": features.feature_table(view.features) if view.features else None, "pruned": view.pruned,
        "classes": findings.classes,
        "phases": tables.phase_table(view), "trials": tables.in_values(trials),
    }  # fmt: skip
    return {f"{name}.csv": tables.csv_text(frame) for name, frame in frames.items() if frame is not None}


def _of(frame: pd.DataFrame | None, tested: str, reference: str) -> pd.DataFrame | None:
    """`frame` with the compared activations, and the unit if the metric is not the accuracy."""
    if frame is None:
        return None
    named = frame.assign(tested=tested, reference=reference)
    return named if spoken().is_accuracy else named.assign(metric=spoken().name, unit=unit_name())


def figure_files(page: Page) -> dict[str, str | bytes]:
    """Every figure as SVG and PNG, by file name."""
    from reborn_nas.report.figures.painting import png  # needs matplotlib

    files: dict[str, str | bytes] = {}
    for section in page.sections:
        for part in section.parts:
            if isinstance(part.value, Pair):
                wide = part.value.wide
                files[f"figures/{wide.name}.svg"] = wide.svg(literal=True)
                files[f"figures/{wide.name}.png"] = png(wide)
    return files


def _remove_stale(folder: Path, current: set[str]) -> None:
    """Remove files that an earlier report listed and this one did not write."""
    try:
        earlier = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for name in earlier if isinstance(earlier, list) else []:
        if isinstance(name, str) and name not in current and name.endswith((".csv", ".svg", ".png")):
            with contextlib.suppress(PathError):  # a name that is not one of ours
                safe_join(folder, name).unlink(missing_ok=True)
