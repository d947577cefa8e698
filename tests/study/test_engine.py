"""Runs are done exactly once, in any order of workers, interruptions and resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from reborn_nas.analysis import screen_sizes
from reborn_nas.analysis.model.encoding import Space
from reborn_nas.architecture import Architecture
from reborn_nas.errors import DeviceLostError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.urls import run_url
from reborn_nas.study.plan import candidate
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.plan.phases import Phase, plan_phases
from reborn_nas.study.setup.context import StudyContext
from reborn_nas.study.store.outcome import outcome_of
from reborn_nas.study.store.reading import read_records
from reborn_nas.study.store.storage import RunStore, connect, open_run
from reborn_nas.study.worker.loop import Worker
from reborn_nas.study.worker.progress import SilentProgress
from reborn_nas.study.worker.schedule import common_failure, void_failed_results
from reborn_nas.study.worker.stop import Stopper
from tests.study.conftest import FakeObjective, fake_record, make_bench


def plan(
    context: StudyContext, total: int, earlier: tuple[Phase, ...] = (), **counts: int
) -> tuple[Phase, ...]:
    n = len(context.contrast.factors)
    return plan_phases(total, n, sizes=screen_sizes(n, total), counts=counts, earlier=earlier)


def store_of(context: StudyContext) -> RunStore:
    return open_run(connect(run_url(context.config.folder, None)), "toy", create=True)


def run(context: StudyContext, phases: tuple[Phase, ...], objective: Any, lead: bool = True) -> bool:
    with Stopper() as stopper:
        engine = Worker(context, store_of(context), phases, objective, SilentProgress(), stopper)
        return engine.work(lead=lead)


def told_once(context: StudyContext) -> dict[str, float | None]:
    """Key → accuracy over all trials that hold a record; fails where a key has two."""
    found: dict[str, float | None] = {}
    for study in store_of(context).studies():
        for trial in study.get_trials():
            record = trial.user_attrs.get("record")
            if record is not None:
                assert record["key"] not in found
                found[record["key"]] = record["score"]
    return found


def test_each_run_once_and_a_second_call_does_nothing(folder: Path) -> None:
    context = make_bench(folder)
    phases = plan(context, 64)
    objective = FakeObjective()
    assert run(context, phases, objective)
    assert set(objective.calls.values()) == {1}
    assert len(told_once(context)) == 64
    again = FakeObjective()
    assert run(context, phases, again)
    assert again.calls == {}


def test_the_screen_is_balanced_and_its_runs_are_what_their_levels_say(folder: Path) -> None:
    context = make_bench(folder, space="paper")
    assert run(context, plan(context, 64), FakeObjective())
    screen = [record for record in read_records(store_of(context)) if record.phase == "screen"]
    for site in context.contrast.factors:
        assert sum(record.levels[site] for record in screen) == 16
    for record in screen:
        architecture = Architecture.from_dict(record.architecture)
        for site, level in record.levels.items():
            assert architecture.choice(site).name == ("reborn" if level else "original")
            assert record.parameters[site] == architecture.choice(site).label
    kernels = [str(label) for record in screen for label in record.parameters.values() if "reborn" in label]
    assert {label.split("kernel_size=")[1][0] for label in kernels} == {"1", "3", "5"}


def test_the_candidate_has_level_one_where_the_screen_saw_a_gain(folder: Path) -> None:
    context = make_bench(folder)
    assert run(context, plan(context, 64), FakeObjective())
    arms = {record.arm: record for record in read_records(store_of(context)) if record.phase == "candidate"}
    chosen = Architecture.from_dict(arms["candidate"].architecture)
    assert set(chosen.choices) == {"layer0.act", "layer1.act"}  # where the formula has a gain
    assert arms["parent"].architecture["choices"] == {}
    assert arms["candidate"].accuracy_part == "test"


def test_a_larger_total_adds_complete_blocks_and_repeats_nothing(folder: Path) -> None:
    context = make_bench(folder)
    first = plan(context, 64)
    run(context, first, FakeObjective())
    before = told_once(context)
    grown = plan(context, 160, earlier=first)
    objective = FakeObjective()
    assert run(context, grown, objective)
    after = told_once(context)
    assert len(after) == 160
    assert {key: after[key] for key in before} == before
    assert not set(objective.calls) & set(before)
    screen = [record for record in read_records(store_of(context)) if record.phase == "screen"]
    assert len(screen) == 80
    assert len({record.block for record in screen[:32]} & {record.block for record in screen[32:]}) == 0


def test_an_interrupted_study_ends_as_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    undisturbed = make_bench(tmp_path / "other")
    (tmp_path / "other").mkdir()
    run(undisturbed, plan(undisturbed, 64), FakeObjective())

    context = make_bench(folder)
    phases = plan(context, 64)

    def stop_sometimes(run: Run, number: int) -> None:
        if number == 6:
            raise KeyboardInterrupt

    for _ in range(30):
        stopper = Stopper()
        objective = FakeObjective(before=stop_sometimes)
        engine = Worker(
            context, store_of(context), phases, _stops(objective, stopper), SilentProgress(), stopper
        )
        if engine.work(lead=True):
            break
    else:
        pytest.fail("the study never ended")
    assert told_once(context) == told_once(undisturbed)


def _stops(objective: FakeObjective, stopper: Stopper) -> Any:
    def execute(*args: Any, **kwargs: Any) -> TrialRecord:
        try:
            return objective(*args, **kwargs)
        except KeyboardInterrupt:
            stopper.interrupted = True
            raise

    return execute


def test_failures_are_kept_with_their_reason_and_do_not_end_the_study(folder: Path) -> None:
    context = make_bench(folder)
    states = {"screen/3": "failed", "screen/4": "diverged", "search/1": "diverged", "search/2": "failed"}
    assert run(context, plan(context, 64), FakeObjective(state=lambda run: states.get(run.key, "complete")))
    records = {record.key: record for record in read_records(store_of(context))}
    assert len(records) == 64
    assert {key: records[key].state for key in states} == states
    search = store_of(context).study("search")
    bad = [trial for trial in search.get_trials() if trial.user_attrs.get("key") in ("search/1", "search/2")]
    assert [trial.state.name for trial in bad] == ["PRUNED", "PRUNED"]
    assert all(max(trial.constraints.values()) > 0 for trial in bad)


def test_the_sampler_starts_from_the_screen(folder: Path) -> None:
    context = make_bench(folder, space="paper")  # it names relu, not the original
    run(context, plan(context, 64), FakeObjective())
    search = store_of(context).study("search")
    copies = [trial for trial in search.get_trials() if "copy_of" in trial.user_attrs]
    assert len({trial.user_attrs["copy_of"] for trial in copies}) == len(copies) == 32
    for trial in copies:
        assert set(trial.params) == set(context.parameters)
        assert all(value in context.parameters[name] for name, value in trial.params.items())
    assert {value for trial in copies for value in trial.params.values() if "reborn" not in value} == {"relu"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp", "additive"])
def test_every_sampler_proposes_from_the_space_and_hears_of_failures(folder: Path, sampler: str) -> None:
    context = make_bench(folder, sampler=sampler)
    phases = plan(context, 8, baseline=0, screen=0, candidate=0)
    assert run(
        context, phases, FakeObjective(state=lambda run: "diverged" if run.key == "search/0" else "complete")
    )
    trials = [
        trial for trial in store_of(context).study("search").get_trials() if "record" in trial.user_attrs
    ]
    assert len(trials) == 8
    failed = next(trial for trial in trials if trial.user_attrs["key"] == "search/0")
    if sampler in ("nsga2", "gp"):  # these read COMPLETE trials only
        assert (failed.state.name, failed.value) == ("COMPLETE", 0.0)
    else:
        assert failed.state.name == "PRUNED"
    assert max(failed.constraints.values()) > 0


def test_the_samplers_of_a_worker_read_each_trial_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search training has a fresh sampler; what is finished is read by the first that sees it."""
    read: list[int] = []
    encode = Space.encode

    def counting(space: Space, trials: Sequence[Mapping[str, Any]]) -> Any:
        read.append(len(trials))
        return encode(space, trials)

    monkeypatch.setattr(Space, "encode", counting)
    context = make_bench(folder, sampler="additive")
    assert run(context, plan(context, 40, baseline=0, screen=0, candidate=0), FakeObjective())
    # of 40 trainings 8 start at random; then each reads what is new and whatever else is under way
    assert sum(read) <= 40 + 64 + 40  # the recommender reads all of them once at the end
    assert len(read) > 30


