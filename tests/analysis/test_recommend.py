"""The additive model, its maximiser under budgets, the recommendation, and the planted search problems."""

from __future__ import annotations

import itertools
import time

import numpy as np
import optuna
import pytest

from reborn_nas.analysis.model.additive import fit_additive, fit_codes
from reborn_nas.analysis.model.encoding import Space
from reborn_nas.analysis.model.evidence import integrate
from reborn_nas.analysis.model.maximise import Budget, best_assignment
from reborn_nas.analysis.model.recommend import choices_of, recommend
from reborn_nas.analysis.simulated.surrogate import UNIT, Surrogate, plant_problem
from reborn_nas.errors import ConfigError, UnknownNameError

ABC = dict.fromkeys(("a", "b", "c", "d"), ("x", "y", "z"))


def random_trials(problem: Surrogate, count: int, seed: int) -> tuple[list[dict[str, str]], list[float]]:
    codes = np.random.default_rng(seed).integers(
        0, len(problem.space.labels), (count, len(problem.space.names))
    )
    trials = [problem.space.decode(row) for row in codes]
    return trials, [problem.observe(trial, seed=1000 * seed + i) for i, trial in enumerate(trials)]


def all_assignments(choices: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    return [dict(zip(choices, labels, strict=True)) for labels in itertools.product(*choices.values())]


def test_features_count_what_stands_where() -> None:
    space = Space({"a": ("x", "y"), "b": ("y", "z")}, stages={"a": 0, "b": 1})
    codes = space.encode([{"a": "y", "b": "y"}, {"a": "x"}, {"b": "unknown"}])
    assert space.labels == ("x", "y", "z")
    assert codes.tolist() == [[1, 1], [0, -1], [-1, -1]]
    features = space.features(codes)
    family = space.families()
    assert features[:, family == 0].ravel().tolist() == [1, 1, 1]
    assert features[:, family == 1].tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 0]]
    assert features[:, family == 2].tolist() == [[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0] * 6]
    assert features[:, family == 4].reshape(3, 3, 3)[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert features[1:, family == 4].sum() == 0
    assert space.decode(codes[1]) == {"a": "x"}


def test_posterior_is_that_of_the_normal_equations() -> None:
    """The mean is the ridge solution, by least squares on augmented rows."""
    rng = np.random.default_rng(0)
    space = Space(ABC)
    trials = [{name: str(rng.choice(["x", "y", "z"])) for name in ABC} for _ in range(40)]
    values = 0.5 + 0.05 * np.array([trial["a"] == "x" for trial in trials]) + rng.normal(0, 0.01, 40)
    found = fit_additive(space, trials, values)
    x = space.features(space.encode(trials))
    prior = found.scales[space.families()]
    own = space.families() == 3
    prior = np.where(own, prior * found.relevance[space.sites_of_features()], prior)
    rows = np.vstack([x / found.sigma, np.diag(1 / prior)])
    truth = np.linalg.lstsq(
        rows, np.append((values - values.mean()) / found.sigma, np.zeros(x.shape[1])), rcond=None
    )
    truth[0][0] += values.mean()
    assert np.allclose(x @ found.mean, x @ truth[0], atol=1e-6)
    covariance = np.linalg.inv(rows.T @ rows)
    _, sd = found.predict(trials[:5])
    assert np.allclose(sd, np.sqrt(np.einsum("ij,jk,ik->i", x[:5], covariance, x[:5])), rtol=1e-5)


def test_noise_is_estimated() -> None:
    for noise in (0.3, 0.8):
        problem = plant_problem("additive", noise=noise, interactions=0.0, seed=2)
        found = fit_additive(problem.space, *random_trials(problem, 300, 1))  # fewer trials than weights
        assert found.sigma / UNIT == pytest.approx(noise, rel=0.15)


def test_pending_trials_narrow_the_posterior_without_moving_it() -> None:
    problem = plant_problem("additive", table="resnet18", seed=0)
    trials, values = random_trials(problem, 60, 0)
    waiting, _ = random_trials(problem, 10, 9)
    before = fit_additive(problem.space, trials, values)
    after = fit_additive(problem.space, trials, values, pending=waiting)
    assert np.allclose(before.mean, after.mean)
    assert (after.predict(waiting)[1] < before.predict(waiting)[1]).all()


def test_draws_have_the_posteriors_mean_and_covariance() -> None:
    rng = np.random.default_rng(0)
    space = Space({"a": ("x", "y"), "b": ("x", "y")}, neighbours=False)
    trials = [{"a": str(rng.choice(["x", "y"])), "b": str(rng.choice(["x", "y"]))} for _ in range(30)]
    found = fit_additive(space, trials, rng.normal(0.7, 0.01, 30))
    draws = np.stack([found.sample(rng) for _ in range(20_000)])
    x = space.features(space.encode(trials[:4]))
    mean, sd = found.predict(trials[:4])
    assert np.allclose((draws @ x.T).mean(axis=0), mean, atol=4e-4)
    assert np.allclose((draws @ x.T).std(axis=0), sd, rtol=0.05)
    calm = np.stack([found.sample(rng, spread=0.5) for _ in range(5000)])
    assert np.allclose((calm @ x.T).std(axis=0), sd / 2, rtol=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_maximum_is_that_of_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = Space(ABC)
    utility, pairs = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))

    def value(codes: tuple[int, ...]) -> float:
        return sum(utility[s, c] for s, c in enumerate(codes)) + sum(
            pairs[i, j] for i, j in itertools.pairwise(codes)
        )

    everything = list(itertools.product(range(3), repeat=4))
    assert value(tuple(best_assignment(space, utility, pairs))) == pytest.approx(max(map(value, everything)))
    costs = {name: dict(zip("xyz", rng.uniform(0, 1, 3), strict=True)) for name in ABC}
    table = Budget(costs, limit=0).table(space)
    limit = 0.2 + 0.5 * (table.min(axis=1).sum() + table.max(axis=1).sum()) - 0.3
    budget = Budget(costs, limit=limit, base=0.2, name="params")

    def cost(codes: tuple[int, ...]) -> float:
        return 0.2 + sum(table[s, c] for s, c in enumerate(codes))

    found = tuple(best_assignment(space, utility, pairs, [budget]))
    best = max(value(codes) for codes in everything if cost(codes) <= limit)
    assert cost(found) <= limit + 1e-9
    assert value(found) >= best - 0.15 * (max(map(value, everything)) - min(map(value, everything)))


