"""The settings as flags of `reborn-nas search`, made from the fields of `StudyConfig`, and back: a run's command."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic.fields import FieldInfo

from reborn_nas.commands import command_line
from reborn_nas.errors import ConfigError
from reborn_nas.files import write_atomic
from reborn_nas.metric.classification import read_metric
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.config.objectives import named_objectives
from reborn_nas.study.config.urls import STORAGE_VARIABLE, mask_url
from reborn_nas.study.config.values import plain_types

__all__ = [
    "SETTINGS_FILE",
    "Flag",
    "needed_settings",
    "resume_command",
    "setting_flags",
    "with_settings",
    "write_settings",
]

Function = TypeVar("Function", bound=Callable[..., Any])

SETTINGS_FILE = "study.yaml"
"""In the run folder: the settings that the study was asked for, for `--config`."""

_OPTIONS = {
    "backbone_arguments": "--model-arg",
    "optimizer_args": "--optimizer-arg",
    "schedule_args": "--schedule-arg",
    "loss_args": "--loss-arg",
}
"""Settings whose flag has another name; all others have their own."""


@dataclass(frozen=True)
class Flag:
    """How one setting is written on the command line.

    Args:
        setting: its name in `StudyConfig`.
        option: such as `--max-params`.
        kind: whole and number: of a value; switch: `--compile`, `--no-compile`; pairs: `NAME=VALUE`, repeated.
        group, metavar, choices: as in `fields.setting`.
        help: one clause.
    """

    setting: str
    option: str
    kind: Literal["text", "whole", "number", "switch", "pairs"]
    group: str
    metavar: str
    choices: tuple[str, ...]
    help: str

    def words(self, value: Any) -> list[str] | None:
        """The words of a command that give the setting this value; None where no words do."""
        if self.kind == "switch":
            return [self.option if value else f"--no-{self.option[2:]}"]
        if self.kind == "pairs":
            texts = [f"{name}={_pair_text(inner)}" for name, inner in value.items()]
            if not texts or not all(name.isidentifier() for name in value):
                return None
            return [word for text in texts for word in self._with_value(text)]
        if isinstance(value, dict):  # a recipe that was read from a file
            return None
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return self._with_value(text)

    def _with_value(self, text: str) -> list[str]:
        """Two words; one where argparse would take the value for an option."""
        return [f"{self.option}={text}"] if text.startswith("-") or not text else [self.option, text]


@cache
def setting_flags() -> tuple[Flag, ...]:
    """A flag for each setting, in the order of the fields."""
    return tuple(_flag(name, field) for name, field in StudyConfig.model_fields.items())


def _flag(name: str, field: FieldInfo) -> Flag:
    extra: Mapping[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    bases = plain_types(field.annotation)
    kinds: tuple[tuple[type, Literal["whole", "number", "switch", "pairs"]], ...] = (
        (bool, "switch"), (dict, "pairs"), (int, "whole"), (float, "number"),
    )  # fmt: skip
    kind: Any = next((kind for base, kind in kinds if bases == {base}), "text")
    return Flag(
        setting=name,
        option=_OPTIONS.get(name, f"--{name.replace('_', '-')}"),
        kind="text" if extra["metavar"] == "TIME" else kind,
        group=str(extra["group"]),
        metavar=str(extra["metavar"]),
        choices=tuple(extra["choices"]),
        help=field.description or "",
    )


def _pair_text(value: Any) -> str:
    """As `read_pair` reads it back: text that is not JSON by itself is not quoted."""
    if isinstance(value, str) and read_pair(f"x={value}") == ("x", value):
        return value
    return json.dumps(value, ensure_ascii=False)


def read_pair(text: str) -> tuple[str, Any]:
    """`name=value` with a JSON value, or else text. Raises ValueError."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise ValueError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def with_settings(function: Function) -> Function:
    """`function` with each setting as a keyword argument in its signature and documentation, not `**settings`."""
    own = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
    settings = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(), annotation=field.annotation
        )
        for name, field in StudyConfig.model_fields.items()
    ]
    returns = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature([*own, *settings], return_annotation=returns)  # type: ignore[attr-defined]
    lines = "".join(f"\n        {flag.setting}: {flag.help}" for flag in setting_flags())
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nSettings:{lines}\n"
    return function


