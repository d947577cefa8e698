"""Samplers by name and by entry point; the additive sampler in anybody's study."""

from __future__ import annotations

import pickle
import time
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import optuna
import pytest

from reborn_nas.errors import StudyError, UnknownNameError
from reborn_nas.samplers import registry as samplers
from reborn_nas.samplers.additive import TrialRows
from reborn_nas.study import AdditiveSampler, make_sampler
from tests.benchmarks import constraints

CHOICES = ("original", "reborn", "crelu", "silu")


def planted(sites: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """What each choice adds at each site."""
    rng = np.random.default_rng(seed)
    return {f"site{index}": dict(zip(CHOICES, rng.normal(size=4), strict=True)) for index in range(sites)}


def run(
    truth: dict[str, dict[str, float]], sampler: optuna.samplers.BaseSampler, trials: int, sign: int = 1
) -> Any:
    rng = np.random.default_rng(1)

    def objective(trial: optuna.Trial) -> float:
        value = sum(gains[trial.suggest_categorical(name, CHOICES)] for name, gains in truth.items())
        return sign * (value + 0.5 * float(rng.normal()))

    study = optuna.create_study(direction="maximize" if sign > 0 else "minimize", sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return study


def true_value(truth: dict[str, dict[str, float]], params: dict[str, str]) -> float:
    return sum(gains[params[name]] for name, gains in truth.items())


@pytest.mark.parametrize("sign", [1, -1])
def test_it_finds_an_additive_optimum_that_random_search_does_not(sign: int) -> None:
    truth = planted(10)
    best = sum(max(gains.values()) for gains in truth.values())
    late = run(truth, AdditiveSampler(seed=0), 80, sign).trials[-10:]
    reached = np.mean([true_value(truth, trial.params) for trial in late])
    chance = np.mean(
        [true_value(truth, trial.params) for trial in run(truth, make_sampler("random", 0), 80).trials]
    )
    assert reached > 0.75 * best
    assert chance < 0.3 * best


def test_the_same_seed_proposes_the_same() -> None:
    truth = planted(4)
    one, two = (run(truth, AdditiveSampler(seed=3), 20) for _ in range(2))
    assert [t.params for t in one.trials] == [t.params for t in two.trials]


def test_conditional_numeric_and_odd_parameters() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = 0.1 * trial.suggest_float("x", 0, 1)
        if trial.suggest_categorical("act", ["relu", "reborn"]) == "reborn":
            value += trial.suggest_categorical("kernel", [1, 3, 5]) / 5
        value += trial.suggest_categorical("flag", [None, True, 1.5]) is True
        return value + (trial.suggest_categorical("single", ["only"]) == "only")

    study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0))
    study.optimize(objective, n_trials=60)
    late = [trial.params for trial in study.trials[-15:]]
    assert sum(p["act"] == "reborn" and p.get("kernel") == 5 and p["flag"] is True for p in late) >= 10


def test_a_label_is_taken_for_what_it_makes_possible() -> None:
    """Reborn is worse than silu; with kernel 5, which only it has, it is better."""
    rng = np.random.default_rng(0)

    def objective(trial: optuna.Trial) -> float:
        value = 0.0
        for site in range(6):
            act = trial.suggest_categorical(f"act{site}", ["relu", "silu", "reborn"])
            value += {"relu": 0.0, "silu": 0.3, "reborn": 0.0}[act]
            if act == "reborn":
                value += 0.6 * (trial.suggest_categorical(f"kernel{site}", [1, 3, 5]) == 5)
        return value + 0.3 * float(rng.normal())

    study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0))
    study.optimize(objective, n_trials=60)
    late = [trial.params for trial in study.trials[-10:]]
    found = sum(params.get(f"kernel{site}") == 5 for params in late for site in range(6))
    assert found >= 45  # of 60


def test_later_parameters_stand_where_they_were_asked() -> None:
    asked = [["a", "d"], ["a", "b", "d"], ["a", "b", "c", "d", "e"], ["first", "a"]]
    words = optuna.distributions.CategoricalDistribution(CHOICES)
    trials = []
    for number, names in enumerate(asked):
        trial = optuna.trial.create_trial(
            value=0.0, params=dict.fromkeys(names, "silu"), distributions=dict.fromkeys(names, words)
        )
        trial.number = number
        trials.append(trial)
    assert list(TrialRows().search_space(trials)) == ["first", "a", "b", "c", "d", "e"]


def test_failures_and_pruned_trials_are_avoided() -> None:
    def objective(trial: optuna.Trial) -> float:
        for name in ("a", "b", "c"):
            if trial.suggest_categorical(name, ["good", "bad", "worse"]) == "worse":
                if name == "a":
                    trial.set_constraint("diverged", 1.0)
                raise optuna.TrialPruned
        return sum(value == "good" for value in trial.params.values())

    study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0))
    study.optimize(objective, n_trials=60)
    late = [trial.params for trial in study.trials[-20:]]
    assert sum(p == {"a": "good", "b": "good", "c": "good"} for p in late) >= 15


