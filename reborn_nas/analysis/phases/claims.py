"""The sentences that a report may print: pure functions from tables to text, within the allowed claims.

Every interval is the one that belongs to its verdict (`verdicts.decide`). Never said: importance from the sampler's
trials, a strict order where rank intervals overlap, a best kernel per site, the best trial's accuracy as the expected
one, "no effect" from a missing significance, other data sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reborn_nas.analysis.effects.verdicts import (
    BOTH,
    CONFIRMED,
    HARMFUL,
    NO_VERDICT,
    RETEST,
    SCREEN,
    SUGGESTIVE,
    said_interval,
)
from reborn_nas.analysis.phases.compare import Comparison
from reborn_nas.analysis.student import t_quantile
from reborn_nas.errors import ConfigError
from reborn_nas.metric import spoken

MOST_NAMES = 6
CAUSE_FCR = 0.05
"""Share of the intervals given beside a cause that may miss; the claim itself is much stricter
(`confirm.CAUSE_LEVEL`)."""
GROUNDS = {
    BOTH: "confirmed by the retest",
    SCREEN: "suggested by the screen, not confirmed",
    RETEST: "suggested on the candidate network alone, not on average",
}


def where_it_helps(effects: pd.DataFrame, *, tested: str = "reborn", reference: str = "original") -> str:
    """Where it helps and by how much, where it does harm, or that nothing was resolved.

    It prints the estimate on which the verdict rests: the screen's average, the retest on the candidate, or both.

    Args:
        effects: a table of `site_effects`, or that with the columns of `verdicts.decide`; the retest's estimates
            stand in `confirmed, confirmed_low, confirmed_high`.
        tested, reference: what level 1 and level 0 of the contrast are called.
    """
    _needs(effects, "site", "effect", "said_low", "said_high", "shrunk", "verdict", "rank_low", "rank_high")
    contrast = f"{tested} instead of {'the original activation' if reference == 'original' else reference}"
    what = contrast[0].upper() + contrast[1:]
    if (effects["verdict"] == NO_VERDICT).all():
        return f"No verdict on {contrast}: the runs cannot carry one{_largest(effects, tested)}."
    basis = effects.get("basis", pd.Series(SCREEN, index=effects.index))
    helps = effects["verdict"].isin((CONFIRMED, SUGGESTIVE))
    harms = effects["verdict"] == HARMFUL
    sentences: list[str] = []
    for ground, word in GROUNDS.items() if helps.any() else ():
        rows = effects[helps & (basis == ground)]
        if len(rows):
            sentences.append(
                f"{'It also' if sentences else what} helps at {_helping(rows, word, ground, tested)}."
            )
    if not sentences and harms.any():
        sentences.append(f"{what} helps at no site that this study could resolve.")
    elif not sentences:
        most = f"{largest_plausible(effects):.{spoken().digits}f} pp"
        sentences.append(
            f"No site resolved; effects of {contrast}{_measure('on')} above {most} are unlikely."
        )
    if harms.any():
        sentences += [
            _harm(effects[harms & (basis != RETEST)]),
            _harm_there(effects[harms & (basis == RETEST)]),
        ]
    if "contradicts" in effects and effects["contradicts"].any():
        sentences.append(_contradiction(effects[effects["contradicts"].astype(bool)]))
    return " ".join(line for line in sentences if line)


def _helping(rows: pd.DataFrame, word: str, ground: str, tested: str) -> str:
    column = "confirmed" if ground == RETEST else "effect"
    lead = rows.iloc[int(rows[column].to_numpy().argmax())]
    basis = _basis(_shown(rows), ground, tested)
    if len(rows) == 1:
        return f"{lead['site']} ({word}): {basis}"
    rivals = rows[(rows["rank_low"] <= lead["rank_high"]) & (rows["site"] != lead["site"])]
    order = (
        f"; its rank interval overlaps that of {_names(rivals)}" if len(rivals) and ground != RETEST else ""
    )
    size = (
        "" if ground == RETEST or lead.name in _shown(rows).index else f", shrunk {_plus(lead['shrunk'])} pp"
    )
    return f"{_names(rows)} ({word}), the largest estimate at {lead['site']}{size}{order}: {basis}"


def _basis(rows: pd.DataFrame, ground: str, tested: str) -> str:
    """The estimates that the rows' verdicts rest on, each with its interval.

    Of every site that is named, not of the largest estimate alone: Benjamini and Yekutieli's intervals miss seldom
    among all that were selected, and the largest of these misses most often.
    """
    own = f"on the candidate network, on {spoken().counted} unused before, "
    average = f"averaged over networks whose other sites are {tested} half of the time, "
    again = [
        (f"{row['site']} {_adds()} " if len(rows) > 1 or ground == RETEST else "")
        + (
            _size(row["confirmed"], row["said_low"], row["said_high"]) if ground == RETEST
            else _size(row["confirmed"], row["retest_low"], row["retest_high"]) if ground == BOTH
            else ""
        )
        for _, row in rows.iterrows()
    ]  # fmt: skip
    if ground == RETEST:
        return own + "; ".join(again)
    first = "; ".join(
        f"{row['site']} {_adds()} {_size(row['effect'], row['said_low'], row['said_high'])}, "
        f"shrunk {_plus(row['shrunk'])} pp"
        for _, row in rows.iterrows()
    )
    return f"{average}{first}" if ground == SCREEN else f"{average}{first}; {own}{'; '.join(again)}"


def _harm(rows: pd.DataFrame) -> str:
    """Where it does harm on average; "" where it does not."""
    if not len(rows):
        return ""
    sizes = [
        f"{_size(row['effect'], row['said_low'], row['said_high'])} on average, shrunk {_plus(row['shrunk'])} pp"
        for _, row in _shown(rows).iterrows()
    ]
    return f"It does harm at {_names(rows)} ({_harms(rows, sizes, 'effect')})."


def _harm_there(rows: pd.DataFrame) -> str:
    """Where it does harm by the retest alone; "" where it does not."""
    if not len(rows):
        return ""
    sizes = [
        f"{_size(row['confirmed'], row['said_low'], row['said_high'])} there"
        for _, row in _shown(rows).iterrows()
    ]
    return (
        f"It does harm on the candidate network at {_names(rows)} ({_harms(rows, sizes, 'confirmed')}), which the "
        "average does not show."
    )


def _harms(rows: pd.DataFrame, sizes: Sequence[str], column: str) -> str:
    """The sizes of the sites that are named, and where the harm is greatest."""
    if len(rows) == 1:
        return sizes[0]
    worst = rows["site"].iloc[int(rows[column].to_numpy().argmin())]
    listed = "; ".join(f"{site} {size}" for site, size in zip(_shown(rows)["site"], sizes))
    return f"most at {worst}: {listed}"


def _contradiction(rows: pd.DataFrame) -> str:
    """The sites at which screen and retest are each significant, on different sides."""
    listed = "; ".join(
        f"{row['site']} {_plus(row['effect'])} pp on average, {_plus(row['confirmed'])} pp on the candidate network"
        for _, row in rows.iterrows()
    )
    return (
        f"The screen and the retest contradict each other, so there is no verdict: {listed}."
        if listed
        else ""
    )


def _largest(effects: pd.DataFrame, tested: str) -> str:
    if not effects["effect"].notna().any():
        return ""
    row = effects.iloc[int(effects["effect"].fillna(-np.inf).to_numpy().argmax())]
    return (
        f"; the largest estimate, averaged over networks whose other sites are {tested} half of the time, is "
        f"{_size(row['effect'], row['said_low'], row['said_high'])} at {row['site']}"
    )


def _adds() -> str:
    """The verb of a gain, with what it is a gain in: an error grows less, which nothing adds to it."""
    return "adds" if spoken().is_accuracy else f"improves {spoken().label} by"


def _measure(word: str) -> str:
    """`word` and the metric's name behind a verb; nothing for the accuracy, of which a percentage point is read."""
    return "" if spoken().is_accuracy else f" {word} {spoken().label}"


