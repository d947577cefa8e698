"""The flags of `reborn-nas search`, one for each setting of a study."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from reborn_nas.study.config.config import OLD_NAMES
from reborn_nas.study.config.flags import Flag, read_pair, setting_flags

__all__ = ["add_settings", "given_settings"]

_PREFIX = "setting_"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, in groups; one that is not given keeps the value of --config, or the default."""
    groups: dict[str, Any] = {}
    for flag in setting_flags():
        group = groups.setdefault(flag.group, None) or parser.add_argument_group(flag.group)
        groups[flag.group] = group
        shared: dict[str, Any] = {
            "dest": _PREFIX + flag.setting,
            "help": flag.help.replace("%", "%%"),
            "default": None,
        }
        if flag.kind == "switch":
            group.add_argument(flag.option, action=argparse.BooleanOptionalAction, **shared)
        elif flag.kind == "pairs":
            group.add_argument(
                flag.option, action="append", type=_reader(read_pair), metavar=flag.metavar, **shared
            )
        elif flag.choices:
            group.add_argument(flag.option, choices=flag.choices, **shared)
        else:
            group.add_argument(flag.option, type=_type(flag), metavar=flag.metavar, **shared)
        for old, name in OLD_NAMES.items():
            if name == flag.setting:
                parser.add_argument(f"--{old}", **{**shared, "help": argparse.SUPPRESS}, type=_type(flag))


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by the names of `StudyConfig`."""
    values = {flag.setting: getattr(args, _PREFIX + flag.setting) for flag in setting_flags()}
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
    """`read`, with a message that argparse shows as it is."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}" if what else str(error)) from None

    return reading
