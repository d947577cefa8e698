"""Settings, flags and the printed command are one description: whatever was asked for is asked for again by pasting."""

from __future__ import annotations

import argparse
import inspect
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import reborn_nas as rn
from reborn_nas.cli.main import parser
from reborn_nas.cli.verbs.search import given_settings
from reborn_nas.errors import ConfigError
from reborn_nas.records import TrialRecord
from reborn_nas.study import Phase, PlanView, RunResult, StudyConfig, load_config
from reborn_nas.study.config.flags import needed_settings, resume_command, setting_flags, write_settings
from reborn_nas.study.config.keywords import Settings
from reborn_nas.study.config.values import read_duration

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "backbone": st.sampled_from(["convnet5", "resnet34", "torchvision:resnet18", "my nets/é.py:make"]),
    "backbone_arguments": st.dictionaries(
        st.sampled_from(["width", "depth", "no-name"]),
        st.one_of(
            st.sampled_from([0.25, 1, -3, True, None, "3", "plain", "null", "a b", "x=y", '"q"', [1, "a"]]),
            st.text(max_size=4),
        ),
        max_size=2,
    ),
    "stem": st.sampled_from(["small", "original"]),
    "dataset": st.sampled_from(["digits", "cifar10", "folder:my photos #1", "folder:it's"]),
    "data_dir": st.sampled_from([Path("odd name ü #1"), Path("-dash"), Path("$HOME")]),
    "image_size": st.integers(4, 4096),
    "fraction": st.floats(1e-9, 1),
    "contrast": st.sampled_from(["reborn:silu", "reborn(kernel_size=3):original", "crelu:relu"]),
    "recipe": st.sampled_from(["fast", "paper"]),
    "init": st.sampled_from(["xavier", "kaiming", "default", "parent", "scratch"]),
    "precision": st.sampled_from(["auto", "fp32"]),
    "objectives": st.sampled_from([("accuracy",), ("accuracy", "params"), "accuracy,macs"]),
    "max_latency": st.sampled_from(["5ms", "1.5x"]),
    "run": st.sampled_from([Path("odd name ü #1"), Path("-runs/x"), Path("a'b")]),
    "name": st.sampled_from(["mine", "a.b-c+d"]),
    "storage": st.sampled_from(["journal:///tmp/a b/s.journal", "sqlite:///x.db"]),
    "devices": st.sampled_from([("cpu", "cpu"), "0,1", ()]),
    "device": st.sampled_from(["auto", "cpu", "cuda:1"]),
    "timeout": st.sampled_from([90, "30min", "1h30m", 1e7, 0.5]),
    "seed": st.integers(0, 2**63 - 1),
    "artifacts": st.sampled_from(["/shared", "s3://bucket/prefix"]),
    "parent": st.just(Path("parent.safetensors")),
}


def asked(command: str) -> StudyConfig:
    """The configuration that a pasted command makes."""
    words = shlex.split(command)
    assert words[:2] == ["reborn-nas", "search"]
    args: argparse.Namespace = parser().parse_args(words[1:])
    return load_config(args.config, **given_settings(args))


def same(one: StudyConfig, other: StudyConfig) -> bool:
    return {**one.to_dict(), "adopt": None} == {**other.to_dict(), "adopt": None}


def _any_value(name: str) -> st.SearchStrategy[Any]:
    if name in VALUES:
        return VALUES[name]
    flag = next(flag for flag in setting_flags() if flag.setting == name)
    if flag.kind == "switch":
        return st.booleans()
    return st.sampled_from([1, 2, 16] if flag.kind == "whole" else [0.5, 1e-5, 0.1])


PLAIN = sorted(VALUES.keys() | {flag.setting for flag in setting_flags() if flag.kind != "text"})


@settings(max_examples=60)
@given(st.data())
def test_a_pasted_command_asks_for_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(PLAIN), unique=True, max_size=5))
    asked_for = {name: data.draw(_any_value(name)) for name in names}
    folder = tmp_path_factory.mktemp("run") / "odd name ü #1"
    if "run" in asked_for:  # the file of settings goes there
        asked_for["run"] = folder / asked_for["run"]
    try:
        config = load_config(**asked_for)  # as `search` does: what does not go together is refused here
    except ConfigError:
        return
    if "--config" in (command := resume_command(config)):
        config = config.replace(run=folder)
        write_settings(config)
        command = resume_command(config)
    assert same(asked(command), config), command
    stored = json.loads(json.dumps(config.to_dict()))
    kept = {name: value for name, value in stored.items() if value is not None}
    assert same(StudyConfig(**needed_settings(StudyConfig(**kept))), config), (
        "as it is read back from the run"
    )


