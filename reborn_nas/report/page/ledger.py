"""The page's sections made of trainings: accuracy against cost, the exploration, learning curves, each training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from reborn_nas.report.figures import trials
from reborn_nas.report.page.columns import PHASE_TABLE, PRUNED_TABLE, TRIAL_TABLE
from reborn_nas.report.page.page import Section, show
from reborn_nas.report.results.chosen import sampled_curves
from reborn_nas.report.results.tables import cost_columns, phase_table
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import count, number, percent

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ledger"]

MOST_TRIALS = 200
CAPTIONS = {
    "latency_ms": "One image in deployment form, the median of 15 passes on the study's device, measured once for each "
    "network that is compared (and for the exploration's where it weighs latency). What else the machine did moves it."
}


def ledger(view: RunView, table: pd.DataFrame) -> list[Section]:
    """Every section that shows trainings as they came out; `table` is `tables.trial_table`."""
    return [_costs(table), _search(view), _curves(view), _trials(view, table)]


def _costs(table: pd.DataFrame) -> Section:
    section = Section("costs", "Accuracy against cost")
    columns = cost_columns(table)
    if not columns or table["accuracy"].notna().sum() < 2:
        return section
    section.intro.append(
        "Every completed training of every phase, which are judged on different images. The line joins those judged on "
        "validation images that none of these beats at the same or a lower cost; the best of many is partly luck."
    )
    for column, words, unit in columns:
        draw = partial(trials.cost_figure, table, column=column, words=words, unit=unit)
        section.figure(draw, CAPTIONS.get(column, ""))
    if "latency_ms" not in table:
        section.add("text", "Latency was not measured in this study.")
    return section


def _search(view: RunView) -> Section:
    """Hypervolume over the search's trainings, and which choices its pruner stopped."""
    section = Section("search", "How the exploration went")
    series = view.front
    if len(series.get("hypervolume", ())) > 1:
        corner = _corner(series["reference"])
        section.figure(
            lambda width: trials.hypervolume_figure(series["trials"], series["hypervolume"], width),
            f"The volume that the front of {', '.join(series['reference'])} covers, counted from {corner}; accuracy "
            "in its own unit, each cost as a share of its range. It can only grow, and its end is partly luck.",
        )
    if view.pruned is not None and len(view.pruned):
        share = 100 * float(view.pruned["all"].iloc[0])
        section.table(
            show(
                view.pruned, "pruned",
                f"Trainings of the exploration stopped by the pruner, by choice (over all {number(share, 0)} %). "
                "A choice that starts late is stopped for it, not for its worth.",
                PRUNED_TABLE, file="pruned.csv",
            )
        )  # fmt: skip
    return section


def _corner(reference: Mapping[str, float]) -> str:
    words: dict[str, Callable[[float], str]] = {
        "accuracy": percent,
        "latency": lambda seconds: f"{1000 * seconds:.3g} ms",
    }
    return ", ".join(f"{name} {words.get(name, count)(value)}" for name, value in reference.items())


def _curves(view: RunView) -> Section:
    section = Section("curves", "Learning curves")
    curves, total = sampled_curves(view, trials.MOST_CURVES)
    note = f" of {total:,}, spread evenly over the study" if len(curves) < total else ""
    accuracy = next((c for _, f in curves for c in f.columns if c.endswith("_accuracy")), None)
    for column, words in ((accuracy, "accuracy"), ("train_loss", "training loss")):
        kept = [(p, f) for p, f in curves if column in f.columns and "epoch" in f.columns and len(f)]
        if kept and column is not None:
            section.figure(lambda width, k=kept, c=column, w=words: trials.curve_figure(k, width, c, w, note))  # type: ignore[misc]
    if note and section.parts:
        section.add("text", f"{len(curves)} curves{note}.")
    return section


def _trials(view: RunView, table: pd.DataFrame) -> Section:
    section = Section("trials", "Every training")
    phases = phase_table(view)
    rare = ("diverged", "failed", "rejected", "pruned", "running", "note")
    empty = [name for name in rare if not phases[name].astype(bool).any()]
    shown = phases.drop(columns=empty)
    section.table(show(shown, "phases", "The phases and what they cost.", PHASE_TABLE, file="phases.csv"))
    chosen = _most_relevant(table)
    columns = [
        column
        for column in TRIAL_TABLE
        if column[0] not in ("test_accuracy", "reason") or chosen[column[0]].astype(bool).fillna(False).any()
    ]
    caption = f"All {len(table):,} trainings." if len(chosen) == len(table) else (
        f"{len(chosen)} of {len(table):,} trainings: those that did not complete, then the most accurate of each "
        "phase. The CSV has all of them."
    )  # fmt: skip
    rows = show(chosen, "trials", caption, columns, file="trials.csv")
    section.table(rows, folded=f"The trainings ({len(chosen):,})")
    return section


def _most_relevant(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_TRIALS` rows: half for what went wrong, the rest for the best of each phase."""
    if len(table) <= MOST_TRIALS:
        return table
    wrong = table[table["state"] != "complete"].head(MOST_TRIALS // 2)
    good = table[table["state"] == "complete"].sort_values("accuracy", ascending=False, kind="stable")
    share = max(1, (MOST_TRIALS - len(wrong)) // max(1, good["phase"].nunique()))
    return table.loc[sorted({*wrong.index, *good.groupby("phase").head(share).index})]
