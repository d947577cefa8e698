"""The metric: its scale and direction, its text, and its effects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import reborn_nas as rn
from reborn_nas.errors import ConfigError
from reborn_nas.metric import ACCURACY, Metric, as_number, speaking, spoken, unknown_chance
from reborn_nas.records import TrialRecord, chance_level

MIOU = Metric("miou", label="mIoU", unit="points", scale=100, higher_is_better=True, worst=0.0)
RMSE = Metric("rmse", label="RMSE", unit="degrees", higher_is_better=False, worst=90.0)
LOSS = Metric("loss", label="log loss", scale="log", higher_is_better=False)
SHARE = Metric("share", scale="logit", higher_is_better=True)


@pytest.mark.parametrize("metric", [ACCURACY, MIOU, RMSE, LOSS, SHARE], ids=lambda one: one.name)
def test_text_and_json_restore_a_metric(metric: Metric) -> None:
    assert Metric.parse(metric.text) == metric
    assert Metric.from_json(metric.to_json()) == metric
    assert Metric.parse(metric.to_dict()) == metric


@pytest.mark.parametrize(
    ("metric", "value", "score"),
    [
        (ACCURACY, 0.86, 0.86),
        (MIOU, 0.34, 0.34),
        (RMSE, 12.0, -0.12),
        (Metric("db", unit="dB", higher_is_better=True), 31.5, 0.315),
        (LOSS, 0.5, math.log(2.0)),
        (SHARE, 0.75, math.log(3.0) / 100),
    ],
)
def test_a_hundred_times_the_difference_of_scores_is_the_effect(
    metric: Metric, value: float, score: float
) -> None:
    assert metric.score(value) == pytest.approx(score, rel=1e-12)
    assert metric.value(metric.score(value)) == pytest.approx(value, rel=1e-12)


def test_larger_scores_are_better_values() -> None:
    assert RMSE.score(10.0) > RMSE.score(20.0)
    assert MIOU.score(0.4) > MIOU.score(0.3)
    assert LOSS.score(0.1) > LOSS.score(0.2)


def test_values_are_shown_in_their_unit() -> None:
    assert ACCURACY.shown(0.875) == "87.50 %"
    assert MIOU.shown(0.342) == "34.20 points"
    assert RMSE.shown(RMSE.score(12.0)) == "12.0000 degrees"
    assert RMSE.shown(None) == "–"
    assert LOSS.shown(LOSS.score(0.25)) == "0.25"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "my metric", "higher_is_better": True}, "name: a word"),
        ({"name": "n", "higher_is_better": True}, "means something else"),
        ({"name": "x", "higher_is_better": 1}, "True or False"),
        ({"name": "x", "higher_is_better": True, "scale": 0}, "above 0"),
        ({"name": "x", "higher_is_better": True, "scale": "sqrt"}, "logit or log"),
        ({"name": "x", "higher_is_better": True, "worst": math.nan}, "finite"),
        ({"name": "x", "higher_is_better": True, "scale": "logit", "worst": 0.0}, "inside"),
        ({"name": "x", "higher_is_better": True, "low": 1.0, "high": 0.0}, "below high"),
        ({"name": "x", "higher_is_better": True, "low": 0.0, "worst": -1.0}, "worst: in"),
    ],
)
def test_faults_of_a_metric(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Metric.from_dict(arguments)


@pytest.mark.parametrize(
    "text", ["miou", "miou:up", ":higher", "miou:higher,colour=red", "miou:higher,scale=many"]
)
def test_faults_of_a_text(text: str) -> None:
    with pytest.raises(ConfigError):
        Metric.parse(text)


def test_the_direction_is_required() -> None:
    with pytest.raises(TypeError, match="higher_is_better"):
        Metric("miou")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="miou:higher"):
        Metric.parse("miou")


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.5, 0.5), (np.float32(0.5), 0.5), (torch.tensor(0.25), 0.25), (np.array([2.0]), 2.0)],
)
def test_numbers(value: object, number: float) -> None:
    assert as_number(value, "x") == number


@pytest.mark.parametrize("value", [None, "0.5", True, [0.5], torch.zeros(2), {}, object()])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^x is "):
        as_number(value, "x")


def test_the_range_is_checked_when_a_value_becomes_a_score() -> None:
    with pytest.raises(ConfigError, match=r"in \[0, 1\], got 86; divide percent by 100"):
        ACCURACY.score(86.0)
    with pytest.raises(ConfigError, match=r"inside \(0, 1\)"):
        SHARE.score(1.0)
    bounded = Metric("share", scale="logit", higher_is_better=True, worst=0.01)
    assert bounded.score(0.0) == bounded.score(0.01)
    with pytest.raises(ConfigError, match="inside"):
        bounded.score(1.0)  # the best there is cannot stand for the worst
    assert math.isnan(RMSE.score(math.nan))


def test_effects_of_an_error_are_improvements() -> None:
    design = rn.screen_design(4, 32, seed=0)
    truth = np.array([3.0, -2.0, 0.0, 0.0])
    noise = np.random.default_rng(0).normal(0, 0.1, 32)
    degrees = 30.0 - np.where(design, 0.5, -0.5) @ truth + noise  # the first site makes the error smaller
    table = rn.site_effects(design, degrees, metric=RMSE)
    assert table["effect"].to_numpy() == pytest.approx(truth, abs=0.2)
    assert list(table["verdict"])[:2] == ["suggestive", "harmful"]
    assert table.attrs["unit"] == "degrees"


def test_effects_keep_their_size_on_any_scale() -> None:
    """The same runs in degrees and in thousandths of a degree: the same verdicts, p values and shrunk shares."""
    design = rn.screen_design(6, 48, seed=1)
    noise = np.random.default_rng(1).normal(0, 0.5, 48)
    values = 40.0 + np.where(design, 0.5, -0.5) @ np.array([2.0, 0, 0, 0, -1.5, 0]) + noise
    plain = rn.site_effects(design, values, metric=Metric("db", higher_is_better=True))
    fine = rn.site_effects(design, values, metric=Metric("db", scale=1000, higher_is_better=True))
    assert fine["effect"].to_numpy() == pytest.approx(1000 * plain["effect"].to_numpy())
    assert list(fine["verdict"]) == list(plain["verdict"])
    assert fine["shrunk"].to_numpy() == pytest.approx(1000 * plain["shrunk"].to_numpy(), rel=1e-3)


def test_accuracies_outside_of_their_range_are_refused() -> None:
    design = rn.screen_design(4, 32, seed=0)
    with pytest.raises(ConfigError, match="divide percent by 100"):
        rn.site_effects(design, np.full(32, 55.0))


def test_a_study_s_words_are_those_of_its_metric() -> None:
    assert spoken() is ACCURACY
    with speaking(RMSE):
        assert spoken() is RMSE
    assert spoken() is ACCURACY


def record(score: float, **more: object) -> TrialRecord:
    backbone = {"source": "net.py:make", "num_classes": 0}
    return TrialRecord(
        "screen/0",
        "screen",
        "design",
        0,
        "complete",
        {"backbone": backbone},
        accuracy=score,
        **more,  # type: ignore[arg-type]
    )


def test_chance_is_what_the_metric_says_or_far_below() -> None:
    assert chance_level([record(-0.12, chance=-0.9)]) == -0.9
    assert chance_level([record(0.5), record(0.3)]) == pytest.approx(0.3 - 2 * 0.2)
    assert unknown_chance([]) == 0.0
