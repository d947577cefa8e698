"""The block of a network that a site belongs to: the unit of repetition, such as `layer1.0`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


class BlockFinder:
    """Finds blocks by path; counts each module's weighted layers once.

    Going down from the model, plain containers are passed through, and so is a stage: a module that holds blocks
    (modules of two or more convolutions) of one class, or a container of them. What comes next is the block.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._weighted: dict[str, int] = {}
        for path, module in modules.items():
            if isinstance(module, _WEIGHTED):
                parts = path.split(".")
                for end in range(1, len(parts) + 1):
                    prefix = ".".join(parts[:end])
                    self._weighted[prefix] = self._weighted.get(prefix, 0) + 1

    def block(self, path: str) -> str:
        """The path of the block that holds the module at `path`; "" for the model's own forward."""
        parts = path.split(".") if path else []
        for end in range(1, len(parts)):
            here, below = ".".join(parts[:end]), ".".join(parts[: end + 1])
            if not self._is_stage(here, below, ".".join(parts[: end + 2])):
                return here
        return path

    def _is_stage(self, here: str, below: str, beyond: str) -> bool:
        module, child = self._modules.get(here), self._modules.get(below)
        if type(module) in _CONTAINERS or (
            isinstance(module, _CONTAINERS) and self._weighted.get(below, 0) >= 2
        ):
            return True
        if module is None or child is None:
            return False
        if type(child) in _CONTAINERS:
            return beyond != below and self._weighted.get(beyond, 0) >= 2
        if self._weighted.get(below, 0) < 2:
            return False
        sizes = [name for name, kin in module.named_children() if type(kin) is type(child)]
        return len(sizes) >= 2 and all(self._weighted.get(f"{here}.{name}", 0) >= 2 for name in sizes)
