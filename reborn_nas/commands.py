"""Printed commands, quoted so that they can be pasted into a shell."""

from __future__ import annotations

import os
import shlex
from importlib import metadata
from pathlib import Path

__all__ = ["NETWORK", "command_line", "install_line", "load_line"]

NETWORK = "network.json"
"""File in the export of a network that is not a classifier, from which it is rebuilt."""


def command_line(*words: str | os.PathLike[str]) -> str:
    """The words as one line for a POSIX shell; a path that starts with a dash is not read as an option."""
    texts = []
    for word in words:
        text = os.fspath(word)
        texts.append(f"./{text}" if isinstance(word, os.PathLike) and text.startswith("-") else text)
    return shlex.join(texts)


def load_line(folder: str | os.PathLike[str]) -> str:
    """The line of Python that loads an exported folder; its source code is run only on request."""
    found = Path(folder)
    also = ", trust_source=True" if any(found.glob("*.py")) else ""
    place = str(os.fspath(folder)).replace("\\", "\\\\").replace('"', '\\"')
    if (found / NETWORK).is_file():
        return f'import reborn_nas; reborn_nas.load("{place}"{also})'
    return f'import reborn_nas, timm; timm.create_model("local-dir:{place}", pretrained=True{also})'


def install_line(extra: str) -> str:
    """The command that installs the packages of an optional extra, for any source of reborn-nas."""
    try:
        required = metadata.requires("reborn-nas") or []
    except metadata.PackageNotFoundError:
        required = []
    marks = (f'extra == "{extra}"', f"extra == '{extra}'")
    found = [line.partition(";")[0].strip() for line in required if line.endswith(marks)]
    return command_line("pip", "install", *(found or [f".[{extra}]"]))