def test_budgets_are_kept_on_large_problems_and_cost_little() -> None:
    problem = plant_problem("additive", seed=4)
    rng = np.random.default_rng(0)
    costs = {
        name: {label: float(rng.uniform(0, 1)) for label in problem.space.labels}
        for name in problem.space.names
    }
    second = {
        name: {label: float(rng.uniform(0, 1)) for label in problem.space.labels}
        for name in problem.space.names
    }
    free = problem.utility[np.arange(33), best_assignment(problem.space, problem.utility)].sum()
    for limit in (9.0, 11.0, 14.0):  # at least 7.9 in expectation to keep both
        budgets = [Budget(costs, limit, name="params"), Budget(second, limit, name="macs")]
        codes = best_assignment(problem.space, problem.utility, None, budgets)
        for budget in budgets:
            assert budget.table(problem.space)[np.arange(33), codes].sum() <= limit + 1e-9
    assert problem.utility[np.arange(33), codes].sum() > 0.7 * free


def test_impossible_budgets_say_by_how_much() -> None:
    space = Space(ABC)
    costs = {name: {"x": 2.0, "y": 3.0, "z": 4.0} for name in ABC}
    with pytest.raises(ConfigError, match=r"params: the cheapest needs 108, 8 above the limit 100"):
        best_assignment(
            space, np.random.default_rng(0).normal(size=(4, 3)), None, [Budget(costs, 100, 100, "params")]
        )