def needed_settings(config: StudyConfig) -> dict[str, Any]:
    """The fewest settings that make a configuration equal to this one: what differs from the defaults.

    Where those have no flags, what was given explicitly and has flags is preferred: `--backbone convnet5` says that
    it has no arguments.
    """
    wanted = {name: value for name, value in config.model_dump().items() if value is not None}
    forward: dict[str, Any] = {}
    for _ in wanted:
        made = _values(StudyConfig(**forward))
        differing = {name for name, value in _values(config).items() if made[name] != value} & wanted.keys()
        if differing <= forward.keys():
            break
        forward |= {name: wanted[name] for name in differing}
    if _makes(forward, config):
        for name in ("name", "trials"):  # made of other settings, where those came later
            fewer = {key: value for key, value in forward.items() if key != name}
            forward = fewer if _makes(fewer, config) else forward
    if _words(forward) is not None:
        return _in_order(forward)
    backward = {name: value for name, value in wanted.items() if name != "adopt"}
    for name in sorted(backward, key=lambda one: _words({one: backward[one]}) is not None):
        fewer = {key: value for key, value in backward.items() if key != name}
        if _makes(fewer, config):
            backward = fewer
    return _in_order(backward if _words(backward) is not None else forward)


def _in_order(settings: Mapping[str, Any]) -> dict[str, Any]:
    """In the order of the fields; among the objectives the metric by its own name, as a user writes it."""
    found = {name: settings[name] for name in StudyConfig.model_fields if name in settings}
    if "objectives" in found and found.get("metric") is not None:
        found["objectives"] = named_objectives(found["objectives"], read_metric(found["metric"]))
    return found


def _values(config: StudyConfig) -> dict[str, Any]:
    """What makes two configurations equal: how a study is asked for, not whether it may differ."""
    data = config.model_dump()
    data |= {"name": config.study_name, "trials": config.total}
    del data["adopt"]
    return data


def _makes(settings: Mapping[str, Any], config: StudyConfig) -> bool:
    try:
        return _values(StudyConfig(**settings)) == _values(config)
    except ConfigError:
        return False


def _words(settings: Mapping[str, Any]) -> list[str] | None:
    """The words of a command for `settings`; None where one of them has no flag."""
    flags = {flag.setting: flag for flag in setting_flags()}
    found: list[str] = []
    for name, value in settings.items():
        words = flags[name].words(value)
        if words is None:
            return None
        found += words
    return found


def resume_command(config: StudyConfig) -> str:
    """The command line that continues the run, or repeats it in another folder.

    Settings without a flag are read from the file that the run has written. A storage's password is not printed: it
    is read from the environment.
    """
    settings = needed_settings(config)
    secret = config.storage is not None and mask_url(config.storage) != config.storage
    if secret:
        settings.pop("storage", None)
    words = _words(settings)
    if words is None:
        words = ["--config", str(config.folder / SETTINGS_FILE), "--run", str(config.folder)]
        if config.trials is not None:  # the file has those of its own time
            words += ["--trials", str(config.trials)]
    line = command_line("reborn-nas", "search", *words)
    return f'{line} --storage "${STORAGE_VARIABLE}"' if secret else line


def write_settings(config: StudyConfig) -> Path:
    """Write the settings that the study was asked for into its folder, as a file for `--config`; no password in it."""
    settings = StudyConfig.model_construct(**needed_settings(config)).model_dump(
        mode="json", exclude_unset=True
    )
    if "storage" in settings and mask_url(settings["storage"]) != settings["storage"]:
        del settings["storage"]
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else "{}\n"
    intro = f"# The settings of this run: reborn-nas search --config {SETTINGS_FILE}\n"
    return write_atomic(config.folder / SETTINGS_FILE, intro + text)