def _size(effect: float, low: float, high: float) -> str:
    return f"{_plus(effect)} pp [{_plus(low)}, {_plus(high)}]"


def _plus(effect: float) -> str:
    return f"{effect:+.{spoken().digits}f}"


def largest_plausible(effects: pd.DataFrame, level: float = 0.95) -> float:
    """D in "effects above D pp are unlikely": no site's simultaneous interval reaches above it.

    The sites' 95 % intervals widened to hold together (Šidák over the sites).
    """
    df = float(effects.attrs.get("df", 1e6))
    half = (effects["ci_high"] - effects["ci_low"]) / 2
    quantile = t_quantile((1 - level ** (1 / len(effects))) / 2, df) / t_quantile(0.025, df)
    return float((effects["effect"].abs() + quantile * half).max())


def failure_sentence(effects: pd.DataFrame, *, tested: str = "reborn") -> str:
    """Which sites make trainings fail; "" where none is named."""
    if "makes_fail" not in effects or not effects["makes_fail"].any():
        return ""
    listed = "; ".join(
        f"at {row['site']} {row['failed_with']:.0f} of {row['ended_with']:.0f} trainings with it failed, "
        f"{row['failed_without']:.0f} of {row['ended_without']:.0f} without"
        for _, row in effects[effects["makes_fail"].astype(bool)].iterrows()
    )
    return f"{tested[0].upper()}{tested[1:]} makes trainings fail: {listed}."


