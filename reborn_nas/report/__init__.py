"""The report of a run: one self-contained page, its tables as CSV, its figures as PNG and SVG."""

from __future__ import annotations

from reborn_nas.report.figures.trials import trial_pictures
from reborn_nas.report.page.build import build_report
from reborn_nas.report.results.findings import Findings, study_findings
from reborn_nas.report.results.networks import comparison_words
from reborn_nas.report.results.view import RunView

__all__ = ["Findings", "RunView", "build_report", "comparison_words", "study_findings", "trial_pictures"]
