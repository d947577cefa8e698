"""Configurations: every fault at once with its place, and nothing decided twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reborn_nas.errors import ConfigError, RebornError
from reborn_nas.study import StudyConfig, load_config, shipped_studies
from reborn_nas.study.config.settings import difference, settings_digest


def test_every_fault_is_listed_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        StudyConfig(
            trials=0, epochs=-3, trails=4, sampler="tpx", recipe="fats", name="../x", timeout="5 parsecs"
        )
    places = {fault.split(":")[0] for fault in caught.value.faults}
    assert places == {"trials", "epochs", "trails", "sampler", "recipe", "name", "timeout"}
    text = str(caught.value)
    assert "did you mean trials" in text
    assert "did you mean tpe" in text
    assert "did you mean fast" in text


def test_one_device_and_a_list_of_devices_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="devices names cpu, so leave out device cuda:0"):
        StudyConfig(device="cuda:0", devices=["cpu"])


def test_a_file_and_what_overrides_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: words\ntrials: 12\nepochs: 3\ntimeout: 2h\n")
    config = load_config(path, epochs=5, seed=None)
    assert (config.trials, config.epochs, config.timeout, config.seed) == (12, 5, 7200.0, 0)


def test_faults_of_a_file_name_the_file_and_those_of_flags_do_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("trials: -1\nfoo: 2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, epochs=-5)
    assert sorted(fault.startswith(str(path)) for fault in caught.value.faults) == [False, True, True]


@pytest.mark.parametrize(
    "text", ["- a\n", "trials: [\n", "a: !!python/object/apply:os.system [ls]\n", "1: 2\n", "\x00"]
)
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(path)


def test_unknown_study_files() -> None:
    with pytest.raises(RebornError, match="does not exist"):
        load_config("nowhere/at/all.yaml")
    with pytest.raises(RebornError, match="unknown study"):
        load_config("tabel2")


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_shipped_studies_are_valid(name: str) -> None:
    assert load_config(name).total > 0


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 64),
        ({"dataset": "mnist"}, 160),
        ({"trials": 7}, 7),
        ({"baseline": 2, "screen": 16, "search": 3, "candidate": 2, "confirm": 0, "control": 0}, 23),
    ],
)
def test_totals(settings: dict[str, Any], total: int) -> None:
    assert StudyConfig(**settings).total == total


def test_what_was_left_to_a_rule_is_decided_anew() -> None:
    small = StudyConfig(trials=9)
    assert small.epochs is not None
    assert small.given == {"trials"}
    assert small.replace(dataset="mnist").epochs is None
    assert StudyConfig(**small.as_given()) == small


def test_names_from_what_is_searched() -> None:
    assert StudyConfig(backbone="timm:resnet34", dataset="cifar100").study_name == "resnet34-cifar100"
    assert (
        StudyConfig(backbone="nets/mine.py:make", dataset="folder:/data/my photos").study_name
        == "make-my-photos"
    )


def test_a_password_is_not_in_the_dict() -> None:
    config = StudyConfig(storage="postgresql://me:s3cret@host/db")
    assert "s3cret" not in str(config.to_dict())


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
)


@given(st.dictionaries(st.sampled_from([*StudyConfig.model_fields, "other"]), ANYTHING, max_size=6))
def test_anything_is_a_config_or_a_config_error(settings: dict[str, Any]) -> None:
    try:
        config = StudyConfig(**settings)
    except ConfigError:
        return
    assert config.total >= 0
    assert "/" not in config.study_name


def test_differences_name_each_setting() -> None:
    old = {"recipe": {"epochs": 30, "name": "fast"}, "seed": 0}
    new = {"recipe": {"epochs": 20, "name": "fast"}, "seed": 0, "fraction": 0.5}
    assert difference(old, new) == [
        "fraction: not set in the study, 0.5 now",
        "recipe.epochs: 30 in the study, 20 now",
    ]
    assert settings_digest(old) != settings_digest(new)
    assert settings_digest(old) == settings_digest({"seed": 0, "recipe": {"name": "fast", "epochs": 30}})
