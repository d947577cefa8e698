"""Power promised is power delivered: the detectable effect against simulated screens."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reborn_nas.analysis import minimum_detectable_effect, plan_screen, site_effects
from reborn_nas.analysis.designs.blocks import split_allowance
from reborn_nas.analysis.effects.power import screen_power
from reborn_nas.errors import ConfigError

DESIGNS = [(3, 8), (5, 16), (5, 32), (10, 48), (33, 72), (33, 96), (33, 288)]


def planned(n_sites: int, n_runs: int) -> tuple[int, np.ndarray]:
    """Residual degrees of freedom of the planned screen, and by what its few splits widen each site's interval."""
    plan = plan_screen(n_sites, n_runs, kernels=())
    matrix = np.hstack([plan.design - 0.5, np.eye(int(plan.block.max()) + 1)[plan.block]])
    return n_runs - matrix.shape[1], split_allowance(matrix, n_sites, plan.block)


def delivered(
    effect: float, n_sites: int, n_runs: int, true_sites: int, q: float, studies: int = 4000
) -> float:
    """Share of true sites found on their own side by Benjamini and Hochberg, over simulated estimates."""
    rng = np.random.default_rng(n_sites * n_runs + true_sites)
    (df, wider), error = planned(n_sites, n_runs), 2 / np.sqrt(n_runs)
    truth = np.where(np.arange(n_sites) < true_sites, effect, 0.0)
    found = truth + rng.normal(0, error, (studies, n_sites))
    spread = (
        error
        * np.sqrt(rng.chisquare(df, (studies, 1)) / df)
        * rng.permuted(np.tile(wider, (studies, 1)), axis=1)
    )  # the true sites are any sites
    q_values = stats.false_discovery_control(2 * stats.t.sf(np.abs(found) / spread, df), axis=1)
    return float(((q_values <= q) & (found > 0))[:, :true_sites].mean())


@pytest.mark.parametrize(("n_sites", "n_runs"), DESIGNS)
@pytest.mark.parametrize("true_sites", [1, 2, 5])
def test_the_promised_power_is_delivered(n_sites: int, n_runs: int, true_sites: int) -> None:
    if true_sites > n_sites:
        pytest.skip("no so many sites")
    df, wider = planned(n_sites, n_runs)
    for power, q in ((0.8, 0.05), (0.8, 0.04), (0.5, 0.05)):
        effect = minimum_detectable_effect(
            n_runs, n_sites, float(wider.mean()), df=df, power=power, q=q, true_sites=true_sites
        )
        assert delivered(effect, n_sites, n_runs, true_sites, q) == pytest.approx(power, abs=0.05)
        again = screen_power(effect, n_runs, n_sites, float(wider.mean()), df=df, q=q, true_sites=true_sites)
        assert again == pytest.approx(power)


def test_a_screen_tells_the_effect_that_its_own_intervals_can_find() -> None:
    """The table's `detectable` allows for few splits as its intervals do: by hand for two sites in eight runs."""
    plan = plan_screen(2, 8, kernels=())
    accuracy = 0.5 + np.random.default_rng(0).normal(0, 0.003, 8)
    table = site_effects(plan.design, accuracy, block=plan.block)
    half = table["ci_high"] - table["effect"]
    wider = half[0] / (stats.t.ppf(0.975, table.attrs["df"]) * table.attrs["sigma"] / np.sqrt(2))
    assert wider == pytest.approx(np.sqrt(0.955 / 0.75))  # expected variance .75 of the true one, .955 wanted
    plain = minimum_detectable_effect(8, 2, table.attrs["sigma"], df=table.attrs["df"])
    assert table.attrs["detectable"] == pytest.approx(wider * plain)


def test_against_the_textbook_and_the_noncentral_t() -> None:
    # one comparison with the spread known: (1.960 + 0.8416) · 2σ/√N
    assert minimum_detectable_effect(100, 1, 1.0, df=10**6) == pytest.approx(2 * 2.8016 / 10, abs=1e-4)
    shift = minimum_detectable_effect(4, 1, 1.0, df=20)  # N = 4: in standard errors
    critical = stats.t.ppf(0.975, 20)
    exact = stats.nct.sf(critical, 20, shift) + stats.nct.cdf(-critical, 20, shift)
    assert exact == pytest.approx(0.8, abs=1e-3)
    small, large = (minimum_detectable_effect(n, 33, 0.3, df=n - 37) for n in (72, 144))
    assert small > large * np.sqrt(2)  # fewer degrees of freedom as well
    assert screen_power(0.0, 96, 33, 0.3) < 0.05 / 33 + 1e-6


@pytest.mark.parametrize(
    "given",
    [{"n_runs": 0}, {"power": 1.0}, {"q": 0.0}, {"df": 0}, {"true_sites": 0}, {"sigma": float("nan")}],
)
def test_what_cannot_be_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        minimum_detectable_effect(**{"n_runs": 72, "n_sites": 33, **given})  # type: ignore[arg-type]
