"""Networks whose features are taken after a second activation, in addition to the one in the forward.

In timm's nasnet, pnasnet and legacy xception, `forward_intermediates` ends each feature with an `F.relu` that repeats
the beginning of the next cell, and `feature_info` names the module that it replaces. After conversion these calls use
that module, so that the features are those of the network.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

_METHOD = "forward_intermediates"
_NETWORKS = frozenset({"NASNetALarge", "PNASNet5Large", "Xception"})


@dataclass(frozen=True)
class FeatureActivations:
    """The change of the class of such a network. Pickled with its instances."""

    def methods(self, base: type) -> dict[str, Any]:
        """The method with each `F.relu(x)` replaced."""
        function = getattr(base, _METHOD)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        text = ast.unparse(ast.fix_missing_locations(_Through().visit(tree)))
        filename = f"<reborn_nas {base.__module__}:{base.__qualname__}.{_METHOD}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        space: dict[str, Any] = {**function.__globals__, _feature.__name__: _feature}
        exec(compile(text, filename, "exec"), space)
        return {_METHOD: space[_METHOD]}


def takes_features(model: nn.Module, chosen: Collection[str | None]) -> bool:
    """Whether `model` returns features after one of the modules at the paths in `chosen`."""
    kinds = {(cls.__module__, cls.__name__) for cls in type(model).__mro__}
    known = any(module.startswith("timm.") and name in _NETWORKS for module, name in kinds)
    return known and hasattr(model, _METHOD) and any(path in chosen for path in _paths(model))


def _paths(model: Any) -> list[str]:
    return [str(entry["module"]) for entry in model.feature_info]


def _feature(model: nn.Module, number: int, x: Tensor) -> Tensor:
    """The output for `x` of the module named in `feature_info`; a pruned network has only the ReLU."""
    module: nn.Module | None = model
    for name in _paths(model)[number].split("."):
        module = getattr(module, name, None)
    result: Tensor = F.relu(x) if module is None else module(x)
    return result


class _Through(ast.NodeTransformer):
    """`F.relu(x)` in the loop over features, and after it, where the counter is one higher."""

    def __init__(self) -> None:
        self.loops = 0

    def visit_For(self, node: ast.For) -> ast.AST:
        self.loops += 1
        self.generic_visit(node)
        self.loops -= 1
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) != "F.relu":
            return node
        number = "feat_idx" if self.loops else "feat_idx - 1"
        return ast.parse(
            f"{_feature.__name__}(self, {number}, {ast.unparse(node.args[0])})", mode="eval"
        ).body
