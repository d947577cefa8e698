"""Settings of `StudyConfig` as flags of a verb, and the given values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from reborn_nas.study.config.flags import Flag, read_pair

SETTING = "setting_"
"""Prefix of the names of settings in argparse's namespace."""


def add_setting(group: Any, flag: Flag) -> dict[str, Any]:
    """Add the flag of a setting of `StudyConfig`, None by default; returns the arguments of its declaration."""
    shared: dict[str, Any] = {
        "dest": SETTING + flag.setting,
        "help": flag.help.replace("%", "%%"),
        "default": None,
    }
    if flag.kind == "switch":
        how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
    elif flag.kind == "pairs":
        how = {"action": "append", "type": _reader(read_pair), "metavar": flag.metavar}
    elif flag.choices:
        how = {"choices": flag.choices}
    else:
        how = {"type": _type(flag), "metavar": flag.metavar}
    group.add_argument(flag.option, **how, **shared)
    return {**how, **shared}


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line, with the names of `StudyConfig`."""
    values = {name.removeprefix(SETTING): one for name, one in vars(args).items() if name.startswith(SETTING)}
    return {
        name: dict(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def _type(flag: Flag) -> Callable[[str], Any]:
    if flag.kind == "whole":
        return _reader(int, "a whole number")
    if flag.kind == "number":
        return _reader(float, "a number")
    return str


def _reader(read: Callable[[str], Any], what: str = "") -> Callable[[str], Any]:
    """`read`, with messages that argparse shows unchanged."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}" if what else str(error)) from None

    return reading
