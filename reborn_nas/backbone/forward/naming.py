"""Names of what a conversion adds: `relu@1` is called as `self.relu_at1`."""

from __future__ import annotations

import hashlib
import re

from torch import nn


def attribute_of(site: str, owner: nn.Module, path: str) -> str:
    """The attribute that holds the activation of `site` in its owner at `path`; readable, stable and free.

    Two sites of one owner never get the same one: what an identifier cannot spell is told apart by a digest.
    """
    local = site[len(path) + 1 :] if path and site.startswith(f"{path}.") else site
    name = re.sub(r"\W", "_", local.replace("@", "_at"))
    if re.search(r"[^\w.@]", local) or (hasattr(owner, name.rpartition("_at")[0]) and "." in local):
        name += f"_{hashlib.sha256(local.encode()).hexdigest()[:6]}"
    if not name.isidentifier():
        name = f"site_{name}"
    while hasattr(owner, name):
        name += "_"
    return name


def join(path: str, name: str) -> str:
    """`name` below the module at `path` ("" is the model itself)."""
    return f"{path}.{name}" if path else name
