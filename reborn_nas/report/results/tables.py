"""The report's tables as pandas objects; the CSV files hold exactly these."""

from __future__ import annotations

import json
import math

import pandas as pd
from pandas.api.types import is_numeric_dtype

from reborn_nas.metric import spoken
from reborn_nas.records import PHASES, SCORE, STATES, public_name
from reborn_nas.report.results.view import RunView
from reborn_nas.report.results.words import csv_cell, one_input


def phase_table(view: RunView) -> pd.DataFrame:
    """One row a phase: trainings planned and done, their states, their time."""
    planned = {str(item.get("phase")): item for item in view.phases}
    order = [*PHASES, *(name for name in planned if name not in PHASES)]
    rows = []
    for name in order:
        records = view.phase(name)
        if not records and name not in planned:
            continue
        states = {state: sum(record.state == state for record in records) for state in STATES}
        trained = [record for record in records if record.seconds > 0]
        rows.append(
            {
                "phase": public_name(name),
                "planned": planned.get(name, {}).get("planned", len(records)),
                **states,
                "mean_seconds": sum(r.seconds for r in trained) / len(trained) if trained else float("nan"),
                "total_seconds": sum(r.seconds + r.overhead_seconds for r in records),
                "note": str(planned.get(name, {}).get("note") or ""),
            }
        )
    return pd.DataFrame(rows, columns=["phase", "planned", *STATES, "mean_seconds", "total_seconds", "note"])


def trial_table(view: RunView) -> pd.DataFrame:
    """One row a training, with what stood where it differed from the backbone."""
    rows = []
    for record in view.records:
        choices = record.architecture.get("choices") or {}
        row = {
            "key": record.label, "phase": public_name(record.phase), "arm": record.arm, "number": record.number,
            "state": record.state, "accuracy": record.accuracy, "part": record.accuracy_part,
            "images": record.accuracy_n, "test_accuracy": record.test_accuracy, "params": record.params,
            "macs": record.macs, "changed_sites": len(choices), "epochs": record.epochs,
            "train_loss_sum": record.train_loss_sum, "seconds": record.seconds,
            "overhead_seconds": record.overhead_seconds, "split": record.block, "seed": str(record.seed),
            "device": record.device, "started": record.started, "finished": record.finished,
            "digest": record.digest, "reason": record.reason, "checkpoint": record.checkpoint,
            "choices": json.dumps(choices, ensure_ascii=False, sort_keys=True),
        }  # fmt: skip
        row.update({f"extra_{name}": value for name, value in record.extra.items() if name not in row})
        rows.append(row)
    frame = pd.DataFrame(rows)
    for name in ("accuracy", "test_accuracy", "train_loss_sum"):
        if name in frame:
            frame[name] = pd.to_numeric(frame[name])
    if "extra_latency" in frame:
        frame["latency_ms"] = 1000 * frame["extra_latency"]
    return frame


def in_values(trials: pd.DataFrame) -> pd.DataFrame:
    """`trial_table` with the metric's values in place of scores, under its name; of the accuracy they are the same."""
    metric = spoken()
    if metric.is_accuracy:
        return trials.rename(columns={f"extra_{SCORE}": "extra_validation_accuracy"})
    frame = trials.copy()
    names = {"accuracy": metric.name, "test_accuracy": f"test_{metric.name}", "images": "n",
             f"extra_{SCORE}": f"validation_{metric.name}"}  # fmt: skip
    for column in names.keys() & set(frame.columns):
        if column != "images":
            frame[column] = [metric.value(v) if v is not None and v == v else math.nan for v in frame[column]]
    return frame.rename(columns=names)


def cost_columns(trials: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The costs that the trainings differ in: (column, words, unit)."""
    known = [
        ("params", "parameters", ""), ("macs", "MACs", f" per {one_input()}"),
        ("latency_ms", "ms of latency", ""), ("extra_memory", "bytes of a training step", ""),
    ]  # fmt: skip
    return [
        item for item in known
        if item[0] in trials.columns and trials.loc[trials["state"] == "complete", item[0]].nunique() > 1
    ]  # fmt: skip


def csv_text(frame: pd.DataFrame) -> str:
    """`frame` as CSV, numbers in full precision, no cell that a spreadsheet would run."""
    columns: dict[str, list[object]] = {}
    for position, name in enumerate(frame.columns):
        values = frame.iloc[:, position]
        columns[str(csv_cell(str(name)))] = list(values if _numeric(values) else map(csv_cell, values))
    return str(pd.DataFrame(columns, dtype=object).to_csv(index=False, lineterminator="\n"))


def _numeric(column: pd.Series) -> bool:
    return bool(is_numeric_dtype(column))
