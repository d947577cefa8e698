"""Whether a run's storage holds what a search writes. This is checked after reading has failed, to distinguish damaged
or fabricated data from a fault of reborn-nas.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.errors import RebornError
from reborn_nas.metric import Metric
from reborn_nas.records import PHASES, STATES, TrialRecord, field_names
from reborn_nas.study.config.config import StudyConfig, known_settings
from reborn_nas.study.config.own import metric_of

__all__ = ["damage"]

SHOWN = 60
"""Characters of a value that are shown."""


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Phase(_Kept):
    name: str
    count: NonNegativeInt
    reason: str
    batches: list[int]
    seconds: float | None = None
    editions: list[int] = []


class _Site(_Kept):
    name: str
    index: int
    stage: int
    block: str
    channels: int
    shape: list[int]
    activation: str
    layout: str = ""


class _Data(_Kept):
    name: str
    classes: list[str]
    mean: list[float]
    std: list[float]


class _Budget(_Kept):
    costs: dict[str, dict[str, float]]
    limit: float
    base: float = 0.0
    name: str = ""


class _Plan(_Kept):
    total: NonNegativeInt
    phases: list[_Phase]
    contrast: tuple[str, str] = ("", "")
    factors: dict[str, list[str]]
    parameters: dict[str, list[str]]
    sites: list[_Site]
    data: _Data | None = None
    notes: list[str] = []
    seconds: float | None = None
    objectives: list[str] = []
    members: dict[str, list[str]] = {}
    fixed: dict[str, str] = {}
    budgets: list[_Budget] = []


class _Settings(_Kept):
    backbone: dict[str, Any]


class _Candidate(_Kept):
    architecture: dict[str, Any]
    reason: str


class _Run(_Kept):
    """What the attributes of a run's first study hold."""

    config: dict[str, Any] = {}
    settings: _Settings | None = None
    plan: _Plan | None = None
    candidate: _Candidate | None = None
    void: list[int] = []
    finished: int = -1
    top: list[str] | None = None


_RUN = TypeAdapter(_Run)
_RECORD = TypeAdapter(TrialRecord)


def damage(attributes: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> str | None:
    """The first thing that no search writes; None if there is none.

    Args:
        attributes: what the run stores outside of its trials, by name.
        records: records of the trainings that have a result.
    """
    try:
        return next(_faults(attributes, records), None)
    except Exception as error:  # data that make this check fail are not sound
        return f"{type(error).__name__}: {error}"


def _faults(attributes: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    try:
        run = _RUN.validate_json(json.dumps(attributes))
    except ValidationError as error:
        yield _first(error)
        return
    yield from _refused("config", lambda: StudyConfig(**known_settings(run.config)))
    if run.settings is not None:
        spec = {key: value for key, value in run.settings.backbone.items() if key != "pretrained"}
        yield from _refused("settings.backbone", lambda: BackboneSpec.from_dict(spec))
    if run.candidate is not None:
        kept = run.candidate.architecture
        yield from _refused("candidate.architecture", lambda: Architecture.from_dict(kept))
    if run.plan is not None:
        if run.settings is None:
            yield "it has a plan and no settings"
        yield from _in_plan(run.plan)
    for data in records:
        if run.plan is None or run.settings is None:
            yield "it has results, and no plan or no settings"
        yield from _in_record(data, run.plan, metric_of(run.config))


def _in_plan(plan: _Plan) -> Iterator[str]:
    sites = {site.name for site in plan.sites}
    for phase in plan.phases:
        if phase.name not in PHASES:
            yield f"plan.phases: {_shown(phase.name)} is not a phase"
    for name, found in {**plan.factors, **plan.members}.items():
        if not sites.issuperset(found):
            yield f"plan: {_shown(name)} names sites that the plan lacks"


def _in_record(data: Mapping[str, Any], plan: _Plan | None, metric: Metric) -> Iterator[str]:
    try:
        record = _RECORD.validate_json(json.dumps(field_names(data)), strict=True)
    except ValidationError as error:
        yield f"the record of {_shown(data.get('key'))}: {_first(error)}"
        return
    where = f"the record of {_shown(record.key)}"
    if record.phase not in PHASES or record.state not in STATES:
        yield f"{where}: phase {_shown(record.phase)}, state {_shown(record.state)}"
    for name, share in (("score", record.accuracy), ("test_score", record.test_accuracy)):
        if share is not None and (not isfinite(share) or (metric.is_accuracy and not 0 <= share <= 1)):
            yield f"{where}: {name} is {_shown(share)}"
    if record.state == "complete" and record.accuracy is None:
        yield f"{where}: it is complete and has no score"
    yield from _refused(where, lambda: Architecture.from_dict(record.architecture))
    if not set(record.levels.values()) <= {0, 1}:
        yield f"{where}: levels are 0 or 1"
    if plan is not None:
        for name in {*record.parameters, *record.levels} - {*plan.parameters, *plan.factors}:
            yield f"{where}: the plan has no {_shown(name)}"


def _refused(where: str, make: Any) -> Iterator[str]:
    try:
        make()
    except RebornError as error:
        yield " ".join(f"{where}: {error}".split())


def _first(error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    place = ".".join(map(str, item["loc"])) or "its attributes"
    return f"{place}: {item['msg']}, not {_shown(item['input'])}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
