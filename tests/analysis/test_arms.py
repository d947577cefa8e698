"""Several arms against one: against statsmodels, and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from reborn_nas.analysis import arm_effects
from reborn_nas.errors import ConfigError


def study(seed: int, missing: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame([(arm, block) for block in range(6) for arm in "abcd"], columns=["arm", "block"])
    gain = frame["arm"].map({"a": 0.0, "b": 0.01, "c": -0.02, "d": 0.03})
    frame["accuracy"] = 0.8 + gain + 0.005 * frame["block"] + rng.normal(0, 0.004, len(frame))
    frame.loc[rng.choice(len(frame), missing, replace=False), "accuracy"] = np.nan
    return frame


@pytest.mark.parametrize("missing", [0, 3])
def test_effects_and_intervals_are_those_of_a_linear_model_fitted_elsewhere(missing: int) -> None:
    frame = study(1, missing)
    table = arm_effects(frame["arm"], frame["accuracy"], reference="a", block=frame["block"]).set_index("arm")
    fit = smf.ols("I(100 * accuracy) ~ C(arm) + C(block)", frame.dropna()).fit()
    low, high = fit.conf_int()[0], fit.conf_int()[1]
    for arm in "bcd":
        name = f"C(arm)[T.{arm}]"
        wanted = [fit.params[name], low[name], high[name], fit.pvalues[name]]
        assert table.loc[arm, ["effect", "ci_low", "ci_high", "p_value"]].to_list() == pytest.approx(wanted)
    assert table.attrs["df"] == fit.df_resid
    assert table.attrs["sigma"] == pytest.approx(np.sqrt(fit.scale))


def test_balanced_splits_leave_the_difference_of_the_means() -> None:
    frame = study(2)
    table = arm_effects(frame["arm"], frame["accuracy"], reference="c", block=frame["block"])
    means = 100 * frame.groupby("arm")["accuracy"].mean()
    assert list(table["arm"]) == ["a", "b", "d"]
    assert table["effect"].to_list() == pytest.approx([means[arm] - means["c"] for arm in "abd"])
    assert table["runs"].to_list() == [6, 6, 6]


@pytest.mark.parametrize("arms", [["a", "b"], ["a", "a"], ["a", "b", "b", "b"], []])
def test_too_few_runs_are_refused(arms: list[str]) -> None:
    with pytest.raises(ConfigError):
        arm_effects(arms, [0.5] * len(arms), reference="a")