def test_attributes_that_people_look_for_in_the_dashboard(folder: Path) -> None:
    context = make_bench(folder)
    run(context, plan(context, 64), FakeObjective())
    for study in store_of(context).studies():
        for trial in study.get_trials():
            if "record" in trial.user_attrs:
                assert {"seed", "phase", "params", "macs", "seconds", "digest"} <= set(trial.user_attrs)
                assert set(trial.params) == set(context.parameters)
        assert study.metric_names == ["accuracy"]


def test_a_designed_run_that_diverged_keeps_its_accuracy() -> None:
    run = Run("screen/0", "screen", "design", 1)
    record = fake_record(run, Architecture("toy", {}), "diverged")
    result = outcome_of(record, learns_pruned=True)
    assert record.accuracy is not None
    assert (result.state, result.value) == ("COMPLETE", round(record.accuracy, 4))


def test_confirmation_and_control(folder: Path) -> None:
    context = make_bench(folder, sites=7)
    assert run(context, plan(context, 200, confirm=32, control=48), FakeObjective())
    records = read_records(store_of(context))
    confirm = [record for record in records if record.phase == "confirm"]
    control = [record for record in records if record.phase == "control"]
    assert (len(confirm), len(control)) == (32, 48)
    top = set(confirm[0].levels)
    assert len(top) == 5
    assert {"layer0.act", "layer1.act"} <= top
    for record in control:
        architecture = Architecture.from_dict(record.architecture)
        assert {architecture.choice(site).name for site in record.levels} <= {"reborn", "positive_twin"}
        for site, level in record.levels.items():
            assert (architecture.choice(site).name == "reborn") == bool(level)
    for record in [*confirm, *control]:
        assert record.accuracy_part == "reserve"
    for site in top:
        assert sum(record.levels[site] for record in confirm) == 16
        assert sum(record.levels[site] for record in control) == 24


