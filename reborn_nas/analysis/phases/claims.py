"""The sentences that a report may print: pure functions from tables to text, within the allowed claims.

Every interval is the one that belongs to its verdict (`verdicts.decide`). Never said: importance from the sampler's
trials, a strict order where rank intervals overlap, a best kernel per site, the best trial's accuracy as the expected
one, "no effect" from a missing significance, other data sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reborn_nas.analysis.columns import Table, floats
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
MOST_DIGITS = 8
"""Decimals of an interval's ends at most."""
CAUSE_FCR = 0.05
"""Share of the intervals given beside a cause that may miss; the claim itself is much stricter
(`confirm.CAUSE_LEVEL`)."""
GROUNDS = {
    BOTH: "confirmed by the retest",
    SCREEN: "suggested by the screen, not confirmed",
    RETEST: "suggested on the candidate network alone, not on average",
}


def where_it_helps(effects: Table, *, tested: str = "reborn", reference: str = "original") -> str:
    """Where it helps and by how much, where it does harm, or that nothing was resolved.

    It prints the estimate on which the verdict rests: the screen's average, the retest on the candidate, or both.

    Args:
        effects: a table of `site_effects`, or that with the columns of `verdicts.decide`; the retest's estimates
            stand in `confirmed, confirmed_low, confirmed_high`.
        tested, reference: what level 1 and level 0 of the contrast are called.
    """
    _needs(effects, *_NEEDED)
    contrast = f"{tested} instead of {'the original activation' if reference == 'original' else reference}"
    what = contrast[0].upper() + contrast[1:]
    verdict = np.asarray(effects["verdict"], dtype=object)
    if (verdict == NO_VERDICT).all():
        return f"No verdict on {contrast}: the runs cannot carry one{_largest(effects, tested)}."
    rows = _rows(effects)
    helps = [row for row in rows if row["verdict"] in (CONFIRMED, SUGGESTIVE)]
    harms = [row for row in rows if row["verdict"] == HARMFUL]
    sentences: list[str] = []
    for ground, word in GROUNDS.items():
        there = [row for row in helps if row["basis"] == ground]
        if there:
            sentences.append(
                f"{'It also' if sentences else what} helps at {_helping(there, word, ground, tested)}."
            )
    if not sentences and harms:
        sentences.append(f"{what} helps at no site that this study could resolve.")
    elif not sentences:
        sentences.append(_nothing(effects, contrast))
    sentences += [
        _harm([row for row in harms if row["basis"] != RETEST]),
        _harm_there([row for row in harms if row["basis"] == RETEST]),
        _contradiction([row for row in rows if row["contradicts"]]),
    ]
    return " ".join(line for line in sentences if line)


def _nothing(effects: Table, contrast: str) -> str:
    """That nothing was resolved, and of which runs and sites the bound on the effects speaks."""
    scale = 10 ** spoken().digits
    most = f"{math.ceil(largest_plausible(effects) * scale) / scale:.{spoken().digits}f} pp"
    among = "among trainings that converged, " if effects.attrs.get("collapsed") else ""
    size = floats(effects, "effect")
    without = [str(site) for site, there in zip(effects["site"], np.isfinite(size)) if not there]
    untold = f"; of {_and(without)} there is no estimate" if without else ""
    return f"No site resolved; {among}effects of {contrast} above {most} are unlikely{untold}."


Row = Mapping[str, Any]
_NEEDED = ("site", "effect", "said_low", "said_high", "shrunk", "verdict", "rank_low", "rank_high")
_DECIDED = {
    "basis": SCREEN, "contradicts": False, "confirmed": math.nan, "retest_low": math.nan, "retest_high": math.nan,
}  # fmt: skip
"""What `verdicts.decide` adds and the retest, and what stands for it in a table of `site_effects` alone."""


def _rows(effects: Table) -> list[Row]:
    """The sites that something is said of."""
    columns = {name: _listed(effects[name]) for name in (*_NEEDED, *_DECIDED) if name in effects}
    columns |= {name: [value] * len(effects) for name, value in _DECIDED.items() if name not in columns}
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    return [row for row in rows if row["contradicts"] or row["verdict"] in (CONFIRMED, SUGGESTIVE, HARMFUL)]