def test_labels_that_a_site_does_not_admit_are_never_chosen() -> None:
    choices = {"a": ("x", "y"), "b": ("y", "z"), "c": ("z",)}
    rng = np.random.default_rng(0)
    trials = [{name: str(rng.choice(labels)) for name, labels in choices.items()} for _ in range(30)]
    values = [0.5 + 0.01 * list(trial.values()).count("z") for trial in trials]
    found = recommend(trials, values, choices=choices)
    assert all(found.choices[name] in labels for name, labels in choices.items())
    assert found.choices["b"] == "z"


def test_recommendation_beats_the_best_observed_trial() -> None:
    gain, recommended = [], []
    for seed in range(6):
        problem = plant_problem("additive", seed=50 + seed)
        trials, values = random_trials(problem, 100, seed)
        found = recommend(trials, values, stages=problem.space.stages)
        recommended.append(problem.value(found.choices))
        gain.append(recommended[-1] - problem.value(trials[int(np.argmax(values))]))
    assert np.mean(gain) > 1.5
    assert np.mean(recommended) > 4


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["additive", "sparse", "depth", "interactions", "heteroscedastic"])
def test_predicted_interval_covers(problem: str) -> None:
    """Coverage of the recommended network's true value: the maximiser's, not a random assignment's."""
    hits, error = [], []
    for count in (50, 100, 200):
        for seed in range(10):
            planted = plant_problem(problem, seed=900 + seed)
            found = recommend(*random_trials(planted, count, seed), stages=planted.space.stages)
            truth = planted.level + UNIT * planted.value(found.choices)
            hits.append(found.ci_low <= truth <= found.ci_high)
            error.append((found.predicted - truth) / UNIT)
    assert np.mean(hits) >= 0.8
    assert abs(np.mean(error)) < 1.0


def test_integrated_posterior_agrees_with_the_plain_one_when_data_are_many() -> None:
    problem = plant_problem("additive", table="convnet8", seed=1)
    trials, values = random_trials(problem, 500, 2)
    fresh, _ = random_trials(problem, 50, 3)
    plain, _ = fit_additive(problem.space, trials, values).predict(fresh)
    mixed, low, high = integrate(problem.space, trials, values).predict_codes(problem.space.encode(fresh))
    assert np.corrcoef(plain, mixed)[0, 1] > 0.99
    truth = problem.level + UNIT * np.array([problem.value(trial) for trial in fresh])
    assert ((low <= truth) & (truth <= high)).mean() > 0.7
    assert (low < mixed).all()
    assert (mixed < high).all()


def test_recommendation_needs_trials() -> None:
    with pytest.raises(ConfigError, match="at least 8 finished trials; got 0 of 0"):
        recommend([], [])
    with pytest.raises(ConfigError, match="got 2 of 9"):
        recommend([{"a": "x"}] * 9, [0.5, 0.5, *[float("nan")] * 7])
    assert choices_of([{"a": "x"}, {"a": "y", "b": "z"}]) == {"a": ("x", "y"), "b": ("z",)}


def test_observed_mean_is_that_of_the_same_trials() -> None:
    rng = np.random.default_rng(0)
    trials = all_assignments({"a": ("x", "y"), "b": ("x", "y")}) * 5
    values = [
        0.5 + 0.1 * (trial["a"] == "y") + 0.05 * (trial["b"] == "x") + rng.normal(0, 0.01) for trial in trials
    ]
    found = recommend(trials, values)
    assert found.choices == {"a": "y", "b": "x"}
    same = [value for trial, value in zip(trials, values, strict=True) if trial == found.choices]
    assert found.observed == pytest.approx(np.mean(same))
    assert found.ci_low < 0.65 < found.ci_high
    assert found.predicted == pytest.approx(0.65, abs=0.01)


