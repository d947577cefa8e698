"""What a run recommends keeps its limits by what the network truly has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reborn_nas import backbone
from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.records import TrialRecord
from reborn_nas.study.result.networks import recommend_info
from reborn_nas.study.setup.costs import counted_excess
from reborn_nas.study.store.reading import RunInfo

LABELS = ("original", "reborn")


@pytest.fixture(scope="module")
def spec() -> BackboneSpec:
    return backbone.resolve("convnet5", input_size=(1, 8, 8), num_classes=10)


def counted(spec: BackboneSpec, choices: dict[str, Choice | str]) -> backbone.Cost:
    """Of the network itself, built and converted."""
    model = backbone.build(spec)
    steps = backbone.plan(model, Architecture(spec, choices), spec.input_size)
    return backbone.count(backbone.apply(model, steps, inplace=True), spec.input_size)


def run_of(spec: BackboneSpec, limit: float, sums: dict[str, dict[str, float]], base: float) -> RunInfo:
    """Twenty search trainings in which reborn gains at every site, most at the first."""
    model = backbone.build(spec, device="meta")
    sites = backbone.discover(model, spec.input_size).sites
    names = [site.name for site in sites]
    rng = np.random.default_rng(0)
    records = []
    for number in range(20):
        codes = rng.integers(2, size=len(names))
        chosen = {name: LABELS[code] for name, code in zip(names, codes, strict=True)}
        gain = float(codes @ np.linspace(0.05, 0.02, len(names)))
        record = TrialRecord(f"search/{number}", "search", "sampled", number, "complete", chosen)
        records.append(replace(record, parameters=chosen, accuracy=0.5 + gain))
    return RunInfo(
        folder=None,
        name="made up",
        config={},
        settings={"backbone": {**spec.to_dict(), "pretrained": False}},
        plan={
            "parameters": {name: list(LABELS) for name in names},
            "members": {name: [name] for name in names},
            "sites": [
                {"name": site.name, "stage": site.stage, "activation": site.activation} for site in sites
            ],
            "budgets": [{"costs": sums, "limit": limit, "base": base, "name": "params"}],
        },
        records=tuple(records),
        candidate=None,
    )


def test_a_recommendation_keeps_its_limits_where_the_sums_are_too_low(spec: BackboneSpec) -> None:
    names = [
        site.name for site in backbone.discover(backbone.build(spec, device="meta"), spec.input_size).sites
    ]
    none = counted(spec, {}).params
    added = {name: counted(spec, {name: "reborn"}).params - none for name in names}
    limit = none + 0.6 * sum(added.values())
    too_low = {name: {"reborn": 0.5 * more} for name, more in added.items()}
    found = recommend_info(run_of(spec, limit, too_low, none)).architecture
    taken = counted(spec, dict(found.choices)).params
    assert none < taken <= limit
    assert counted(spec, dict.fromkeys(names, "reborn")).params > limit


def test_the_excess_is_that_of_the_network_itself(spec: BackboneSpec) -> None:
    names = [
        site.name for site in backbone.discover(backbone.build(spec, device="meta"), spec.input_size).sites
    ]
    chosen = {names[0]: "reborn", names[-1]: "silu"}
    true = counted(spec, dict(chosen))
    limits = {"params": true.params / 1.25, "macs": 2.0 * true.macs, "latency": 1.0}
    excess = counted_excess(spec, limits, lambda choices: Architecture(spec, choices))
    assert excess is not None
    assert excess(chosen) == pytest.approx({"params": 0.25, "macs": -0.5})
    assert counted_excess(spec, {"latency": 1.0}, lambda choices: Architecture(spec, choices)) is None
    own = replace(spec, source="nowhere.py:factory")
    assert counted_excess(own, limits, lambda choices: Architecture(own, choices)) is None
