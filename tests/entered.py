"""What a reader enters: the package's functions that run from the command line to the first finished training.

Runs as a script, in a process of its own in an empty folder, and prints JSON: `entered`, a list of [file, function],
and `path`, those of them that are on the stack when the training begins. What runs while modules are imported does not
count; what a thread runs does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from reborn_nas.cli.main import main

PACKAGE = str(Path(__file__).parents[1] / "reborn_nas") + os.sep
COMMAND = "search --backbone convnet5 --dataset digits --trials 8 --epochs 1 --workers 1 --run run"
TRAINING = ("training/loop.py", "train")
"""What trains one network."""
LAST = ("study/worker/loop.py", "Worker.step")
"""What returns when a training is finished and stored."""
STDOUT = sys.stdout
_OPTIMIZED = 1  # inspect.CO_OPTIMIZED: the code of a function, not of a module or a class


class Profile:
    """A profile function: collects the functions of the package, ends the process when the first training is stored."""

    def __init__(self) -> None:
        self.found: dict[CodeType, tuple[str, str]] = {}
        self.path: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return
        if event == "call" and code not in self.found and all(map(_is_function, _frames(frame))):
            self.found[code] = _name(code)
            if self.found[code] == TRAINING:
                self.path = [_name(each.f_code) for each in _frames(frame)][::-1]
        if event == "return" and self.found.get(code) == LAST:
            print(
                json.dumps({"entered": list(self.found.values()), "path": self.path}), file=STDOUT, flush=True
            )
            os._exit(0)


def _name(code: CodeType) -> tuple[str, str]:
    """The code's file, from the package's folder, and its function."""
    return code.co_filename.removeprefix(PACKAGE), code.co_qualname


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and those that wait for it, of the package alone."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            yield frame
        frame = frame.f_back


def _is_function(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & _OPTIMIZED)


if __name__ == "__main__":
    profile = Profile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    sys.stdout = sys.stderr  # of the search's own
    main(COMMAND.split())
    raise SystemExit(f"{LAST} never returned")