@pytest.mark.slow
def test_a_suggestion_grows_at_most_linearly_with_the_trials() -> None:
    problem = plant_problem("additive", seed=0)
    codes = np.random.default_rng(0).integers(0, 9, (4000, 33))
    values = problem.values(codes)
    rng = np.random.default_rng(0)
    took: dict[int, list[float]] = {500: [], 4000: []}
    for _ in range(5):
        for trials, times in took.items():
            start = time.process_time()
            found = fit_codes(problem.space, codes[:trials], values[:trials])
            best_assignment(problem.space, *problem.space.utilities(found.sample(rng, 0.5)))
            times.append(time.process_time() - start)
    assert min(took[4000]) < 12 * min(took[500])  # 8 times the trials


def test_planted_problems_are_standardised_and_their_optimum_is_exact() -> None:
    problem = plant_problem("interactions", table=(2, 2), choices=("original", "silu", "gelu"), seed=1)
    codes = np.array(list(itertools.product(range(3), repeat=4)))
    values = problem.values(codes)
    assert problem.optimum == pytest.approx(values.max())
    assert values.std() == pytest.approx(1, abs=0.05)
    assert values.mean() == pytest.approx(0, abs=0.1)
    assert problem.value(problem.space.decode(codes[7])) == pytest.approx(values[7])
    assert len(plant_problem("sparse", table="resnet34").space.names) == 33
    with pytest.raises(UnknownNameError, match="unknown problem"):
        plant_problem("easy")
    with pytest.raises(UnknownNameError, match="unknown site table"):
        plant_problem(table="alexnet")


class Asker:
    """The part of an Optuna trial that the surrogate uses."""

    def __init__(self, number: int, stop_at: int = 10**9) -> None:
        self.number, self.stop_at = number, stop_at
        self.rng = np.random.default_rng(number)
        self.params: dict[str, str] = {}
        self.reports: list[float] = []

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        self.params[name] = str(self.rng.choice(choices))
        return self.params[name]

    def report(self, value: float, step: int) -> None:
        self.reports.append(value)

    def should_prune(self) -> bool:
        return len(self.reports) >= self.stop_at


def test_surrogate_is_an_objective_with_conditional_choices_and_curves() -> None:
    problem = plant_problem("additive", table="convnet8", conditional=True, epochs=10, seed=0)
    asker = Asker(3)
    value = problem(asker)
    assert 0.5 < value < 0.9
    assert len(asker.reports) == 9
    assert max(asker.reports) < value
    reborn = [name for name, label in asker.params.items() if label == "reborn"]
    assert {f"{name}.kernel_size" for name in reborn} == {
        name for name in asker.params if "kernel_size" in name
    }
    assert problem(Asker(3)) == value
    with pytest.raises(optuna.TrialPruned):
        problem(Asker(3, stop_at=2))


def test_the_posterior_by_trials_is_that_by_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many weights are handled by the trials' covariance: the same mean, the same spread, with trials under way too."""
    problem = plant_problem("additive", table="resnet18", seed=2)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 9, size=(40, 17))
    codes[3, 4] = -1  # a parameter that is not there
    values = problem.values(np.maximum(codes, 0)) + rng.normal(size=40)
    pending = rng.integers(0, 9, size=(3, 17))
    plain = fit_codes(problem.space, codes, values, pending=pending)
    monkeypatch.setattr("reborn_nas.analysis.model.additive.MOST_WEIGHTS", 10)
    other = fit_codes(problem.space, codes, values, pending=pending)
    assert type(plain.around) is not type(other.around)
    asked = rng.integers(0, 9, size=(20, 17))
    for one, two in zip(plain.predict_codes(asked), other.predict_codes(asked), strict=True):
        assert one == pytest.approx(two, rel=1e-6)
    x = problem.space.features(asked)
    drawn = np.stack([x @ other.sample(rng, 1.0) for _ in range(3000)])
    mean, sd = plain.predict_codes(asked)
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=5 * sd.max() / np.sqrt(3000))
    assert drawn.std(axis=0) == pytest.approx(sd, rel=0.08)
