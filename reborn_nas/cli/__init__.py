"""The command `reborn-nas`: one file per verb."""

from reborn_nas.cli.main import main

__all__ = ["main"]
