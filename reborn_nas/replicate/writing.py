"""The files of a replication: its trainings, cells, comparisons, and a text page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reborn_nas.files import write_atomic
from reborn_nas.replicate.compare import cell_table, comparison_table
from reborn_nas.replicate.published import Replication
from reborn_nas.replicate.run import Outcome, Plan

__all__ = ["Tables", "mark", "tables", "trainings_table", "write_tables"]

ENVIRONMENT = (
    "device",
    "driver",
    "threads",
    "precision",
    "python",
    "torch",
    "torchvision",
    "timm",
    "commit",
)


class Tables:
    """The tables of a replication.

    Args:
        cells: `compare.cell_table`, with the cells' parameters and marks.
        comparisons: `compare.comparison_table`.
        trainings: one row per training.
        title: title of the tables, including the scale.
    """

    def __init__(
        self, cells: pd.DataFrame, comparisons: pd.DataFrame, trainings: pd.DataFrame, title: str
    ) -> None:
        self.cells, self.comparisons, self.trainings, self.title = cells, comparisons, trainings, title


def mark(plan: Plan) -> str:
    """Part of file names that distinguishes measurements: name, scale, recipe and its settings."""
    settings = plan.settings
    words = [plan.study.name]
    words += [settings.recipe] if settings.recipe not in (None, plan.study.recipe) else []
    words += [f"{key}{value}" for key, value in sorted((settings.training or {}).items())]
    words += [f"scale{settings.scale:g}"] if settings.scale != 1 else []
    return "-".join(str(word) for word in words)


def tables(outcome: Outcome) -> Tables:
    """Compare measured and published values. Failed trainings have no accuracy; diverged ones count with chance."""
    plan = outcome.plan
    rows = trainings_table(outcome)
    accuracies: dict[tuple[str, str, str], list[float]] = {}
    for one in rows.to_dict("records"):
        accuracy = one["test_accuracy"]
        if accuracy is not None and not math.isnan(accuracy):
            place = (str(one["network"]), str(one["dataset"]), str(one["row"]))
            accuracies.setdefault(place, []).append(float(accuracy))
    cells = cell_table(plan.cells, accuracies)
    extra = {
        (group.group.network, group.group.dataset, row.row): (row.params, group.epochs, group.images)
        for group in plan.groups
        for row in group.rows
    }
    places = list(zip(cells["network"], cells["dataset"], cells["row"], strict=True))
    for column, name in enumerate(("params", "epochs", "training_images")):
        cells[name] = [extra[place][column] for place in places]
    cells["scale"] = plan.settings.scale
    cells["data"] = [plan.settings.replaced.get(dataset, dataset) for dataset in cells["dataset"]]
    comparisons = comparison_table(plan.cells, plan.study.comparisons, accuracies)
    comparisons["scale"] = plan.settings.scale
    return Tables(cells, comparisons, rows, mark(plan))


def trainings_table(outcome: Outcome) -> pd.DataFrame:
    """One row per training, with hardware and versions but without host names."""
    plan = outcome.plan
    rows: list[dict[str, Any]] = []
    for group in plan.groups:
        for row in group.rows:
            for index, key in enumerate(row.keys):
                record = outcome.records.get(key)
                if record is None:
                    continue
                rows.append(
                    {
                        "network": group.group.network,
                        "dataset": group.group.dataset,
                        "data": plan.settings.replaced.get(group.group.dataset, group.group.dataset),
                        "row": row.row,
                        "seed_index": index,
                        "seed": record.seed,
                        "state": record.state,
                        "test_accuracy": record.test_accuracy,
                        "test_images": record.test_n,
                        "recipe": group.group.config.recipe,
                        "scale": plan.settings.scale,
                        "epochs": record.epochs,
                        "training_images": group.images,
                        "params": record.params,
                        "macs": record.macs,
                        "seconds": round(record.seconds, 2),
                        "finished": record.finished,
                        **_environment(record.environment),
                        "reason": record.reason,
                    }
                )
    columns = [
        "network", "dataset", "data", "row", "seed_index", "seed", "state", "test_accuracy", "test_images", "recipe",
        "scale", "epochs", "training_images", "params", "macs", "seconds", "finished", *ENVIRONMENT, "reason",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _environment(found: Mapping[str, str]) -> dict[str, str]:
    """Hardware and versions; the driver only of an accelerator."""
    environment = {name: found.get(name, "") for name in ENVIRONMENT}
    return environment if found.get("device", "").startswith("cuda") else {**environment, "driver": ""}


def write_tables(outcome: Outcome, out: Path | None = None) -> list[Path]:
    """Write `<name>-cells.csv`, `-comparisons.csv`, `-trainings.csv` and `<name>.md`; returns their paths."""
    found = tables(outcome)
    folder = out if out is not None else outcome.plan.settings.out
    written = []
    for name in ("cells", "comparisons", "trainings"):
        frame = getattr(found, name)
        text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        written.append(write_atomic(folder / f"{found.title}-{name}.csv", text))
    page = "\n".join(page_lines(outcome, found)) + "\n"
    return [*written, write_atomic(folder / f"{found.title}.md", page)]


def page_lines(outcome: Outcome, found: Tables) -> list[str]:
    """The tables as Markdown."""
    plan = outcome.plan
    lines = [f"# {plan.study.description.strip()}", ""]
    if plan.settings.scale != 1:
        lines += [
            f"**Scale {plan.settings.scale:g}**: that share of the paper's epochs and images.",
            "",
        ]
    for dataset, text in plan.absent.items():
        lines += [f"Left out: {dataset}. {text}", ""]
    lines += markdown(CELL_HEADS, cell_rows(found.cells, plan.study))
    if len(found.comparisons):
        lines += ["", *markdown(COMPARISON_HEADS, comparison_rows(found.comparisons)), ""]
        lines += [
            "Differences in percentage points with 95 % intervals over seeds, each on its own; the ordering holds "
            "where the interval lies on the published side of 0."
        ]
    return lines


CELL_HEADS = ("network", "data set", "row", "published", "measured, mean ± sd (n)", "difference [95 %]")
COMPARISON_HEADS = (
    "network",
    "data set",
    "row − against",
    "published",
    "measured [95 %]",
    "ordering",
    "text, its table",
)


def cell_rows(cells: pd.DataFrame, study: Replication) -> list[tuple[str, ...]]:
    """Cells as text."""
    rows: list[tuple[str, ...]] = []
    for cell in cells.to_dict("records"):
        spread = "" if math.isnan(cell["sd"]) else f" ± {cell['sd']:.2f}"
        measured = "–" if cell["n"] == 0 else f"{cell['mean']:.2f}{spread} ({cell['n']})"
        title = study.rows[cell["row"]].title
        published = "–" if math.isnan(cell["published"]) else f"{cell['published']:.2f}"
        gap = interval(cell["difference"], cell["difference_low"], cell["difference_high"])
        rows.append((str(cell["network"]), str(cell["data"]), title, published, measured, gap))
    return rows


def comparison_rows(comparisons: pd.DataFrame) -> list[tuple[str, ...]]:
    """Comparisons as text."""
    rows: list[tuple[str, ...]] = []
    for one in comparisons.to_dict("records"):
        printed = "–" if math.isnan(one["published"]) else f"{one['published']:+.2f}"
        text = f"{one['text']}: {one['text_in_table'] or '–'}" if one["text"] else ""
        pair = f"{one['row']} − {one['against']}"
        measured = interval(one["measured"], one["ci_low"], one["ci_high"])
        rows.append(
            (str(one["network"]), str(one["dataset"]), pair, printed, measured, one["ordering"] or "–", text)
        )
    return rows


def interval(value: float, low: float, high: float) -> str:
    """`+0.31 [-0.02, +0.64]`, without an interval if there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:+.2f}" if math.isnan(low) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