def test_other_contrasts(folder: Path) -> None:
    """`reborn:silu` is reborn against SiLU: the reference is SiLU in the screen and at both later ends too."""
    context = make_bench(folder, contrast="reborn:silu", space="full")
    assert context.contrast.arms == ("reborn", "silu")
    assert run(context, plan(context, 200, checks=16), FakeObjective())
    records = read_records(store_of(context))
    for record in records:
        if record.phase in ("screen", "baseline", "confirm"):
            architecture = Architecture.from_dict(record.architecture)
            assert {(level, architecture.choice(site).name) for site, level in record.levels.items()} <= {
                (0, "silu"),
                (1, "reborn"),
            }
    ends = {
        (record.phase, record.arm): {choice.name for _, choice in Architecture.from_dict(record.architecture)}
        for record in records
        if record.phase in ("baseline", "candidate")
    }
    assert ends == {
        ("baseline", "silu"): {"silu"}, ("baseline", "reborn"): {"reborn"},
        ("candidate", "silu"): {"silu"}, ("candidate", "candidate"): {"silu", "reborn"},
    }  # fmt: skip
    parents = [r for r in records if r.phase == "checks" and r.arm == "alone" and not any(r.levels.values())]
    assert {tuple(r.architecture["choices"].values()) for r in parents} == {("silu",) * 5}


def test_level_one_of_two_forms_of_one_activation_is_the_one_on_trial(folder: Path) -> None:
    context = make_bench(folder, contrast="reborn(kernel_size=3):reborn(kernel_size=1)")
    site = next(iter(context.contrast.factors))
    high, low = context.contrast.high.default, context.contrast.low.default
    assert (high.options["kernel_size"], low.options["kernel_size"]) == (3, 1)
    reference = context.contrast.reference(context.spec)
    assert reference.choice(site) == low
    assert context.contrast.tested_at(reference, site) == high


