"""Functions of a user's own, named so that every process of a study finds them: `file.py:function`, `module:function`.

A function itself is taken too. Where it can be imported by name, that name stands for it; where it cannot (a lambda, a
notebook's cell, a function inside of another), `here:NAME` does, which means something in this process alone.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

__all__ = ["HERE", "Function", "function_name", "is_factory", "is_here", "live_function", "source_digest"]

HERE = "here:"
_FORM = "path/to/file.py:function, package.module:function, or a function"

_live: dict[str, Any] = {}
"""What this process was given itself, by its name."""


def function_name(value: Any) -> str:
    """The name of a function, or of an object such as example inputs. Raises ValueError."""
    if isinstance(value, str):
        place, _, name = value.rpartition(":")
        dotted = all(part.isidentifier() for part in place.split("."))
        path = place.endswith(".py") or "/" in place or os.sep in place
        if value.startswith(HERE) and len(value) > len(HERE):
            return value
        if not place or not name.isidentifier() or not (path or dotted):
            raise ValueError(_FORM)
        return value
    if value is None or isinstance(value, bool | int | float):
        raise ValueError(_FORM)
    name = _importable(value) or f"{HERE}{_plain(value)}"
    if name in _live and _live[name] is not value and is_here(name):
        name += f"_{source_digest(value)[:8]}"
    _live[name] = value
    return name


def is_factory(dataset: str) -> bool:
    """Whether the name of a data set is that of a function that returns it: `file.py:function`, `module:function`."""
    if dataset.startswith("folder:"):
        return False
    try:
        return function_name(dataset) == dataset and not is_here(dataset)
    except ValueError:
        return False


def is_here(name: str | None) -> bool:
    """Whether the name means something in one process only."""
    return name is not None and name.startswith(HERE)


def live_function(name: str) -> Any:
    """What this process was given under the name; None for nothing."""
    return _live.get(name)


def source_digest(value: Any) -> str:
    """Of a function that no file holds: SHA-256 of its source, or of its code where there is no source."""
    try:
        text = inspect.getsource(value)
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        text = repr(value) if code is None else f"{code.co_code!r} {code.co_consts!r} {code.co_names!r}"
    return hashlib.sha256(text.encode()).hexdigest()


def _importable(value: Any) -> str | None:
    """`module:function` where another process finds this very function under that name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not callable(value) or not isinstance(module, str) or not name.isidentifier() or module == "__main__":
        return None
    found = sys.modules.get(module)
    if found is None or getattr(found, name, None) is not value:
        return None
    file = getattr(found, "__file__", None)
    return f"{module}:{name}" if file is not None and Path(file).suffix == ".py" else None


def _plain(value: Callable[..., Any] | Any) -> str:
    name = getattr(value, "__qualname__", type(value).__name__)
    return re.sub(r"\W+", "_", name).strip("_") or "function"


Function = Annotated[str, BeforeValidator(function_name)]
"""The field of a study's configuration."""
