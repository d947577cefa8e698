"""Substitution in flight: other activations in an untouched model, without any rewriting. The oracle of conversion.

Modules get another `forward` on the instance, functional calls are caught by a `TorchFunctionMode`; both take their
turns in the order in which the recorded run made them. What worked in place still does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from reborn_nas.backbone.sites.site import Discovery, site_values
from reborn_nas.backbone.trace.graph import Op, Trace

Function = Callable[[Tensor], Tensor]


@contextmanager
def substituted(model: nn.Module, found: Discovery, functions: Mapping[str, Function]) -> Iterator[None]:
    """Within, each site named in `functions` of the model in eval mode applies that function instead of its own."""
    run = found.eval_trace
    at_value = {
        made: (functions[site.name], site.inplace)
        for site in found.sites
        if site.name in functions
        for _, made in site_values(run, site)
    }
    turns: dict[int, list[tuple[Function, bool] | None]] = {}
    modules: dict[int, nn.Module] = {}
    inside: set[int] = set()
    paths = {site.path for site in found.sites if site.name in functions and site.path is not None}
    for call in run.calls:
        if call.path in paths:
            module = model.get_submodule(call.path)
            modules[id(module)] = module
            turns.setdefault(id(module), []).append(at_value.get(call.outputs[0]))
            inside.update(range(call.first_op, call.last_op + 1))
    functional = [site for site in found.sites if site.name in functions and site.path is None]
    names = {producer(run, made).name for site in functional for _, made in site_values(run, site)}
    calls = [op for op in run.ops if op.name in names and op.index not in inside]
    catcher = _Catcher(names, [at_value.get(op.outputs[0]) for op in calls])
    try:
        for key, module in modules.items():
            module.forward = _turn(module, iter(turns[key]))  # type: ignore[method-assign]
        with catcher:
            yield
    finally:
        for module in modules.values():
            del module.forward
    assert not catcher.left, "the model made fewer calls than the recorded run"


def producer(run: Trace, value: int) -> Op:
    """The operation that made a value; it has one."""
    op = run.producer(value)
    assert op is not None
    return op


def _turn(module: nn.Module, turns: Iterator[tuple[Function, bool] | None]) -> Callable[..., Any]:
    own = module.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        turn = next(turns)
        return own(x, *args, **kwargs) if turn is None else _applied(x, *turn)

    return forward


class _Catcher(TorchFunctionMode):
    def __init__(self, names: set[str], turns: list[tuple[Function, bool] | None]) -> None:
        super().__init__()
        self.names, self.left = names, turns

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").strip("_") in self.names:
            turn = self.left.pop(0)
            if turn is not None:
                return _applied(args[0] if args else kwargs["input"], *turn)
        return func(*args, **(kwargs or {}))


def _applied(x: Tensor, function: Function, inplace: bool) -> Tensor:
    with torch._C.DisableTorchFunction():
        result = function(x)
        return x.copy_(result) if inplace else result
