"""A reader of what a report prints: each sentence is recognised by a small grammar and held against the planted truth.

A sentence that the grammar does not know is an error, so that a new sentence must first be given a meaning here.
"""

# ruff: noqa: E501 — a sentence of the report stands in one line
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tests.sentences.planted import REBORN
from tests.sentences.studies import SimulatedStudy

NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?"
UNIT = r" (?:percentage points|pp)"
SITE = r"layer\d\.\d+\.act"
SITES = rf"(?:{SITE}|\d+ more)(?:(?:, | and )(?:{SITE}|\d+ more))*"
ROUNDING = 0.005 + 1e-9
"""What printing two digits may move a bound by."""


@dataclass(frozen=True)
class Claim:
    """Something that a sentence says, and whether it is so.

    Args:
        kind: what it is about: "site", "candidate", "trend", "kernel", "sum", "cause", "bound", "failure", "rate".
        true: whether it is so; None where the sentence says nothing that could be false.
        covered: whether the interval printed with it holds the truth; None without one.
        excess, excess_shrunk: the printed estimate, and the shrunk one beside it, over a truth that is not 0.
        about: the site, or "".
        text: the sentence's words.
    """

    kind: str
    true: bool | None
    covered: bool | None = None
    excess: float | None = None
    excess_shrunk: float | None = None
    about: str = ""
    text: str = ""


class UnknownSentence(AssertionError):
    """The report printed something that the grammar does not know."""


@dataclass(frozen=True)
class Size:
    """An estimate with its interval."""

    value: float
    low: float
    high: float

    def covers(self, truth: float) -> bool:
        """Whether the printed interval holds `truth`."""
        return self.low - ROUNDING <= truth <= self.high + ROUNDING

    def excess(self, truth: float) -> float | None:
        """The estimate over the truth; None of a truth of 0."""
        return self.value / truth if truth else None


def size_of(name: str = "") -> str:
    """A pattern of an estimate with its interval; its groups are v, l and h with `name` behind."""
    return rf"(?P<v{name}>{NUMBER}){UNIT} \[(?P<l{name}>{NUMBER}), (?P<h{name}>{NUMBER})\]"


def read_size(match: re.Match[str], name: str = "") -> Size:
    """The estimate of `size_of(name)`."""
    return Size(*(number_of(match[part + name]) for part in "vlh"))


def number_of(text: str) -> float:
    """`−1,234.5` as a float."""
    return float(text.replace("−", "-").replace(",", ""))


def listed(text: str) -> list[str]:
    """The sites that a list names; those that it only counts are missing."""
    return re.findall(SITE, text)


Reading = Callable[[re.Match[str], SimulatedStudy], Iterable[Claim]]
GRAMMAR: list[tuple[re.Pattern[str], Reading]] = []


def sentence(pattern: str) -> Callable[[Reading], Reading]:
    """Register the reading of the sentences that match `pattern`."""

    def register(reading: Reading) -> Reading:
        GRAMMAR.append((re.compile(pattern), reading))
        return reading

    return register


def read(text: str, study: SimulatedStudy) -> list[Claim]:
    """The claims of a paragraph. Raises UnknownSentence at the first sentence that is in no grammar."""
    found: list[Claim] = []
    at = 0
    while at < len(text):
        for pattern, reading in GRAMMAR:
            match = pattern.match(text, at)
            if match is not None and match.end() > at:
                found += [replace(claim, text=match[0]) for claim in reading(match, study)]
                at = match.end()
                break
        else:
            raise UnknownSentence(f"no reading for {text[at : at + 200]!r}\nin {text!r}")
        while at < len(text) and text[at] == " ":
            at += 1
    return found


def _site(study: SimulatedStudy, name: str, direction: int, grounds: str) -> bool:
    """Whether a site helps (+1) or does harm (−1): "average", "incumbent", both, or either of them."""
    average = study.average[name] * direction > 0
    there = study.on_incumbent.get(name)
    incumbent = there is not None and there * direction > 0
    return {"average": average, "incumbent": incumbent, "both": average and incumbent}[grounds]


WHAT = r"(?:[Rr]eborn instead of the original activation)"
ON_AVERAGE = r"averaged over networks whose other sites are reborn half of the time, "
SHRUNK = rf"shrunk (?P<shrunk>{NUMBER}){UNIT}"
THERE = r"on the candidate network, on images unused before, "
SIZE = rf"{NUMBER}{UNIT} \[{NUMBER}, {NUMBER}\]"
AVERAGES = rf"(?P<averages>{SITE} adds {SIZE}, shrunk {NUMBER}{UNIT}(?:; {SITE} adds {SIZE}, shrunk {NUMBER}{UNIT})*)"
BASIS = (
    rf"(?:{ON_AVERAGE}{AVERAGES}(?:; {THERE}(?P<again>(?:{SITE} adds )?{SIZE}(?:; {SITE} adds {SIZE})*))?"
    rf"|{THERE}(?P<there>{SITE} adds {SIZE}(?:; {SITE} adds {SIZE})*))"
)
GROUNDS = {
    "confirmed by the retest": "both",
    "suggested by the screen, not confirmed": "average",
    "suggested on the candidate network alone, not on average": "incumbent",
}


