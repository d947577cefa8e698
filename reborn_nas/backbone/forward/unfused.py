"""Blocks that keep their branches when timm's `reparameterize_model` fuses the others.

RepVGG, MobileOne, GhostNetV3, LeViT and their like fuse themselves by formulas for the plain convolutions and norms
that they were built of. Where one of these has another form behind doubled channels, the fused block would compute
something else: it stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from reborn_nas.backbone.forward.rewrite import rewritten

# what `reparameterize_model` calls; `fuse` gives the module that takes the place
_FUSING = ("fuse", "reparameterize", "switch_to_deploy")


@dataclass(frozen=True)
class Unfused:
    """The change of such a class. Pickled with its instances."""

    def methods(self, base: type) -> dict[str, Any]:
        """The methods that fuse, each leaving the module alone."""
        return {name: _itself if name == "fuse" else _nothing for name in _FUSING if hasattr(base, name)}


def leave_unfused(model: nn.Module, changed: Collection[str]) -> None:
    """Let every block of `model` around the modules at the paths `changed` keep its branches."""
    paths = {path[:end] for path in changed for end, letter in enumerate(path) if letter == "."}
    for path in sorted(paths | set(changed)):
        block = model.get_submodule(path)
        if block is not model and any(hasattr(block, name) for name in _FUSING):
            block.__class__ = rewritten(type(block), Unfused())


def _itself(self: nn.Module) -> nn.Module:
    return self


def _nothing(self: nn.Module) -> None:
    return None
