"""What a report is made from: plain data, without storage, network or device."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from reborn_nas.errors import StudyError
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.records import TrialRecord

if TYPE_CHECKING:
    from reborn_nas.report.probe import SiteFeatures


SITE_COLUMNS = (
    "name", "index", "stage", "block", "channels", "shape", "activation", "added_params", "added_macs",
)  # fmt: skip
_NESTED = ("architecture", "parameters", "levels", "environment", "extra")


def no_curves(key: str) -> pd.DataFrame | None:
    """The loader of a run that kept no learning curves."""
    return None


@dataclass(frozen=True)
class RunView:
    """One run as the report reads it.

    Args:
        title: the study's name.
        records: the trials, as `TrialRecord`s, dicts, or a DataFrame of these with nested fields as JSON text.
        sites: one entry a site in execution order, `Site`s, mappings or a DataFrame with the names of
            `SITE_COLUMNS`; what is missing is left out. `added_params` and `added_macs` are what a reborn
            block of the default form costs there.
        phases: mappings with `phase`, `planned` (trainings), and optionally `note` (such as why it was left out).
        config: the study's settings, shown as they are.
        environment: versions, host, device.
        curves: trial key → DataFrame with `epoch`, `train_loss` and the metric, or None.
        classes: trial key → DataFrame with `class`, `images`, `right` and `predicted`, or None.
        notes: messages of the run (stem replaced, split made, …).
        command: the command that repeats the run.
        recommendation: `choices` (site → label) with `predicted`, `ci_low`, `ci_high` in [0, 1], or None.
        features: what the sites see, see `features.py`.
        arms: the two activations that the study compares, (tested, reference).
        front: of a search with several objectives, the hypervolume over its trainings: `trials`, `hypervolume` and
            `reference` (objective → value).
        pruned: of a search with a pruner, `choice, runs, pruned, share, all`: how often each choice was stopped.
        finished: False while trainings are still to come; then no verdict is given.
        metric: what trainings are judged by, whose scores the records hold.
        start: the weights from which every training started, in words; "" where these were fresh.
    """

    title: str
    records: Sequence[TrialRecord]
    sites: Any = ()
    phases: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    curves: Callable[[str], pd.DataFrame | None] = no_curves
    classes: Callable[[str], pd.DataFrame | None] = no_curves
    notes: Sequence[str] = ()
    command: str = ""
    recommendation: Mapping[str, Any] | None = None
    features: Sequence[SiteFeatures] = ()
    arms: tuple[str, str] = ("reborn", "original")
    front: Mapping[str, Any] = field(default_factory=dict)
    pruned: pd.DataFrame | None = None
    finished: bool = True
    metric: Metric = ACCURACY
    start: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", _as_records(self.records))
        object.__setattr__(self, "sites", _site_frame(self.sites, self.records))

    @property
    def parent_arm(self) -> str:
        """The arm of the trainings that have the reference at every site."""
        return "parent" if self.arms[1] == "original" else self.arms[1]

    @property
    def parent(self) -> str:
        """The network that has the reference at every site, in words."""
        return "the parent" if self.arms[1] == "original" else f"the all-{self.arms[1]} network"

    @property
    def site_names(self) -> list[str]:
        """The sites' names in execution order."""
        return [str(name) for name in self.sites["name"]]

    def phase(self, name: str) -> list[TrialRecord]:
        """The records of one phase."""
        return [record for record in self.records if record.phase == name]

    def setting(self, *names: str, default: str = "") -> str:
        """The first of the settings `names` (dotted paths) that the config has, as text."""
        for name in names:
            value: Any = self.config
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, str | int | float):
                return str(value)
            if isinstance(value, Mapping):
                inner = value.get("name") or value.get("source")
                if inner:
                    return str(inner)
        return default


def _as_records(records: Any) -> tuple[TrialRecord, ...]:
    rows: Iterable[Any] = records
    if hasattr(records, "to_dict") and hasattr(records, "columns"):
        rows = records.to_dict("records")
    made = []
    for row in rows:
        if isinstance(row, TrialRecord):
            made.append(row)
            continue
        try:
            data = {key: json.loads(value) if key in _NESTED and isinstance(value, str) else value
                    for key, value in dict(row).items() if value == value}  # fmt: skip
            made.append(TrialRecord.from_dict(data))
        except (TypeError, ValueError) as error:
            raise StudyError(
                f"a trial record cannot be read ({error}); is this a reborn-nas study?"
            ) from error
    return tuple(made)


def _site_frame(sites: Any, records: Sequence[TrialRecord]) -> pd.DataFrame:
    """The sites as a DataFrame with all of `SITE_COLUMNS`; made from the records' levels where none are given."""
    if isinstance(sites, pd.DataFrame):
        given: dict[str, Sequence[Any]] = {str(name): sites[name].tolist() for name in sites.columns}
        count = len(sites)
    else:
        rows = [site if isinstance(site, Mapping) else _site_row(site) for site in sites]
        if not rows:
            rows = [{"name": name} for name in dict.fromkeys(name for one in records for name in one.levels)]
        known = dict.fromkeys(name for row in rows for name in row)
        given, count = {str(name): [row.get(name, math.nan) for row in rows] for name in known}, len(rows)
    if "site" in given:
        given["name"] = given.pop("site")
    columns: dict[str, Sequence[Any]] = {
        "name": (), "index": range(count), "stage": [0] * count, "block": [""] * count, "channels": [0] * count,
        "shape": [""] * count, "activation": [""] * count, "added_params": [math.nan] * count,
        "added_macs": [math.nan] * count, **given,
    }  # fmt: skip
    columns |= {
        "name": [str(name) for name in columns["name"]],
        "stage": [0 if _absent(value) else int(value) for value in columns["stage"]],
        "block": ["" if _absent(value) else str(value) for value in columns["block"]],
        "shape": [_shape_text(value) for value in columns["shape"]],
    }
    frame = pd.DataFrame(columns)
    if all(first <= second for first, second in itertools.pairwise(columns["index"])):
        return frame
    return frame.sort_values("index", kind="stable", ignore_index=True)


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _site_row(site: Any) -> dict[str, Any]:
    return {name: getattr(site, name) for name in SITE_COLUMNS if hasattr(site, name)}


def _shape_text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " × ".join(str(n) for n in value)
    return str(value) if value is not None and value == value else ""