def candidate_sentence(
    comparison: Comparison, *, candidate: str = "the candidate", parent: str = "its parent"
) -> str:
    """The candidate against its parent."""
    size = _size(comparison.effect, comparison.ci_low, comparison.ci_high)
    seeds = f"over {comparison.n_first} and {comparison.n_second} seeds"
    arms = f"{seeds}, on {spoken().counted} that no earlier phase used"
    if not comparison.noisy:
        return (
            f"Whether {candidate} beats {parent}{_measure('in')} cannot be told ({_plus(comparison.effect)} pp): the "
            "trainings of each arm came out the same, so that their noise is unknown."
        )
    if comparison.ci_low > 0:
        verb = f"beats {parent}{_measure('in')} by"
    elif comparison.ci_high < 0:
        verb = f"is worse than {parent}{_measure('in')}:"
    else:
        return f"Whether {candidate} beats {parent}{_measure('in')} is unresolved: {size} {arms}."
    return f"{candidate[0].upper()}{candidate[1:]} {verb} {size} {arms}."


def cause_sentence(control: pd.DataFrame | None, effects: pd.DataFrame | None = None) -> str:
    """ "Because of the negative phase", from reborn − positive twin alone; empty where it may not be said.

    Args:
        control: a table of `control_effects`.
        effects: the screen's table with verdicts; a site without a positive verdict there is not named.
    """
    if control is None or "claim" not in control:
        return ""
    named = control["claim"].to_numpy(bool)
    if effects is not None:
        helped = set(effects.loc[effects["verdict"].isin((CONFIRMED, SUGGESTIVE)), "site"])
        named = named & control["site"].isin(helped).to_numpy(bool)
    if not named.any():
        return ""
    low, high = said_interval(control, named, CAUSE_FCR)
    where = ", ".join(
        f"{control['site'].iloc[k]} ({_size(control['effect'].iloc[k], low[k], high[k])})"
        for k in np.flatnonzero(named)
    )
    return (
        f"At {where} the gain is because of the negative phase, beyond the block's parameters: reborn − positive twin, "
        "the same block fed with the positive phase."
    )


def resolved(effects: pd.DataFrame | None) -> bool:
    """Whether any site has a verdict: what a trend, a best kernel or another rate may be named beside."""
    return effects is not None and bool(effects["verdict"].isin((CONFIRMED, SUGGESTIVE, HARMFUL)).any())


def trend_sentence(slope: dict[str, float], *, named: bool) -> str:
    """How the effect changes with depth; `named`: whether a trend may be named, see `resolved`."""
    clear = named and (slope["ci_low"] > 0 or slope["ci_high"] < 0)
    verb = "rises with depth" if slope["effect"] > 0 else "falls with depth"
    words = f"The effect {verb}: " if clear else "No trend with depth is resolved: "
    size = _size(slope["effect"], slope["ci_low"], slope["ci_high"])
    return f"{words}{size} from the first site to the last, fitted as a straight line."


def kernel_sentence(pooled: pd.DataFrame, *, named: bool) -> str:
    """Which kernel and compression are best, pooled over the sites and against the second best; never one per site."""
    parts = []
    for found in pooled.attrs.get("best", ()):
        size = _size(found["effect"], found["ci_low"], found["ci_high"])
        what = f"{found['option']} {found['level']}"
        over = f"{size} over {found['option']} {found['second']}, the second"
        if named and found["ci_low"] > 0:
            parts.append(f"Pooled over the sites, {what} is best: {over}.")
        else:
            parts.append(f"Which {found['option']} is best is not resolved: {what} by {over}.")
    return " ".join(parts)


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The sites that a sentence names: all of a few, of many the first in the network, which no estimate chooses."""
    return rows if len(rows) <= MOST_NAMES + 1 else rows.iloc[:MOST_NAMES]


def _names(rows: pd.DataFrame) -> str:
    shown = [str(name) for name in _shown(rows)["site"]]
    if len(shown) < len(rows):
        shown.append(f"{len(rows) - len(shown)} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _needs(table: pd.DataFrame, *columns: str) -> None:
    missing: Sequence[str] = [column for column in columns if column not in table]
    if missing:
        raise ConfigError(
            f"this sentence needs the columns {', '.join(columns)}; {', '.join(missing)} are missing"
        )
