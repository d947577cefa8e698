"""The recipes call the worker with flags that it has."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from reborn_nas.cli.main import parser

FOLDER = Path(__file__).parents[1] / "recipes"


def commands() -> list[list[str]]:
    pods = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())["spec"]["template"]["spec"]["containers"]
    lines = [line for line in (FOLDER / "slurm.sh").read_text().splitlines() if line.startswith("exec ")]
    shared = [
        line for line in (FOLDER / "mps.sh").read_text().splitlines() if line.startswith("    reborn-nas")
    ]
    return [
        *(pod["command"] for pod in pods),
        *(shlex.split(line)[1:] for line in lines),
        *(shlex.split(line.removesuffix(" &")) for line in shared),
    ]


@pytest.mark.parametrize("command", commands(), ids=["kubernetes", "slurm", "mps"])
def test_the_command_is_one_that_we_have(command: list[str]) -> None:
    assert command[0] == "reborn-nas"
    args = parser().parse_args(command[1:])
    assert (args.verb, args.study) == ("worker", "mine")
    assert args.storage is None, "it stands in the environment, not on the command line"