def _listed(values: Any) -> list[Any]:
    """A column as plain values."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _helping(rows: Sequence[Row], word: str, ground: str, tested: str) -> str:
    column = "confirmed" if ground == RETEST else "effect"
    lead = max(rows, key=lambda row: row[column])
    basis = _basis(_shown(rows), ground, tested)
    if len(rows) == 1:
        return f"{lead['site']} ({word}): {basis}"
    rivals = [row for row in rows if row["rank_low"] <= lead["rank_high"] and row is not lead]
    order = f"; its rank interval overlaps that of {_names(rivals)}" if rivals and ground != RETEST else ""
    size = "" if ground == RETEST or lead in _shown(rows) else f", shrunk {_plus(lead['shrunk'])} pp"
    return f"{_names(rows)} ({word}), the largest estimate at {lead['site']}{size}{order}: {basis}"


def _basis(rows: Sequence[Row], ground: str, tested: str) -> str:
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
        for row in rows
    ]  # fmt: skip
    if ground == RETEST:
        return own + "; ".join(again)
    first = "; ".join(
        f"{row['site']} {_adds()} {_size(row['effect'], row['said_low'], row['said_high'])}, "
        f"shrunk {_plus(row['shrunk'])} pp"
        for row in rows
    )
    return f"{average}{first}" if ground == SCREEN else f"{average}{first}; {own}{'; '.join(again)}"


def _harm(rows: Sequence[Row]) -> str:
    """Where it does harm on average; "" where it does not."""
    if not len(rows):
        return ""
    sizes = [
        f"{_size(row['effect'], row['said_low'], row['said_high'])} on average, shrunk {_plus(row['shrunk'])} pp"
        for row in _shown(rows)
    ]
    return f"It does harm at {_names(rows)} ({_harms(rows, sizes, 'effect')})."


def _harm_there(rows: Sequence[Row]) -> str:
    """Where it does harm by the retest alone; "" where it does not."""
    if not len(rows):
        return ""
    sizes = [f"{_size(row['confirmed'], row['said_low'], row['said_high'])} there" for row in _shown(rows)]
    return (
        f"It does harm on the candidate network at {_names(rows)} ({_harms(rows, sizes, 'confirmed')}), which the "
        "average does not show."
    )


def _harms(rows: Sequence[Row], sizes: Sequence[str], column: str) -> str:
    """The sizes of the sites that are named, and where the harm is greatest."""
    if len(rows) == 1:
        return sizes[0]
    worst = min(rows, key=lambda row: row[column])
    listed = "; ".join(f"{row['site']} {size}" for row, size in zip(_shown(rows), sizes))
    return f"most at {worst['site']}: {listed}"


def _contradiction(rows: Sequence[Row]) -> str:
    """The sites at which screen and retest are each significant, on different sides."""
    listed = "; ".join(
        f"{row['site']} {_plus(row['effect'])} pp on average, {_plus(row['confirmed'])} pp on the candidate network"
        for row in rows
    )
    return (
        f"The screen and the retest contradict each other, so there is no verdict: {listed}."
        if listed
        else ""
    )


def _largest(effects: Table, tested: str) -> str:
    size = floats(effects, "effect")
    if np.isnan(size).all():
        return ""
    at = int(np.nanargmax(size))
    low, high = (floats(effects, name)[at] for name in ("said_low", "said_high"))
    return (
        f"; the largest estimate, averaged over networks whose other sites are {tested} half of the time, is "
        f"{_size(size[at], low, high)} at {_listed(effects['site'])[at]}"
    )


def _adds() -> str:
    """The verb of a gain, with what it is a gain in: an error grows less, which nothing adds to it."""
    return "adds" if spoken().is_accuracy else f"improves {spoken().label} by"


def _measure(word: str) -> str:
    """`word` and the metric's name behind a verb; nothing for the accuracy, of which a percentage point is read."""
    return "" if spoken().is_accuracy else f" {word} {spoken().label}"


def _size(effect: float, low: float, high: float) -> str:
    digits = telling_digits(low, high, spoken().digits)
    return f"{_plus(effect)} pp [{_plus(low, digits)}, {_plus(high, digits)}]"


def telling_digits(low: float, high: float, digits: int) -> int:
    """Decimals of an interval, at least `digits`: where it leaves out 0, so do the printed ends."""
    while digits < MOST_DIGITS and low * high > 0 and not round(low, digits) * round(high, digits) > 0:
        digits += 1
    return digits


