"""The error budget of a report: how often any statement of a kind may be false in a study where nothing has an effect.

Statements about sites 5 %, about the candidate 4 %, whether effects add up 1 %: together at most 10 %. A trend, a best
kernel, a second learning rate and a cause cost nothing, because they are only made beside a statement about a site.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CANDIDATE", "OTHER", "SITES", "Budget", "budget_lines", "spend"]

SITES, CANDIDATE, OTHER = 0.05, 0.04, 0.01
RETEST_SHARE = 0.2
"""Of the sites' level, where there is a retest: what may be found by it alone (simulated: .04 + .01 lose least
power)."""
CONFIRMED = 0.05
"""Level of the retest over the sites that the screen has found. It costs nothing: a false one was found falsely
before."""
FAILURES, RESCUES = 0.045, 0.005
"""Bonferroni's levels of the exact tests on failed trainings: which sites make them fail, and which keep them from it.
Their p values come in steps, so what they really err by is less, often far less: that is what is spent, and the rest is
left to the effects."""


@dataclass(frozen=True)
class Budget:
    """Levels of a report's tests.

    Args:
        screen: of Benjamini–Hochberg over the screen's sites.
        retest: of Holm's method over the retested sites; 0 without a retest.
        failures: spent on which sites make trainings fail or keep them from it; 0 where too few failed to tell.
        candidate: of candidate against parent.
        other: of whether effects add up.
    """

    screen: float = SITES
    retest: float = 0.0
    failures: float = 0.0
    candidate: float = CANDIDATE
    other: float = OTHER

    @property
    def total(self) -> float:
        """Upper bound on the share of studies without any effect in which the report makes a false statement."""
        return SITES + self.candidate + self.other


def spend(*, retest: bool = False, failures: float = 0.0, failures_found: bool = False) -> Budget:
    """How the sites' level is divided.

    The number of failed runs says nothing about which sites fail, so the division may depend on it. A test that has
    rejected passes its share on, as in Holm's method.

    Args:
        retest: whether the study has a retest, planned or run.
        failures: how often so many failed runs would name a site by chance (`collapse.Failures.size`).
        failures_found: whether a site was named.
    """
    left = SITES if failures_found else SITES - failures
    again = RETEST_SHARE * left if retest else 0.0
    return Budget(left - again, again, failures)


def budget_lines(
    budget: Budget,
    *,
    sites: int,
    named: int = 0,
    retested: int = 0,
    confirmed: int = 0,
    alone: int = 0,
    failing: int = 0,
    candidate: str = "not tried",
    sums: str = "not tried",
) -> list[str]:
    """The budget and how it was spent, a line each.

    Args:
        sites: tested by the screen, of which `named` got a verdict from it.
        retested: sites of the retest, of which `confirmed` were and `alone` got a verdict by it alone.
        failing: sites that are named as making trainings fail, or keeping them from it.
        candidate, sums: what came of candidate against parent, and of whether effects add up.
    """
    lines = [
        f"Sites, screen: {_percent(budget.screen)} by Benjamini and Hochberg's method over {sites} sites; "
        f"{named} named."
    ]
    if budget.retest:
        lines.append(
            f"Sites, retest: {_percent(budget.retest)} by Holm's method over {retested} sites; {alone} named by it "
            f"alone. “Confirmed” asks for {_percent(CONFIRMED)} over those that the screen had found, which costs "
            f"nothing more; {confirmed} confirmed."
        )
    if budget.failures:
        lines.append(
            f"Sites with which or without which trainings fail: {_percent(budget.failures)} by exact tests over "
            f"{sites} sites; {failing} named."
        )
    lines += [
        f"Candidate against parent: {_percent(budget.candidate)}; {candidate}.",
        f"Whether effects add up: {_percent(budget.other)}; {sums}.",
        "A trend with depth, a best kernel, another learning rate and a cause are only named beside a site that has a "
        "verdict, and cost nothing more.",
        f"Together: at most {_percent(budget.total)}.",
    ]
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
