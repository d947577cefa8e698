"""What `reborn-nas replicate` prints: the plan, and measured beside published."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reborn_nas.cli.show import count_text, print_table
from reborn_nas.study.worker.progress import duration_text

if TYPE_CHECKING:
    from reborn_nas.replicate import Outcome, Plan, Replication

__all__ = ["plan_json", "print_counts", "print_outcome", "print_plan"]


def print_counts(study: Replication, *, as_json: bool) -> None:
    """Parameters and MACs of every network, row and form."""
    from reborn_nas.replicate.counts import count_rows

    found = count_rows(study)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    rows = [
        (one.network, "×".join(map(str, one.input_size)), str(one.classes), study.rows[one.row].title,
         f"{one.params:,}", f"{one.macs:,}")
        for one in found
    ]  # fmt: skip
    print_table(("network", "input", "classes", "row", "parameters", "MACs"), rows, right=(2, 4, 5))


def print_plan(plan: Plan) -> None:
    """The cells with their parameters, what is done, and the time of what is left."""
    from reborn_nas.replicate.cells import LEAST_TEST

    study, settings = plan.study, plan.settings
    print(f"{study.name}: {study.description.strip()}")
    rows = []
    for group in plan.groups:
        for row in group.rows:
            each = "–" if row.seconds is None else duration_text(row.seconds)
            rows.append(
                (
                    group.group.network,
                    group.group.config.dataset,
                    study.rows[row.row].title,
                    f"{row.params:,}",
                    count_text(row.macs),
                    str(group.epochs),
                    f"{group.images:,}",
                    f"{row.done} of {len(row.keys)}",
                    each,
                )
            )
    heads = ("network", "data", "row", "parameters", "MACs", "epochs", "images", "done", "each")
    print_table(heads, rows, right=(3, 4, 5, 6, 7, 8))
    for note in dict.fromkeys(note for group in plan.groups for note in group.notes):
        print(f"  {note}")
    for dataset, text in plan.absent.items():
        print(f"  left out: every row on {dataset}: {text}", file=sys.stderr)
    for name, data in settings.replaced.items():
        print(f"  {data} stands where the table has {name}: not the published data")
    if settings.scale != 1:
        print(
            f"  scale {settings.scale:g}: that share of the epochs and images, of the test at least {LEAST_TEST:,}"
        )
    time = "" if plan.seconds is None else f", about {duration_text(plan.seconds)} on this machine"
    print(f"{plan.total - plan.done} of {plan.total} trainings to do{time}; results in {settings.out}\n")


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values."""
    return {
        "study": plan.study.name,
        "seeds": plan.settings.seeds,
        "scale": plan.settings.scale,
        "trainings": plan.total,
        "done": plan.done,
        "seconds": plan.seconds,
        "absent": dict(plan.absent),
        "cells": [
            {
                "network": group.group.network,
                "dataset": group.group.dataset,
                "data": group.group.config.dataset,
                "row": row.row,
                "params": row.params,
                "macs": row.macs,
                "epochs": group.epochs,
                "training_images": group.images,
                "done": row.done,
                "seconds": row.seconds,
                "published": plan.study.published(group.group.network, row.row, group.group.dataset),
            }
            for group in plan.groups
            for row in group.rows
        ],
    }


def print_outcome(outcome: Outcome, paths: Sequence[Path], *, as_json: bool) -> None:
    """Measured beside published, the ordering, what is missing, and where it all lies."""
    from reborn_nas.replicate.writing import CELL_HEADS, COMPARISON_HEADS, cell_rows, comparison_rows, tables

    found = tables(outcome)
    if as_json:
        data = {
            name: json.loads(getattr(found, name).to_json(orient="records"))
            for name in ("cells", "comparisons")
        }
        print(
            json.dumps(
                {**data, "absent": dict(outcome.plan.absent), "files": [str(path) for path in paths]},
                indent=2,
            )
        )
        return
    print(f"{found.title}: measured beside published, % right answers on the test images")
    print_table(CELL_HEADS, cell_rows(found.cells, outcome.plan.study), right=(3, 4, 5))
    if len(found.comparisons):
        print("\nDoes the published ordering hold? Differences in percentage points")
        print_table(COMPARISON_HEADS, comparison_rows(found.comparisons), right=(3, 4))
    for path in paths:
        print(f"  {path}")
    for dataset in outcome.plan.absent:
        print(f"left out: {dataset} is not there", file=sys.stderr)
    if outcome.interrupted or outcome.timed_out:
        print("stopped early; everything finished is kept. The same command goes on.", file=sys.stderr)
    bad = found.trainings[found.trainings["state"] != "complete"]
    for one in bad.itertuples(index=False):
        print(
            f"{one.network} {one.dataset} {one.row} {one.seed_index}: {one.state}: {one.reason}",
            file=sys.stderr,
        )
