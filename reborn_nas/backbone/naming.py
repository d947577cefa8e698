"""Names of what a conversion adds: `relu@1` is called as `self.relu_at1`."""

from __future__ import annotations

import re

from torch import nn


def attribute_of(site: str, owner: nn.Module, path: str) -> str:
    """The attribute that holds the activation of `site` in its owner at `path`; readable, stable and free."""
    local = site[len(path) + 1 :] if path and site.startswith(f"{path}.") else site
    name = re.sub(r"\W", "_", local.replace("@", "_at"))
    if not name.isidentifier():
        name = f"site_{name}"
    while hasattr(owner, name):
        name += "_"
    return name


def join(path: str, name: str) -> str:
    """`name` below the module at `path` ("" is the model itself)."""
    return f"{path}.{name}" if path else name
