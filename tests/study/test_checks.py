"""The checks after the control: what stands where in each part, counted by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from reborn_nas.architecture import Architecture, Choice
from reborn_nas.study.plan.designs import SECOND_RATE, Run, check_runs
from reborn_nas.study.plan.phases import plan_phases
from reborn_nas.study.store.reading import read_records
from tests.study.conftest import FakeObjective, make_bench
from tests.study.test_engine import plan, run, store_of

TOP = ["layer0.act", "layer1.act", "layer2.act", "layer3.act", "layer4.act"]
LEADING = ["layer4.act", "layer0.act", "layer2.act"]


def made(folder: Path, count: int = 64, refused: tuple[str, ...] = ()) -> list[Run]:
    context = make_bench(folder, sites=7)
    incumbent = context.contrast.architecture(
        context.spec, {name: Choice.parse("reborn(kernel_size=3,compression=1x1)") for name in TOP}
    )
    return check_runs(
        count, incumbent, TOP, LEADING, context.contrast, 3, lambda site, choice: choice.name not in refused
    )


def names(one: Run) -> dict[str, str]:
    assert one.architecture is not None
    return {site: choice.name for site, choice in Architecture.from_dict(one.architecture)}


def test_three_sites_alone_on_the_parent(folder: Path) -> None:
    runs = made(folder, 16)
    assert len(runs) == 16
    changed = Counter(tuple(site for site, name in names(one).items() if name == "reborn") for one in runs)
    assert changed == {(): 4, **{(site,): 4 for site in LEADING}}
    for one in runs:
        assert [site for site, level in one.levels.items() if level] == [
            site for site, name in names(one).items() if name == "reborn"
        ]
    for block in range(4):
        assert sum(one.block == block for one in runs) == 4
    assert len({one.seed for one in runs}) == 16


def test_all_top_sites_change_at_once_in_the_controls_and_the_others_stand(folder: Path) -> None:
    runs = [one for one in made(folder, 48) if one.key.startswith("checks/controls")]
    assert Counter(one.arm for one in runs) == {
        f"controls:{name}": 8 for name in ("reborn", "positive_twin", "extended_conv", "norm_relu")
    }
    for one in runs:
        stands = names(one)
        assert {stands[site] for site in TOP} == {one.arm.partition(":")[2]}
        assert {site for site in stands if stands[site] != "original"} == set(TOP)


def test_a_control_that_a_site_refuses_is_left_out(folder: Path) -> None:
    arms = Counter(one.arm for one in made(folder, 48, refused=("extended_conv",)))
    assert arms == {"alone": 16, **{f"controls:{n}": 10 for n in ("reborn", "positive_twin", "norm_relu")}}


def test_the_top_site_is_tried_at_a_second_rate_and_nothing_else_is(folder: Path) -> None:
    runs = made(folder)
    second = [one for one in runs if one.rate != 1.0]
    assert {one.arm for one in second} == {"rate"}
    assert {one.rate for one in second} == {SECOND_RATE}
    assert Counter((names(one).get("layer4.act", "original"), one.levels["layer4.act"]) for one in second) == {
        ("original", 0): 8, ("reborn", 1): 8,
    }  # fmt: skip
    assert {one.part for one in runs} == {"reserve"}


@pytest.mark.parametrize(("asked", "whole"), [(1, 16), (16, 16), (17, 48), (48, 48), (49, 64), (900, 64)])
def test_parts_are_whole(folder: Path, asked: int, whole: int) -> None:
    phases = {
        phase.name: phase.count for phase in plan_phases(500, 5, sizes=(16, 32), counts={"checks": asked})
    }
    assert phases["checks"] == whole
    assert len(made(folder, whole)) == whole
    assert len(made(folder, whole - 1)) < whole


def test_a_study_runs_them_and_a_longer_one_keeps_those_it_has(folder: Path) -> None:
    context = make_bench(folder, sites=7)
    counts = {"baseline": 2, "screen": 16, "candidate": 2, "confirm": 16, "control": 48}
    first = plan(context, 100, **counts, checks=16)
    assert run(context, first, FakeObjective())
    objective = FakeObjective()
    assert run(context, plan(context, 160, earlier=first, **counts, checks=64), objective)
    assert sum(key.startswith("checks/") for key in objective.calls) == 48
    records = [record for record in read_records(store_of(context)) if record.phase == "checks"]
    assert len(records) == 64
    assert sum(r.arm == "rate" for r in records) == 16
    assert set(store_of(context).attribute("top_ranked")[:2]) == {"layer0.act", "layer1.act"}