def test_two_objectives() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=AdditiveSampler(seed=0))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        big = [trial.suggest_categorical(f"s{index}", ["small", "big", "wasteful"]) for index in range(5)]
        gain = sum((5 - index) * (word != "small") for index, word in enumerate(big))
        return gain, sum({"small": 0, "big": 1, "wasteful": 2}[word] for word in big)

    study.optimize(objective, n_trials=60)
    assert not any("wasteful" in trial.params.values() for trial in study.best_trials)
    assert len({trial.values[0] for trial in study.best_trials}) >= 4


def test_parallel_proposals_differ() -> None:
    truth = planted(8)
    study = run(truth, AdditiveSampler(seed=0), 30)
    space = {name: optuna.distributions.CategoricalDistribution(CHOICES) for name in truth}
    asked = [study.ask(dict(space)) for _ in range(6)]
    assert len({tuple(trial.params.values()) for trial in asked}) > 1


class Forgetful(AdditiveSampler):
    """Reads every trial again at each suggestion."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        self._rows = TrialRows()
        return super().infer_relative_search_space(study, trial)


def test_what_is_kept_between_suggestions_changes_none() -> None:
    """Pruned, failed, infeasible and running trials, and parameters that appear later."""

    def suggestions(sampler: AdditiveSampler) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        rng, running = np.random.default_rng(5), []
        for number in range(70):
            trial = study.ask()
            names = ["a", "b", "c", "d"] if number < 30 else ["d", "b", "late", "a", "c"]
            words = [
                trial.suggest_categorical(name, [1, 2.5, None, "x"] if name == "c" else CHOICES)
                for name in names
            ]
            if number > 50:
                trial.suggest_categorical("odd", [True, False])
            trial.set_constraint("cost", float(words.count("crelu")) - 1)
            if number % 11 == 3:
                running.append(trial)
            elif number % 7 == 2:
                trial.report(float(rng.normal()), 1)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            elif number % 13 == 1:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, words.count("reborn") + float(rng.normal()))
            if len(running) > 2:
                study.tell(running.pop(0), 0.5)
        return [trial.params for trial in study.trials]

    keeping = AdditiveSampler(seed=2)
    first = suggestions(keeping)
    assert first == suggestions(Forgetful(seed=2))
    again = AdditiveSampler(seed=9)
    again._rows = keeping._rows  # has read another study
    assert suggestions(again) == suggestions(Forgetful(seed=9))
    assert not pickle.loads(pickle.dumps(again))._rows._rows


@pytest.mark.slow
def test_a_proposal_grows_at_most_linearly_with_the_trials() -> None:
    names = [f"site{index}" for index in range(33)]
    labels = tuple("abcdefghi")
    rng = np.random.default_rng(0)
    space = {name: optuna.distributions.CategoricalDistribution(labels) for name in names}
    took = {}
    for count in (125, 1000):
        study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0))
        for _ in range(count):
            params = {name: str(rng.choice(labels)) for name in names}
            value = float(rng.normal())
            study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(space), value=value))
        times = []
        for _ in range(5):
            began = time.process_time()
            trial = study.ask(space)
            times.append(time.process_time() - began)
            study.tell(trial, 0.0)
        took[count] = min(times)
    assert took[1000] < 12 * took[125]  # 8 times the trials


class Toy(optuna.samplers.RandomSampler):
    """A third party's sampler."""


def _points(value: str) -> Any:
    point = EntryPoint(name="toy", value=value, group=samplers.GROUP)
    return lambda group, name=None: [point] if name in (None, "toy") else []


def test_a_third_party_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "entry_points", _points(f"{__name__}:Toy"))
    assert "toy" in samplers.sampler_names()
    assert type(make_sampler("toy", 5)).__name__ == "Toy"


@pytest.mark.parametrize("value", ["nowhere:Toy", "builtins:dict"])
def test_a_third_party_sampler_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(samplers, "entry_points", _points(value))
    with pytest.raises(StudyError, match="toy"):
        make_sampler("toy", 0)


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="additive"):
        make_sampler("aditive", 0)


def test_a_limit_that_nothing_seems_to_keep_is_searched_for_and_then_kept() -> None:
    """Different costs of each choice at each site, a limit that two of a hundred random architectures keep."""
    found = constraints.one_study(3, 0.02, False, 90)
    assert len({codes for codes, _ in found}) > 80
    assert np.mean([kept for _, kept in found[60:]]) > 0.85