def _plus(effect: float, digits: int | None = None) -> str:
    digits = spoken().digits if digits is None else digits
    return f"{round(effect, digits) + 0.0:+.{digits}f}"  # no zero below 0


def largest_plausible(effects: Table, level: float = 0.95) -> float:
    """D in "effects above D pp are unlikely": no site's simultaneous interval reaches above it.

    The sites' 95 % intervals widened to hold together (Šidák over the sites).
    """
    df = float(effects.attrs.get("df", 1e6))
    half = (floats(effects, "ci_high") - floats(effects, "ci_low")) / 2
    quantile = t_quantile((1 - level ** (1 / len(effects))) / 2, df) / t_quantile(0.025, df)
    return float(np.nanmax(np.abs(floats(effects, "effect")) + quantile * half))


def failure_sentence(effects: Table, *, tested: str = "reborn") -> str:
    """Which sites make trainings fail, or keep them from it; "" where none is named."""
    if "makes_fail" not in effects:
        return ""
    what = f"{tested[0].upper()}{tested[1:]}"
    found = (
        ("makes_fail", f"{what} makes trainings fail"),
        ("fails_without", f"{what} keeps trainings from failing"),
    )
    listed = {words: _failures(effects, name) for name, words in found}
    return " ".join(f"{words}: {sites}." for words, sites in listed.items() if sites)


def _failures(effects: Table, which: str) -> str:
    """The sites that are named for it, each with its failed trainings."""
    names = (which, "site", "failed_with", "ended_with", "failed_without", "ended_without")
    return "; ".join(
        f"at {site} {failed:.0f} of {ended:.0f} trainings with it failed, {others:.0f} of {total:.0f} without"
        for named, site, failed, ended, others, total in zip(*(_listed(effects[name]) for name in names))
        if named
    )


def candidate_sentence(
    comparison: Comparison, *, candidate: str = "the candidate", parent: str = "its parent"
) -> str:
    """The candidate against its parent."""
    size = _size(comparison.effect, comparison.ci_low, comparison.ci_high)
    seeds = f"over {comparison.n_first} and {comparison.n_second} seeds"
    arms = f"{seeds}, on {spoken().counted} that no earlier phase used"
    if comparison.collapses:
        arms += f", collapsed trainings {comparison.collapses}"
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


def cause_sentence(control: Table | None, effects: Table | None = None) -> str:
    """ "Because of the negative phase", from reborn − positive twin alone; empty where it may not be said.

    Args:
        control: a table of `control_effects`.
        effects: the screen's table with verdicts; a site without a positive verdict there is not named.
    """
    if control is None or "claim" not in control:
        return ""
    named = np.asarray(control["claim"], dtype=np.bool_)
    if effects is not None:
        told = zip(effects["site"], effects["verdict"])
        helped = {site for site, verdict in told if verdict in (CONFIRMED, SUGGESTIVE)}
        named = named & np.array([site in helped for site in control["site"]], dtype=np.bool_)
    if not named.any():
        return ""
    low, high = said_interval(control, named, CAUSE_FCR)
    sites, size = _listed(control["site"]), floats(control, "effect")
    where = ", ".join(f"{sites[k]} ({_size(size[k], low[k], high[k])})" for k in np.flatnonzero(named))
    return (
        f"At {where} the gain is because of the negative phase, beyond the block's parameters: reborn − positive twin, "
        "the same block fed with the positive phase."
    )


def resolved(effects: Table | None) -> bool:
    """Whether any site has a verdict: what a trend, a best kernel or another rate may be named beside."""
    return effects is not None and not {CONFIRMED, SUGGESTIVE, HARMFUL}.isdisjoint(effects["verdict"])


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


def _shown(rows: Sequence[Row]) -> Sequence[Row]:
    """The sites that a sentence names: all of a few, of many the first in the network, which no estimate chooses."""
    return rows if len(rows) <= MOST_NAMES + 1 else rows[:MOST_NAMES]


def _names(rows: Sequence[Row]) -> str:
    shown = [str(row["site"]) for row in _shown(rows)]
    if len(shown) < len(rows):
        shown.append(f"{len(rows) - len(shown)} more")
    return _and(shown)


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _needs(table: Table, *columns: str) -> None:
    missing: Sequence[str] = [column for column in columns if column not in table]
    if missing:
        raise ConfigError(
            f"this sentence needs the columns {', '.join(columns)}; {', '.join(missing)} are missing"
        )