def test_the_newcomers_command_is_short() -> None:
    assert resume_command(StudyConfig()) == "reborn-nas search"
    assert (
        resume_command(StudyConfig(**StudyConfig().model_dump(exclude={"run", "storage"})))
        == "reborn-nas search"
    )
    assert resume_command(StudyConfig(backbone_arguments={})) == "reborn-nas search --backbone convnet5"
    assert resume_command(StudyConfig(backbone="convnet5")) == "reborn-nas search --backbone convnet5"
    assert (
        resume_command(StudyConfig(trials=80, momentum=0.8)) == "reborn-nas search --momentum 0.8 --trials 80"
    )


def test_a_setting_without_a_flag_is_read_from_the_runs_file(tmp_path: Path) -> None:
    folder = tmp_path / "odd name"
    config = StudyConfig(backbone_arguments={"no-name": {"a": 1e-5}}, run=folder, epochs=3)
    write_settings(config)
    command = resume_command(config)
    file, place = (shlex.quote(str(path)) for path in (folder / "study.yaml", folder))
    assert command == f"reborn-nas search --config {file} --run {place}"
    assert same(asked(command), config)


def test_what_has_no_flag_does_not_hide_how_many_trainings(tmp_path: Path) -> None:
    """The file has the number of its own time."""
    config = StudyConfig(recipe={"base": "adamw", "warmup": 0.1}, run=tmp_path, trials=20)
    write_settings(config)
    command = resume_command(config.replace(trials=240))
    assert command.endswith(f"--run {shlex.quote(str(tmp_path))} --trials 240")
    assert same(asked(command), config.replace(trials=240))


def test_a_password_is_asked_of_the_environment(tmp_path: Path) -> None:
    config = StudyConfig(storage="postgresql://me:s3cret@db/x", name="mine", run=tmp_path)
    assert resume_command(config).endswith(' --storage "$REBORN_NAS_STORAGE"')
    assert "s3cret" not in write_settings(config).read_text()


def test_every_setting_is_described() -> None:
    groups = [flag.group for flag in setting_flags()]
    assert len(set(groups)) == 6
    assert all(flag.help and flag.group for flag in setting_flags())
    assert [flag.setting for flag in setting_flags()] == list(StudyConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30min", 1800), ("30 m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5 hours", 5400),
     ("1e7", 1e7), ("2d", 172800)],
)  # fmt: skip
def test_durations_mean_the_same_everywhere(text: str, seconds: float, tmp_path: Path) -> None:
    assert read_duration(text) == seconds
    args = parser().parse_args(["search", "--timeout", text, "--hang-after", text])
    path = tmp_path / "study.yaml"
    path.write_text(f"timeout: {text}\nhang_after: {text}\n")
    for config in (load_config(**given_settings(args)), load_config(path)):
        assert (config.timeout, config.hang_after) == (seconds, seconds)
    assert parser().parse_args(["worker", "--study", "x", "--timeout", text]).timeout == seconds


@pytest.mark.parametrize("text", ["", "0", "-5s", "5 parsecs", "h", "1h 30", "nan", "inf", "1e999"])
def test_what_is_no_duration(text: str) -> None:
    if text == "1h 30":
        assert read_duration(text) == 3630
        return
    with pytest.raises(ValueError, match="30min"):
        read_duration(text)


def test_search_takes_every_setting_by_name_and_documents_it() -> None:
    parameters = inspect.signature(rn.search).parameters
    assert list(parameters)[3:] == list(StudyConfig.model_fields)
    assert parameters["contrast"].default == "reborn:original"
    assert not any(one.kind is one.VAR_KEYWORD for one in parameters.values()), "a misspelt name is seen"
    for flag in setting_flags():
        assert f"{flag.setting}: {flag.help}" in (rn.search.__doc__ or "")


def test_the_types_that_editors_show_are_those_of_the_settings() -> None:
    hints = get_type_hints(Settings)
    assert list(hints) == list(StudyConfig.model_fields)
    for name, field in StudyConfig.model_fields.items():
        TypeAdapter(hints[name]).validate_python(getattr(StudyConfig(), name))
        optional = type(None) in get_args(field.annotation)
        assert (type(None) in get_args(hints[name])) == optional, name


def test_a_run_prints_itself_in_a_line() -> None:
    config = StudyConfig(name="mine")
    phases = (Phase("screen", 8), Phase("control", 0, "needs <48>"))
    plan = PlanView(SimpleNamespace(config=config), phases, ())  # type: ignore[arg-type]
    record = TrialRecord("screen/0", "screen", "design", 0, "complete", {"choices": {"x": "y" * 9999}})
    run = RunResult(
        Path("runs/mine"),
        "mine",
        plan,
        (record,),
        None,
        "",
        False,
        False,
        False,
        False,
        1.0,
        "reborn-nas search",
    )
    assert repr(run) == "<RunResult 'mine' in 'runs/mine': 1 of 8 trainings, not complete>"
    assert repr(plan) == "<PlanView 'mine': 0 of 8 trainings done; screen 8>"
    page = run._repr_html_()
    assert "1 of 8" in page
    assert "&lt;48&gt;" in page
    assert "reborn-nas search" in page