@sentence(
    rf"(?:{WHAT}|It also) helps at (?P<sites>{SITES}) \((?P<word>[^)]*)\)"
    rf"(?:, the largest estimate at (?P<lead>{SITE})(?:, shrunk {NUMBER}{UNIT})?(?:; its rank interval overlaps that of {SITES})?)?: {BASIS}\."
)
def _helps(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    grounds = GROUNDS[match["word"]]
    names = listed(match["sites"])
    for part in ("averages", "again", "there"):
        truth = study.average if part == "averages" else study.on_incumbent
        yield from _sizes(match[part] or "", study, truth, 1, grounds, names[0])
    for name in {match["lead"] or names[0]} - set(names):
        yield Claim("site", _site(study, name, 1, grounds), about=name)


def _sizes(
    text: str, study: SimulatedStudy, truth: dict[str, float], direction: int, grounds: str, only: str
) -> Iterator[Claim]:
    """A claim for each size in `text`, of the site before it, or of the `only` one."""
    for one in re.finditer(rf"(?:(?P<site>{SITE}) (?:adds )?)?{size_of()}(?:[^;]*?, {SHRUNK})?", text):
        name, size = one["site"] or only, read_size(one)
        yield Claim(
            "site", _site(study, name, direction, grounds), size.covers(truth[name]), size.excess(truth[name]),
            number_of(one["shrunk"]) / truth[name] if one["shrunk"] and truth[name] else None, about=name,
        )  # fmt: skip


@sentence(rf"{WHAT} helps at no site that this study could resolve\.")
@sentence(r"The screen has too few finished runs to estimate what each site adds\.")
@sentence(
    rf"The screen cannot tell what each site adds\. These sites are the same in all of its runs: {SITE}(?:, {SITE})*\."
)
@sentence(
    r"The screen cannot tell what each site adds\. Some sites change only together in the runs that there are\."
)
@sentence(r"This study ran no screen, so it cannot say where [^.]* helps\.")
def _nothing(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    return iter(())


@sentence(
    rf"No site resolved; (?P<among>among trainings that converged, )?effects of {WHAT} above (?P<most>{NUMBER}){UNIT} are "
    rf"unlikely(?:; of (?P<untold>{SITES}) there is no estimate)?\."
)
def _bound(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    """Of trainings that converge; without that word, of all."""
    told = [name for name in study.names if name not in listed(match["untold"] or "")]
    fails = study.planted.diverges is not None or study.planted.needed is not None
    held = max(study.average[name] for name in told) <= number_of(match["most"]) + ROUNDING
    yield Claim("bound", held and (bool(match["among"]) or not fails))


@sentence(
    rf"No verdict on {WHAT}: the runs cannot carry one(?:; the largest estimate, {ON_AVERAGE}is {size_of()} at {SITE})?\."
)
@sentence(
    rf"The screen and the retest contradict each other, so there is no verdict: (?:{SITE} {NUMBER}{UNIT} on average, "
    rf"{NUMBER}{UNIT} on the candidate network(?:; )?)+\."
)
def _no_verdict(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    return iter(())


HARM = rf"(?:{SITE} )?{SIZE} (?:on average, shrunk {NUMBER}{UNIT}|there)"


@sentence(
    rf"It does harm at (?P<sites>{SITES}) \((?:most at (?P<lead>{SITE}): )?(?P<sizes>{HARM}(?:; {HARM})*)\)\."
)
@sentence(
    rf"It does harm (?P<there>on the candidate network) at (?P<sites>{SITES}) \((?:most at (?P<lead>{SITE}): )?"
    rf"(?P<sizes>{HARM}(?:; {HARM})*)\), which the average does not show\."
)
def _harm(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    there = "there" in match.groupdict()
    grounds, truth = ("incumbent", study.on_incumbent) if there else ("average", study.average)
    names = listed(match["sites"])
    yield from _sizes(match["sizes"], study, truth, -1, grounds, names[0])
    for name in {match["lead"] or names[0]} - set(names):
        yield Claim("site", _site(study, name, -1, grounds), about=name)


ARMS = (
    r" over \d+ and \d+ seeds, on images that no earlier phase used"
    r"(?:, collapsed trainings (?P<collapsed>left out|counted as they are))?\."
)


@sentence(rf"The candidate (?P<verb>beats its parent by|is worse than its parent:) {size_of()}{ARMS}")
def _candidate(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    direction = 1 if "beats" in match["verb"] else -1
    size, gain = (
        read_size(match),
        study.whole_gain if match["collapsed"] == "counted as they are" else study.gain,
    )
    yield Claim("candidate", gain * direction > 0, size.covers(gain), size.excess(gain))


FAILED = rf"at (?P<site>{SITE}) \d+ of \d+ trainings with it failed, \d+ of \d+ without"


@sentence(
    rf"Reborn (?P<which>makes trainings fail|keeps trainings from failing): (?P<told>at {SITE} [^.;]*(?:; at {SITE} [^.;]*)*)\."
)
def _failures(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    rates = study.planted.diverges if match["which"].startswith("makes") else study.planted.needed
    for one in re.finditer(FAILED, match["told"]):
        yield Claim("failure", rates is not None and rates[study.site(one["site"])] > 0, about=one["site"])


SUM = rf"their sum is {size_of('1')}, the measured difference {size_of('2')}, a gap of {size_of('3')}"


@sentence(rf"For (?P<where>reborn everywhere|the candidate), (?P<word>the effects do not add up|whether the effects add up is not resolved): {SUM}\.")  # fmt: skip
@sentence(rf"The effects do not add up for (?P<where>reborn everywhere|the candidate): {SUM}\.")
def _sum(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    everywhere = match["where"] == "reborn everywhere"
    on = np.ones(study.planted.n) if everywhere else study.incumbent.kinds[0] == REBORN
    total = float(study.planted.average @ on)
    if everywhere and study.planted.kernel is not None:
        total += float(study.planted.kernel[:, 1].sum())  # the baseline has the default kernel
    measured = study.everywhere if everywhere else study.gain
    claimed = "not resolved" not in match[0]
    yield Claim(
        "sum",
        abs(measured - total) > 1e-9 if claimed else None,
        read_size(match, "3").covers(measured - total),
    )


@sentence(
    r"What a site adds depends on the other sites, so what the candidate gains over the parent is what was measured of it, "
    r"not the sum of its sites' effects\."
)
def _no_sum(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    return iter(())


@sentence(
    rf"Pooled over the sites, kernel (?P<best>\d) is best: {size_of()} over kernel (?P<second>\d), the second\."
)
@sentence(rf"Which kernel is best is not resolved: kernel (?P<best>\d) by {size_of()} over kernel (?P<second>\d), the second\.")  # fmt: skip
def _kernel(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    """Of these sites: kernels that are drawn alike at every site are none the better on the whole."""
    yield Claim("kernel", False if "is best:" in match[0] else None)


@sentence(rf"Whether the candidate beats its parent is unresolved: {size_of()}{ARMS}")
def _candidate_open(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    gain = study.whole_gain if match["collapsed"] == "counted as they are" else study.gain
    yield Claim("candidate", None, read_size(match).covers(gain))


@sentence(
    rf"The candidate differs from the parent by {size_of()} \(test accuracy, \d+ against \d+ trainings with fresh seeds\)\."
)
def _candidate_size(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    yield Claim("candidate", None, read_size(match).covers(study.gain))


@sentence(
    rf"At (?P<told>{SITE} \([^)]*\)(?:, {SITE} \([^)]*\))*) the gain is because of the negative phase, beyond the block's "
    r"parameters: reborn − positive twin, the same block fed with the positive phase\."
)
def _cause(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    for one in re.finditer(rf"(?P<site>{SITE}) \({size_of()}\)", match["told"]):
        truth, size = study.beside_twin[one["site"]], read_size(one)
        yield Claim("cause", truth > 1e-9, size.covers(truth), size.excess(truth), about=one["site"])


@sentence(
    rf"(?P<word>The effect rises with depth|The effect falls with depth|No trend with depth is resolved): {size_of()} "
    r"from the first site to the last, fitted as a straight line\."
)
def _trend(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    """A trend is one of the population that the sites were drawn from: none where they were drawn alike."""
    slope = study.planted.slope
    direction = 1 if "rises" in match["word"] else -1 if "falls" in match["word"] else 0
    yield Claim("trend", slope * direction > 0 if direction else None, read_size(match).covers(slope))


@sentence(
    rf"The top site's effect (?P<word>is above 0|is below 0|is not resolved) at another learning rate: (?P<site>{SITE}) "
    rf"adds {size_of()} to the candidate at {NUMBER} \(\d+ against \d+ trainings\)\."
)
def _rate(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    truth = study.planted.contrast(
        study.incumbent.kinds, [study.site(match["site"])], 1, 0, study.incumbent.kernels
    )
    direction = {"is above 0": 1, "is below 0": -1}.get(match["word"], 0)
    yield Claim("rate", truth * direction > 0 if direction else None, read_size(match).covers(truth))


@sentence(
    rf"Baseline: reborn at every site against the parent, {size_of()} \(\d+ against \d+ trainings, validation images\)\."
)
def _baseline(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    yield Claim("ends", None, read_size(match).covers(study.everywhere))


@sentence(rf"Curvature: the mean of the baseline's two ends lies {size_of()} from the screen's mean\.")
def _curvature(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    yield Claim("sum", None, read_size(match).covers(study.bend))


@sentence(
    rf"Effects do not simply add up here \(curvature {size_of()}\): what a site adds depends on the other sites, so an "
    r"average over half-reborn networks need not hold on another network\."
)
def _bent(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    yield Claim("sum", abs(study.bend) > 1e-9)


@sentence(rf"Screen: \d+ unpruned trainings over \d+ train/validation splits, [^.]*, Benjamini–Hochberg at q = {NUMBER} over \d+ sites\.")  # fmt: skip
@sentence(r"Whether the candidate beats its parent cannot be told [^.]*\.\d+ pp[^.]*\.")
@sentence(
    rf"Noise of one training σ̂ = {NUMBER} percentage points; an effect of {NUMBER} at one site is found with 80 % power"
    rf"(?:, of {NUMBER} at each of \d)*\."
)
@sentence(r"The noise of one training is unknown, and so is what could be seen beside it\.")
@sentence(r"All runs of the screen share one train/validation split: its luck can look like an effect, and no interval allows for it\.")  # fmt: skip
@sentence(rf"Largest correlation between two sites: {NUMBER}\.")
@sentence(r"\d+ splits are few, and the luck of one enters an effect: intervals are wider by \d+ % on average to allow for it\.")  # fmt: skip
@sentence(r"No joint effect of two or three sites can look like the effect of one\.")
@sentence(rf"No joint effect of two sites can look like the effect of one, but a joint effect of three can: (?:up to|at least) \d+ % of it enters, such as that of {SITES} at {SITE}\.")  # fmt: skip
@sentence(r"A joint effect of two sites can look like one site's effect: up to \d+ % of it enters\. Only a whole design keeps them apart\.")  # fmt: skip
@sentence(
    r"Confirmed: found by the screen, and again by the retest, above 0\. Suggestive: by one of the two\. "
)
@sentence(r"Harmful: by either, below 0\. Unresolved: else\. Intervals in sentences allow for the site having been chosen\.")  # fmt: skip
@sentence(r"A reborn block brings its own batch norm: [^.]*\.")
@sentence(r"All effects hold for this study's recipe and data\.")
@sentence(rf"Only {NUMBER} validation images: one accuracy alone has a standard error of {NUMBER} percentage points\.")  # fmt: skip
@sentence(r"That shows the mechanics; it is not a finding\.")
@sentence(
    r"\d+ runs are fewer than one whole balanced design of \d+ sites \(\d+\): estimates only, no verdict\."
)
@sentence(r"\d+ of \d+ designed runs are missing: verdicts only where both readings of them agree\.")
@sentence(rf"\d+ of \d+ designed runs collapsed: effects are among those that converged(?:; none is left to estimate that of {SITES})?\.")  # fmt: skip
@sentence(r"\d+ of \d+ designed runs collapsed: the others are too few for any effect\.")
@sentence(rf"{NUMBER} % of the screen's runs are right on every image: [^.]*\.")
@sentence(r"The screen ended after \d+ of \d+ trainings\.")
@sentence(rf"{NUMBER} % of the screen's runs collapsed\.")
@sentence(r"The runs differ by nothing but their sites and splits, or not at all: [^.]*\.")
@sentence(r"Joint effects of three or more sites show in these runs and can look like one site's: [^.]*\.")
@sentence(r"The study is still running: estimates and intervals are descriptive, and no verdict is given\.")
@sentence(rf"Whether the candidate beats its parent cannot be told \({NUMBER}{UNIT}\): the trainings of each arm came out the same, so that their noise is unknown\.")  # fmt: skip
@sentence(r"A lower learning rate would tell more\.")
@sentence(rf"Two sites' levels are correlated by {NUMBER}: their effects are hard to tell apart\.")
def _plain(match: re.Match[str], study: SimulatedStudy) -> Iterator[Claim]:
    """How it was done: nothing that the planted truth could contradict."""
    return iter(())