def test_optuna_is_quiet_about_it(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    context = make_bench(folder)
    run(context, plan(context, 4), FakeObjective())
    assert not [
        w for w in recwarn if issubclass(w.category, FutureWarning | optuna.exceptions.ExperimentalWarning)
    ]


def test_a_baseline_that_fails_entirely_stops_the_study_and_is_restarted(folder: Path) -> None:
    context = make_bench(folder)
    phases = plan(context, 64)
    objective = FakeObjective(state=lambda run: "failed")
    with pytest.raises(StudyError, match=r"all 8 trainings ended without a result: .*made to fail"):
        run(context, phases, objective)
    assert {key.partition("/")[0] for key in objective.calls} == {"baseline"}
    with pytest.raises(StudyError, match="all 8 trainings"):  # a worker that comes later trains nothing
        run(context, phases, FakeObjective())
    void_failed_results(store_of(context), phases)  # the same command, once more
    assert run(context, phases, FakeObjective())
    assert len(read_records(store_of(context))) == 64
    assert {record.state for record in read_records(store_of(context))} == {"complete"}


@pytest.mark.parametrize("state", ["failed", "diverged"])
@pytest.mark.parametrize("total", [1, 3, 7])
def test_a_study_without_a_baseline_of_which_nothing_ends_well_is_no_success(
    folder: Path, total: int, state: str
) -> None:
    context = make_bench(folder)
    phases = plan(context, total)
    objective = FakeObjective(state=lambda run: state)
    with pytest.raises(StudyError, match=f"all {total} trainings ended without a result"):
        run(context, phases, objective)
    assert len(objective.calls) == total
    void_failed_results(store_of(context), phases)
    assert run(context, phases, FakeObjective())


def test_reasons_that_differ_only_in_numbers_are_one() -> None:
    def record(reason: str, state: str = "diverged") -> TrialRecord:
        fields = {"key": "search/0", "phase": "search", "arm": "sampled", "number": 0, "architecture": {}}
        return TrialRecord(**fields, parameters={}, levels={}, block=0, seed=0, state=state, reason=reason)

    told = [record("loss 3.5 in epoch 1"), record("loss nan in epoch 2"), record("loss 1.5 in epoch 2")]
    assert common_failure(told) == "loss 3.5 in epoch 1; loss nan in epoch 2"
    assert common_failure([*told, record("", "complete")]) is None
    assert common_failure([]) is None


def test_one_good_training_is_hope_enough(folder: Path) -> None:
    context = make_bench(folder)
    phases = plan(context, 5)
    calls: list[str] = []

    def state(one: Run) -> str:
        calls.append(one.key)
        return "complete" if len(calls) == 4 else "diverged"

    assert run(context, phases, FakeObjective(state=state))
    assert len(calls) == 5


class Breaking(FakeObjective):
    """Its device is lost in the training of one run, `times` times."""

    def __init__(self, key: str, times: int) -> None:
        super().__init__()
        self.key, self.left = key, times

    def __call__(self, run: Run, *args: Any) -> TrialRecord:
        if run.key == self.key and self.left:
            self.left -= 1
            raise DeviceLostError("device cuda no longer answers in this process, after: device-side assert")
        return super().__call__(run, *args)


def test_a_lost_device_ends_the_process_and_costs_no_training(folder: Path) -> None:
    """The next process trains what was given back; nothing is told as failed because of the device."""
    context = make_bench(folder)
    phases = plan(context, 64)
    objective = Breaking("screen/3", times=1)
    with pytest.raises(DeviceLostError):
        run(context, phases, objective)
    assert run(context, phases, objective)
    records = read_records(store_of(context))
    assert len(records) == 64
    assert {record.state for record in records} == {"complete"}


def test_what_breaks_its_device_each_time_is_given_up(folder: Path) -> None:
    context = make_bench(folder)
    phases = plan(context, 64)
    objective = Breaking("screen/3", times=100)
    for _ in range(5):
        with pytest.raises(DeviceLostError):
            run(context, phases, objective)
    assert run(context, phases, objective)
    states = {record.key: record.state for record in read_records(store_of(context))}
    assert states.pop("screen/3") == "failed"
    assert set(states.values()) == {"complete"}


@pytest.mark.parametrize("spared", ["parent", "reborn"])
def test_a_baseline_of_which_one_arm_fails_goes_on(folder: Path, spared: str) -> None:
    context = make_bench(folder)
    objective = FakeObjective(
        state=lambda run: "failed" if run.phase == "baseline" and run.arm != spared else "complete"
    )
    phases = plan(context, 64)
    assert run(context, phases, objective)
    void_failed_results(store_of(context), phases)
    assert store_of(context).void() == frozenset()


def test_device_hours_end_it_and_more_of_them_go_on(folder: Path) -> None:
    class HalfAnHour(FakeObjective):
        def __call__(self, *args: Any) -> TrialRecord:
            return replace(super().__call__(*args), seconds=1800.0)

    context = make_bench(folder, gpu_hours=2.0)
    phases = plan(context, 64)
    objective = HalfAnHour()
    with Stopper() as stopper:
        engine = Worker(context, store_of(context), phases, objective, SilentProgress(), stopper)
        assert not engine.work(lead=True)
    assert stopper.spent
    assert len(objective.calls) == 4
    assert run(make_bench(folder, gpu_hours=100.0), phases, HalfAnHour())


def test_the_candidate_follows_the_estimates_that_the_report_prints(folder: Path) -> None:
    """Kernels and compressions are taken out of both: the signs agree, also where only noise and options speak."""
    from reborn_nas.report.results.findings import study_findings
    from reborn_nas.report.results.view import RunView

    context = make_bench(folder, space="full", contrast="reborn:silu")
    assert run(context, plan(context, 80, screen=16, search=0, confirm=0, control=0), FakeObjective())
    records = read_records(store_of(context))
    odd = [
        replace(record, accuracy=0.5 + (record.seed % 997) / 9970) if record.phase == "screen" else record
        for record in records
    ]
    screen = [record for record in odd if record.phase == "screen"]
    effects = study_findings(RunView("t", odd, arms=("reborn", "silu"))).effects
    assert effects is not None
    estimates = candidate._estimates(screen, context.contrast)
    assert estimates is not None
    own = estimates[0]
    assert [100 * own[site] for site in effects["site"]] == pytest.approx(list(effects["effect"]))
    ranked = candidate.leading_factors(screen, context.contrast, 3)
    assert ranked == list(effects.sort_values("effect", ascending=False)["site"].head(3))
    assert candidate.top_factors(screen, context.contrast, 3) == [
        name for name in context.contrast.factors if name in ranked
    ]
