"""Collapsed trainings stay the worst and take nothing else along."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from reborn_nas.analysis.effects.collapse import pull_in
from reborn_nas.analysis.model.evidence import integrate
from reborn_nas.analysis.model.maximise import best_assignment
from reborn_nas.analysis.model.recommend import recommend
from reborn_nas.analysis.simulated.surrogate import CHANCE, plant_problem
from reborn_nas.study import AdditiveSampler


def test_the_fence_by_hand() -> None:
    values = np.array([0.90, 0.92, 0.10, 0.93, 0.91, np.nan])  # quartiles of the five: .90 and .92
    assert pull_in(values)[:5] == pytest.approx([0.90, 0.92, 0.87, 0.93, 0.91])
    assert np.isnan(pull_in(values)[5])


def test_nothing_is_moved_without_spread_or_upwards() -> None:
    for values in ([0.5, 0.5, 0.5, 0.5, 0.1], [0.1, 0.1, 0.11, 0.12, 0.95], [np.nan, np.nan], []):
        assert np.array_equal(pull_in(np.array(values)), np.array(values), equal_nan=True)


def test_how_far_a_training_fell_has_no_say() -> None:
    problem = plant_problem(table=(3, 3), seed=1)
    rng = np.random.default_rng(0)
    trials = [
        {name: str(rng.choice(labels)) for name, labels in problem.space.choices.items()} for _ in range(60)
    ]
    values = np.array([problem.observe(trial, seed) for seed, trial in enumerate(trials)])
    values[::15] = 0.1
    found = recommend(trials, values)
    values[::15] = 0.0
    assert recommend(trials, values) == found
    assert found.sigma < 0.03  # with them as they are: 0.2


def test_on_planted_problems_whose_trainings_collapse() -> None:
    gains = []
    for seed in range(6):
        problem = plant_problem("collapsing", seed=seed)
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 9, size=(100, len(problem.space.names)))
        trials = [problem.space.decode(row) for row in codes]
        values = np.array([problem.observe(trial, number) for number, trial in enumerate(trials)])
        assert (values == CHANCE).any()
        chosen = []
        for seen in (values, pull_in(values)):
            posterior = integrate(problem.space, trials, seen)
            best = best_assignment(problem.space, *problem.space.utilities(posterior.mean))
            chosen.append(float(problem.values(best[None])[0]))
        gains.append(chosen[1] - chosen[0])
    assert np.mean(gains) > 1.0  # sd of random architectures


def test_the_sampler_goes_on_learning() -> None:
    problem = plant_problem("collapsing", table=(3, 3), seed=0)
    study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0))
    study.optimize(problem, n_trials=60)
    late = [problem.value(trial.params) for trial in study.trials[40:]]
    assert np.mean(late) > 1.5
