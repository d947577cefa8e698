"""The sentences that a report may print: pure functions from tables to text, within the allowed claims.

Never said: importance from the sampler's trials, a strict order where rank intervals overlap, a best kernel per
site, the best trial's accuracy as the expected one, "no effect" from a missing significance, other data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from reborn_nas.analysis.compare import Comparison
from reborn_nas.analysis.verdicts import CONFIRMED, HARMFUL, NO_VERDICT, SUGGESTIVE
from reborn_nas.errors import ConfigError


def where_it_helps(effects: pd.DataFrame, *, tested: str = "reborn") -> str:
    """The first sentence: where it helps and by how much, or that nothing was resolved.

    Args:
        effects: a table of `site_effects`, its verdict possibly that of `verdicts`.
        tested: what level 1 of the contrast is called.
    """
    _needs(effects, "site", "effect", "ci_low", "ci_high", "verdict", "rank_low", "rank_high")
    top = effects.iloc[int(effects["effect"].to_numpy().argmax())]
    if (effects["verdict"] == NO_VERDICT).all():
        return f"No verdict: the runs cannot carry one; the largest estimate is {_adds(top, tested)}."
    helps = effects[effects["verdict"].isin((CONFIRMED, SUGGESTIVE)) & (effects["effect"] > 0)]
    harms = effects[effects["verdict"] == HARMFUL]
    average, incumbent = harms[harms["effect"] < 0], harms[harms["effect"] >= 0]
    worse = f" It does harm at {_names(average)}." if len(average) else ""
    if len(incumbent):
        worse += (
            f" At {_names(incumbent)} it does harm on the incumbent, although the average effect is above 0."
        )
    if not len(helps):
        if len(harms):
            return f"{tested.capitalize()} helps at no site that this study could resolve.{worse}"
        return f"No site resolved; effects above {largest_plausible(effects):.2f} pp are unlikely."
    confirmed = helps[helps["verdict"] == CONFIRMED]
    firm = confirmed if len(confirmed) else helps
    lead = firm.iloc[int(firm["effect"].to_numpy().argmax())]
    rivals = firm[(firm["rank_low"] <= lead["rank_high"]) & (firm["site"] != lead["site"])]
    word = "confirmed on the incumbent" if len(confirmed) else "suggested by this study, not confirmed"
    if len(firm) == 1:
        return f"{tested.capitalize()} helps at {lead['site']} ({word}): {_adds(lead, tested)}.{worse}"
    order = f"; its rank interval overlaps that of {_names(rivals)}" if len(rivals) else ""
    return (
        f"{tested.capitalize()} helps at {len(firm)} sites ({word}), the largest estimate at {lead['site']}{order}: "
        f"{_adds(lead, tested)}.{worse}"
    )


def largest_plausible(effects: pd.DataFrame, level: float = 0.95) -> float:
    """D in "effects above D pp are unlikely": no site's simultaneous interval reaches above it.

    The sites' 95 % intervals widened to hold together (Šidák over the sites).
    """
    df = float(effects.attrs.get("df", 1e6))
    half = (effects["ci_high"] - effects["ci_low"]) / 2
    quantile = stats.t.ppf(1 - (1 - level ** (1 / len(effects))) / 2, df) / stats.t.ppf(0.975, df)
    return float((effects["effect"].abs() + quantile * half).max())


def candidate_sentence(
    comparison: Comparison, *, candidate: str = "the candidate", parent: str = "its parent"
) -> str:
    """The second sentence: candidate against parent."""
    size = f"{comparison.effect:+.2f} pp [{comparison.ci_low:+.2f}, {comparison.ci_high:+.2f}]"
    arms = f"over {comparison.n_first} and {comparison.n_second} seeds, on images that no earlier phase used"
    if comparison.ci_low > 0:
        verb = f"beats {parent} by"
    elif comparison.ci_high < 0:
        verb = f"is worse than {parent}:"
    else:
        return f"Whether {candidate} beats {parent} is unresolved: {size} {arms}."
    return f"{candidate[0].upper()}{candidate[1:]} {verb} {size} {arms}."


def cause_sentence(control: pd.DataFrame | None, effects: pd.DataFrame | None = None) -> str:
    """ "Because of the negative phase", from reborn − positive twin alone; empty where it may not be said.

    Args:
        control: a table of `control_effects`.
        effects: the screen's table with verdicts; a site without a positive verdict there is not named.
    """
    if control is None or "claim" not in control:
        return ""
    sites = control[control["claim"].astype(bool)]
    if effects is not None:
        helped = set(effects.loc[effects["verdict"].isin((CONFIRMED, SUGGESTIVE)), "site"])
        sites = sites[sites["site"].isin(helped)]
    if not len(sites):
        return ""
    told = ", ".join(
        f"{row['site']} ({row['effect']:+.2f} pp [{row['ci_low']:+.2f}, {row['ci_high']:+.2f}])"
        for _, row in sites.iterrows()
    )
    return (
        f"At {told} the gain is because of the negative phase, beyond the block's parameters: reborn − positive twin, "
        "the same block fed with the positive phase."
    )


def pooled_sentence(pooled: pd.DataFrame, *, units: Mapping[str, str] | None = None) -> str:
    """Kernel and compression, pooled over the sites; never a best one per site."""
    if not len(pooled):
        return ""
    _needs(pooled, "option", "level", "effect", "ci_low", "ci_high", "best")
    parts = []
    for option, rows in pooled.groupby("option", sort=False):
        best = rows.iloc[int(rows["effect"].to_numpy().argmax())]
        name = (units or {}).get(str(option), str(option))
        size = (
            f"{best['effect']:+.2f} pp [{best['ci_low']:+.2f}, {best['ci_high']:+.2f}] over the levels' mean"
        )
        resolved = "adds" if best["ci_low"] > 0 else "has the largest estimate, not resolved:"
        parts.append(f"{name} {best['level']} {resolved} {size}")
    return "Pooled over the sites, " + "; ".join(parts) + "."


def _adds(row: pd.Series, tested: str) -> str:
    return (
        f"averaged over networks whose other sites are {tested} half of the time, {row['site']} adds "
        f"{row['effect']:+.2f} pp "
        f"[{row['ci_low']:+.2f}, {row['ci_high']:+.2f}]"
    )


def _names(rows: pd.DataFrame, most: int = 3) -> str:
    names = [str(name) for name in rows["site"]]
    shown = names if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _needs(table: pd.DataFrame, *columns: str) -> None:
    missing: Sequence[str] = [column for column in columns if column not in table]
    if missing:
        raise ConfigError(
            f"this sentence needs the columns {', '.join(columns)}; {', '.join(missing)} are missing"
        )
