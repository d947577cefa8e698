"""The sentences that a report may print: pure functions from tables to text, within the allowed claims.

Never said: importance from the sampler's trials, a strict order where rank intervals overlap, a best kernel per
site, the best trial's accuracy as the expected one, "no effect" from a missing significance, other data sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from reborn_nas.analysis.compare import Comparison
from reborn_nas.analysis.verdicts import CONFIRMED, HARMFUL, LEVEL, NO_VERDICT, SUGGESTIVE
from reborn_nas.errors import ConfigError


def where_it_helps(effects: pd.DataFrame, *, tested: str = "reborn", reference: str = "original") -> str:
    """The first sentence: where it helps and by how much, or that nothing was resolved.

    It prints what the verdict rests on: the screen's average, the confirmation on the incumbent, or both.

    Args:
        effects: a table of `site_effects`, its verdict possibly that of `verdicts`; then the confirmation's
            `confirmed, confirmed_low, confirmed_high` are told where they are among its columns.
        tested, reference: what level 1 and level 0 of the contrast are called.
    """
    _needs(effects, "site", "effect", "ci_low", "ci_high", "q_value", "verdict", "rank_low", "rank_high")
    contrast = f"{tested} instead of {'the original activation' if reference == 'original' else reference}"
    what = contrast[0].upper() + contrast[1:]
    top = effects.iloc[int(effects["effect"].to_numpy().argmax())]
    if (effects["verdict"] == NO_VERDICT).all():
        return f"No verdict on {contrast}: the runs cannot carry one; {_largest(top, tested)}."
    helps = effects[effects["verdict"].isin((CONFIRMED, SUGGESTIVE))]
    harms = effects[effects["verdict"] == HARMFUL]
    worse = _harm(harms)
    if not len(helps):
        if len(harms):
            return f"{what} helps at no site that this study could resolve.{worse}"
        most = largest_plausible(effects)
        return f"No site resolved; effects of {contrast} above {most:.2f} pp are unlikely."
    confirmed = helps[helps["verdict"] == CONFIRMED]
    averaged = helps[helps["q_value"] <= LEVEL]
    firm, word = next(
        (rows, word)
        for rows, word in (
            (confirmed, "confirmed on the incumbent"),
            (averaged, "suggested by the screen, not confirmed"),
            (helps, "suggested on the incumbent alone, not on average"),
        )
        if len(rows)
    )
    lead = firm.iloc[int(firm["effect"].to_numpy().argmax())]
    if len(firm) == 1:
        return f"{what} helps at {lead['site']} ({word}): {_basis(lead, tested)}.{worse}"
    rivals = firm[(firm["rank_low"] <= lead["rank_high"]) & (firm["site"] != lead["site"])]
    order = f"; its rank interval overlaps that of {_names(rivals)}" if len(rivals) else ""
    return (
        f"{what} helps at {len(firm)} sites ({word}), the largest estimate at {lead['site']}{order}: "
        f"{_basis(lead, tested)}.{worse}"
    )


def _harm(harms: pd.DataFrame) -> str:
    """Where it does harm, on average or on the incumbent alone; "" where it does not."""
    on_average = (harms["q_value"] <= LEVEL) & (harms["effect"] < 0)
    average, incumbent = harms[on_average], harms[~on_average]
    said = ""
    if len(average):
        worst = average.iloc[int(average["effect"].to_numpy().argmin())]
        size = _size(worst["effect"], worst["ci_low"], worst["ci_high"])
        said += f" It does harm at {_names(average)} ({_of(worst, average)}{size} on average)."
    if len(incumbent):
        size = ""
        if "confirmed" in incumbent:
            worst = incumbent.iloc[int(incumbent["confirmed"].to_numpy().argmin())]
            size = _size(worst["confirmed"], worst["confirmed_low"], worst["confirmed_high"])
            size = f" ({_of(worst, incumbent)}{size} there)"
        said += (
            f" It does harm on the incumbent at {_names(incumbent)}{size}, which the average does not show."
        )
    return said


def _of(row: pd.Series, rows: pd.DataFrame) -> str:
    return "" if len(rows) == 1 else f"most at {row['site']}: "


def _basis(row: pd.Series, tested: str) -> str:
    """The estimates that the row's verdict rests on, each with its interval."""
    average = (
        f"averaged over networks whose other sites are {tested} half of the time, {row['site']} adds "
        f"{_size(row['effect'], row['ci_low'], row['ci_high'])}"
    )
    fresh = row.get("confirmed", math.nan)
    if not math.isfinite(fresh):
        return average
    own = _size(fresh, row["confirmed_low"], row["confirmed_high"])
    if row["q_value"] > LEVEL:
        return f"on the incumbent, on images unused before, {row['site']} adds {own}; {average}"
    return f"{average}; on the incumbent, on images unused before, {own}"


def _largest(row: pd.Series, tested: str) -> str:
    return (
        f"the largest estimate, averaged over networks whose other sites are {tested} half of the time, is "
        f"{_size(row['effect'], row['ci_low'], row['ci_high'])} at {row['site']}"
    )


def _size(effect: float, low: float, high: float) -> str:
    return f"{effect:+.2f} pp [{low:+.2f}, {high:+.2f}]"


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
    size = _size(comparison.effect, comparison.ci_low, comparison.ci_high)
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
        f"{row['site']} ({_size(row['effect'], row['ci_low'], row['ci_high'])})"
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
