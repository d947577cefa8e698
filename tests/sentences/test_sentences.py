"""The reader of printed text, the planted truths it holds them against, and a share of the acceptance table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.sentences.planted import ORIGINAL, REBORN, TWIN, Networks, Planted
from tests.sentences.reading import UnknownSentence, read
from tests.sentences.scenarios import SCENARIOS, plant
from tests.sentences.studies import Mix, SimulatedStudy, simulate, site_names
from tests.sentences.tally import measures, read_many, rows_of

ALL = {"baseline": 8, "candidate": 16, "retest": 32, "control": 48, "checks": 64}


def study(*effects: float, **planted: object) -> SimulatedStudy:
    """A study of these effects, its candidate and top sites decided from its own screen."""
    truth = Planted(np.array(effects), **planted)  # type: ignore[arg-type]
    return simulate(truth, Mix(len(effects), 32, candidate=4, retest=16), seed=1)


def networks(kinds: object) -> Networks:
    rows = np.array(kinds)
    return Networks(rows, np.ones_like(rows), np.zeros(len(rows), dtype=np.int64))


def test_a_sentence_without_a_reading_is_an_error() -> None:
    known = "All effects hold for this study's recipe and data."
    assert read(known, study(0.5, 0, 0)) == []
    with pytest.raises(UnknownSentence, match="Reborn blocks are best"):
        read(f"{known} Reborn blocks are best.", study(0.5, 0, 0))


CANDIDATE = " over 8 and 8 seeds, on images that no earlier phase used."


def test_the_same_words_are_true_of_one_truth_and_false_of_another() -> None:
    better = f"The candidate beats its parent by +0.50 percentage points [+0.10, +0.90]{CANDIDATE}"
    worse = f"The candidate is worse than its parent: −0.50 percentage points [−0.90, −0.10]{CANDIDATE}"
    helped, nothing = study(3.0, 3.0, 3.0), study(0, 0, 0)
    assert [c.true for text in (better, worse) for c in read(text, helped)] == [True, False]
    assert [c.true for text in (better, worse) for c in read(text, nothing)] == [False, False]
    assert not read(better, helped)[0].covered  # the gain is 9
    size = "−0.40 percentage points [−0.60, −0.20] on average, shrunk −0.30 percentage points"
    harm = f"It does harm at layer1.0.act ({size})."
    found = [read(harm, study(effect, 0, 0))[0] for effect in (-0.4, -0.1, 0.0)]
    assert [(c.true, c.covered) for c in found] == [(True, True), (True, False), (False, False)]
    assert found[1].excess == pytest.approx(4)
    trend = (
        "The effect rises with depth: +0.30 percentage points [+0.10, +0.50] from the first site to the last"
    )
    said = f"{trend}, fitted as a straight line."
    assert [read(said, study(-0.1, 0, 0.2, slope=slope))[0].true for slope in (0.3, 0.0, -0.3)] == [
        True, False, False,
    ]  # fmt: skip
    what = "effects of reborn instead of the original activation"
    bound = f"No site resolved; {what} above 0.30 percentage points are unlikely."
    assert [read(bound, study(size, 0, 0))[0].true for size in (0.29, 0.32)] == [True, False]


def test_each_size_of_a_sentence_is_held_against_its_own_site() -> None:
    one, two, three = site_names(3)
    what = "Reborn instead of the original activation helps at"
    average = "averaged over networks whose other sites are reborn half of the time,"
    size, other = "+0.40 percentage points [+0.20, +0.60]", "+0.90 percentage points [+0.70, +1.10]"
    shrunk = "shrunk +0.30 percentage points"
    text = (
        f"{what} {one} and {two} (suggested by the screen, not confirmed), the largest estimate at {two}: {average} "
        f"{one} adds {size}, {shrunk}; {two} adds {other}, {shrunk}."
    )
    found = read(text, study(0.5, 0.5, 0))
    assert [(c.about, c.true, c.covered) for c in found] == [(one, True, True), (two, True, False)]
    sizes = f"{one} {size} on average, {shrunk}; {three} {other} on average, {shrunk}"
    harm = f"It does harm at {one} and {three} (most at {one}: {sizes})."
    found = read(harm, study(0.5, 0, -0.1))
    assert [(c.about, c.true, c.covered) for c in found] == [(one, False, True), (three, True, False)]


def test_planted_means_by_hand() -> None:
    truth = Planted(np.array([0.4, -0.2, 0.0]), joint=[((0, 1), 0.6), ((0, 1, 2), 0.2)], twin=0.25)
    # half of each effect either way, and the joint effects by the product of the signs
    assert truth.mean(
        networks([[REBORN] * 3, [ORIGINAL] * 3, [REBORN, ORIGINAL, ORIGINAL], [TWIN, TWIN, REBORN]])
    ) == (
        pytest.approx(
            [70.1 + 0.3 + 0.1, 69.9 + 0.3 - 0.1, 70.3 - 0.3 + 0.1, 70 - 0.25 * 0.4 + 0.25 * 0.2 + 0.3 + 0.1]
        )
    )
    every = networks(list(itertools.product((ORIGINAL, REBORN), repeat=3)))
    mean = truth.mean(every)
    reborn = every.kinds == REBORN
    assert truth.average == pytest.approx([mean[on].mean() - mean[~on].mean() for on in reborn.T])
    steep = Planted(np.array([2.0, 1.0]), base=97.0, ceiling=True)
    levels = [
        100 / (1 + np.exp(-(np.log(97 / 3) + a / 2.91 + b / 2.91))) for a in (-1, 1) for b in (-0.5, 0.5)
    ]
    assert steep.average[0] == pytest.approx((levels[2] + levels[3] - levels[0] - levels[1]) / 2)


def test_what_holds_on_the_candidate_is_taken_there() -> None:
    """A pair that cancels: the first site helps on average, and not where the second is reborn too."""
    found = study(1.0, 1.0, 0.0, joint=[((0, 1), -1.0)])
    one, two, _ = site_names(3)
    assert found.average[one] == 1.0
    assert found.on_incumbent[one] == pytest.approx(1.0)  # the other sites of the retest are half and half
    held = found.planted.contrast(networks([[ORIGINAL, REBORN, ORIGINAL]]).kinds, [0], REBORN, ORIGINAL)
    assert held == pytest.approx(0.0)
    assert found.gain == pytest.approx(2.0)
    assert found.candidate is not None
    assert found.candidate.choice(two).name == "reborn"


@pytest.mark.parametrize("kernels", [False, True])
def test_everything_that_is_printed_has_a_reading(kernels: bool) -> None:
    """Every scenario once at five sites, all phases: a new sentence is to be given its meaning in `reading`."""
    mix = Mix(5, 16, kernels=kernels, **ALL)
    for number, scenario in enumerate(SCENARIOS):
        rows = rows_of(read_many(scenario, mix, 1, first=number))
        assert np.isfinite(measures(rows)["coverage"]), scenario


def test_equal_seeds_are_equal_studies() -> None:
    mix = Mix(5, 16, **ALL)
    one, two = (simulate(plant("five", 5, 3), mix, 3) for _ in range(2))
    assert [r.accuracy for r in one.view.records] == [r.accuracy for r in two.view.records]
    assert len({r.key for r in one.view.records}) == len(one.view.records) == 16 + sum(ALL.values())
