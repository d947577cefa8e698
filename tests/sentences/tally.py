"""Many studies, each read sentence by sentence: how often what is printed is so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reborn_nas.report import study_findings
from reborn_nas.report.results.findings import Findings
from tests.sentences.reading import Claim, read
from tests.sentences.scenarios import plant
from tests.sentences.studies import Mix, SimulatedStudy, simulate

ABOUT_SITES = ("site", "cause", "rate")
CLEAR = 0.25
"""pp: effects whose finding counts as power."""


@dataclass(frozen=True)
class Read:
    """One study's text, read."""

    study: SimulatedStudy
    findings: Findings
    claims: list[Claim]

    def false(self, *kinds: str) -> bool:
        """Whether any statement of these kinds (of any kind without) is false."""
        return any(claim.true is False for claim in self.claims if not kinds or claim.kind in kinds)


def read_study(study: SimulatedStudy) -> Read:
    """Print the study and read what was printed: the answer, the cautions, the method, the trends."""
    findings = study_findings(study.view)
    claims = [claim for text in printed(findings) for claim in read(text, study)]
    return Read(study, findings, [*claims, *_table_claims(study, findings)])


def printed(findings: Findings) -> Iterator[str]:
    """Every paragraph that a report prints of its estimates."""
    yield from findings.sentences
    yield from findings.cautions
    yield from findings.method
    yield findings.slope_words
    yield findings.pooled_words
    yield from findings.sums.words
    yield findings.checks.rate_words()


def _table_claims(study: SimulatedStudy, findings: Findings) -> Iterator[Claim]:
    """What the table of sites says in a word."""
    if findings.effects is not None:
        for name, verdict in zip(findings.effects["site"].map(str), findings.effects["verdict"].map(str)):
            direction = {"confirmed": 1, "suggestive": 1, "harmful": -1}.get(verdict, 0)
            if direction:
                truths = [study.average[name], study.on_incumbent.get(name, 0.0)]
                right = [truth * direction > 0 for truth in truths]
                true = all(right) if verdict == "confirmed" else any(right)
                yield Claim("site", true, about=name, text=f"{name}: {verdict}")


def read_many(scenario: str, mix: Mix, studies: int, first: int = 0) -> Iterator[Read]:
    """`studies` studies of a scenario, read."""
    for seed in range(first, first + studies):
        yield read_study(simulate(plant(scenario, mix.sites, seed), mix, seed))


@dataclass(frozen=True)
class Row:
    """One study in numbers, and the intervals that it printed of what it named."""

    numbers: dict[str, float]
    named: list[Claim]


def rows_of(many: Iterable[Read]) -> list[Row]:
    """The studies in numbers."""
    return [_row(one) for one in many]


def _row(one: Read) -> Row:
    claims = one.claims
    named = [
        c for c in claims if c.covered is not None and c.kind in ("site", "cause") and c.true is not None
    ]
    row = {
        f"false_{kind}": one.false(kind)
        for kind in ("candidate", "trend", "kernel", "sum", "failure", "bound")
    }
    row |= {
        "false_site": one.false(*ABOUT_SITES),
        "false_other": one.false("other"),
        "false_any": any(c.true is False for c in claims if c.kind != "bound"),
        "fcr": np.mean([not c.covered for c in named]) if named else 0.0,
        **_failing(one),
        **_estimates(one),
    }
    return Row({name: float(value) for name, value in row.items()}, named)


def _failing(one: Read) -> dict[str, float]:
    """Share of the sites that make trainings fail that are named for it, and whether another one is."""
    rates = one.study.planted.diverges
    if rates is None:
        return {}
    named = {claim.about for claim in one.claims if claim.kind == "failure"}
    failing = {name for name, rate in zip(one.study.names, rates) if rate > 0}
    return {
        "failing_named": len(named & failing) / len(failing),
        "failing_false": float(bool(named - failing)),
    }


def measures(rows: Sequence[Row]) -> dict[str, float]:
    """Shares over studies: what is false, what is covered, what is found."""
    found: dict[str, float] = {"studies": len(rows)}
    for name in dict.fromkeys(name for row in rows for name in row.numbers):
        values = np.array([row.numbers.get(name, math.nan) for row in rows])
        values = values[np.isfinite(values)]
        found[name] = float(values.mean()) if len(values) else math.nan
    named = [claim for row in rows for claim in row.named]
    found["named"] = len(named) / max(1, len(rows))
    found["covered_named"] = float(np.mean([c.covered for c in named])) if named else math.nan
    for name in ("excess", "excess_shrunk"):
        sizes = [size for c in named if c.true and (size := getattr(c, name)) is not None]
        found[name.replace("excess", "exaggeration")] = float(np.mean(sizes)) if sizes else math.nan
    for name in ("top5_said", "top5_true"):
        found[name] = found[name] / found["top5_n"] if found.get("top5_n") else math.nan
    return found


def _estimates(one: Read) -> dict[str, float]:
    effects = one.findings.effects
    if effects is None:
        return {}
    truth = np.array([one.study.average[str(site)] for site in effects["site"]])
    estimate = effects["effect"].to_numpy(float)
    said = effects["verdict"].isin(["confirmed", "suggestive"]).to_numpy()
    harm = (effects["verdict"] == "harmful").to_numpy()
    right = np.where(truth > 0, said, harm)
    large = np.abs(truth) >= CLEAR
    low, high = effects["ci_low"].to_numpy(float), effects["ci_high"].to_numpy(float)
    row = {
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
        "rmse": float(np.sqrt(((estimate - truth) ** 2).mean())),
        "power": float(right[large].mean()) if large.any() else float("nan"),
        "found": float(right[truth != 0].mean()) if (truth != 0).any() else float("nan"),
    }
    shrunk = effects["shrunk"].to_numpy(float)
    held = (effects["shrunk_low"] - 1e-9 <= truth) & (truth <= effects["shrunk_high"] + 1e-9)
    row |= {
        "rmse_shrunk": float(np.sqrt(((shrunk - truth) ** 2).mean())),
        "coverage_shrunk": float(held.mean()),
    }
    share = effects["p_top5"].to_numpy(float)
    sure = np.nan_to_num(share, nan=0.0) >= 0.9
    top = truth >= np.sort(truth)[::-1][min(5, len(truth)) - 1]
    row |= {
        "top5_n": float(sure.sum()),
        "top5_said": float(share[sure].sum()),
        "top5_true": float(top[sure].sum()),
    }
    return row
