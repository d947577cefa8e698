"""Run a network under a `ProgramRecorder` with its sites marked, and record its program, output and gradients.

In a converted network a site is a module inserted by conversion. In the original network it is a call at a place in the
source, and its replacement is applied in flight: to a copy of its input, or in place if the original was in place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from reborn_nas.backbone.load.third_party import SEED, quiet, random_states
from reborn_nas.backbone.proof.program import Program, ProgramRecorder
from reborn_nas.backbone.sites.site import Site
from reborn_nas.backbone.trace.call_site import SpanFinder
from reborn_nas.backbone.trace.graph import CallSpan, Progress, module_step
from reborn_nas.backbone.trace.record import function_name, subclasses
from reborn_nas.backbone.trace.replica import replace_tensors, tensors_in

PART = ""


class Marks(TorchFunctionMode):
    """Tracks the running modules, and marks the calls that are sites.

    It is a function mode for both networks, since torch takes different paths under one, such as that of attention.
    """

    def __init__(self, model: nn.Module, recorder: ProgramRecorder) -> None:
        super().__init__()
        self.model, self.recorder = model, recorder
        self.stack: list[tuple[str, nn.Module, int]] = []  # path, module, index of the call
        self.calls = 0
        self.pending: list[str | None] = []
        self.parts: list[Any] = []

    def site_of_call(self, path: str, module: nn.Module, args: Any) -> str | None:
        """The site of a module's call, if any; PART if the call is a part of an expression that is a site."""
        raise NotImplementedError

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach hooks to all modules inside the context. They return None: a return value would replace the output."""
        handles: list[Any] = []
        for path, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(path), prepend=True))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            site = None if self.recorder.in_site else self.site_of_call(path, module, args)
            self.pending.append(site)
            self.stack.append((path, module, self.calls))
            self.calls += 1
            if site is None:
                self.recorder.event("enter", path)
            elif site == PART:
                self.parts.append(self.recorder.part())
                self.parts[-1].__enter__()

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        path, _, _ = self.stack.pop()
        site = self.pending.pop()
        if site is None:
            self.recorder.event("exit", path)
        elif site == PART:
            self.parts.pop().__exit__(None, None, None)


class Converted(Marks):
    """Marks a converted network. Args: paths: module path → site."""

    def __init__(self, model: nn.Module, recorder: ProgramRecorder, paths: Mapping[str, str]) -> None:
        super().__init__(model, recorder)
        self.paths = paths
        for path, site in paths.items():
            module = model.get_submodule(path)
            module.forward = self._marked(module.forward, site)

    def site_of_call(self, path: str, module: nn.Module, args: Any) -> str | None:
        return self.paths.get(path)

    def _marked(self, own: Callable[..., Any], site: str) -> Callable[..., Any]:
        def forward(x: Tensor) -> Any:
            with self.recorder.site(site, (x,)) as close:
                result = own(x)
                close(result)
            return result

        return forward


class _Context:
    """A context for the forward of a `torch.autograd.Function` without a backward pass."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (True,) * count

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep nothing."""

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_backward


@contextmanager
def _without_functions(names: Collection[str]) -> Iterator[None]:
    """Run only the forward of these `torch.autograd.Function`s: stand-ins are differentiated instead."""

    def direct(function: Any) -> Callable[..., Any]:
        plain = function.setup_context is not torch.autograd.Function.setup_context
        return lambda *args: (
            function.forward(*args) if plain else function.forward(_Context(len(args)), *args)
        )

    known = [f for f in subclasses(torch.autograd.Function) if f"{f.__module__}:{f.__qualname__}" in names]
    kept: list[tuple[Any, Any]] = [(function, vars(function).get("apply")) for function in known]
    try:
        for function, _ in kept:
            function.apply = staticmethod(direct(function))
        yield
    finally:
        for function, own in kept:
            if own is None:
                del function.apply
            else:
                function.apply = own


class Untouched(Marks):
    """Marks the original network. Args: functions: site → the function applied there in flight."""

    def __init__(
        self,
        model: nn.Module,
        recorder: ProgramRecorder,
        sites: Sequence[Site],
        functions: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> None:
        super().__init__(model, recorder)
        self.functions = functions
        self.spans = SpanFinder()
        self.uneven: dict[str, tuple[int, int]] = {}
        self._own = {site.path: site for site in sites if site.kind == "module" and site.path is not None}
        self._shared = {(s.path, s.owner, s.span, s.iteration): s for s in sites if s.kind == "shared"}
        plain = [s for s in sites if s.path is None and s.expression is None]
        self._functional = {(*_call(s), s.span, s.iteration): s for s in plain}
        written = [site for site in sites if site.expression is not None]
        self._expressions = Progress(
            {(s.owner, (_prefix(s), s.span)): s.expression for s in written if s.expression}
        )
        self._written = {(s.owner, (_prefix(s), s.span), s.iteration): s for s in written}
        self._applied = {site.expression.function for site in written if site.expression} - {""}
        self._now: dict[tuple[int, Any], tuple[Site | None, Tensor | None]] = {}  # state of the expressions
        self._paths = {site.path for site in sites if site.kind == "shared"}
        self._names = {name for _, name, _, _ in self._functional}
        self._repeated = {(_prefix(site), site.span) for site in sites if site.repeated}
        self._passes: dict[tuple[str, int, CallSpan | None], int] = {}
        self._inplace = {site.name: site.inplace for site in sites}
        for path in {*self._own, *self._paths} - {None}:
            module = model.get_submodule(path or "")
            module.forward = self._marked(module.forward)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach hooks to all modules inside the context; functions that are sites run without their own backward."""
        with super().attached(), _without_functions(self._applied):
            yield

    def site_of_call(self, path: str, module: nn.Module, args: Any) -> str | None:
        if path in self._own:
            return self._own[path].name
        if not self.stack or not (path in self._paths or self._expressions):
            return None
        caller, owner, call = self.stack[-1]
        span = self.spans.find(sys._getframe(2), owner)
        if self._expressions and self._step(call, caller, module_step(path), span, tuple(tensors_in(args))):
            return PART
        if path not in self._paths:
            return None
        found = self._shared.get((path, caller, span, self._passed(path, call, span)))
        return None if found is None else found.name

    def _passed(self, prefix: str, call: int, span: CallSpan | None) -> int:
        count = self._passes.get((prefix, call, span), 0)
        self._passes[prefix, call, span] = count + 1
        return 0 if (prefix, span) in self._repeated else count

    def passes(self, site: Site) -> set[int]:
        """The numbers of executions of the site per call of its owner, except zero."""
        place = (_prefix(site), site.span)
        return {n for (name, _, span), n in self._passes.items() if (name, span) == place}

    def _marked(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            site = self.pending[-1] if self.pending else None
            given = next(tensors_in((args, kwargs)), None)
            if not site or given is None or self.recorder.in_site:
                return own(*args, **kwargs)
            return self._act(site, given)

        return forward

    def _act(self, site: str, x: Tensor) -> Any:
        with self.recorder.site(site, (x,)) as close:
            if self._inplace[site]:
                result = x.copy_(self.functions[site](x.clone()))
            else:
                result = self.functions[site](x)
            close(result)
        return result

    def _step(
        self, call: int, owner: str, name: str, span: CallSpan | None, tensors: Sequence[Tensor]
    ) -> tuple[Site, Tensor | None] | None:
        """The site to which an operation or a module's call belongs, with its map if it is the last step."""
        found = self._expressions.step(call, owner, name, span)
        if found is None:
            return None
        (prefix, place), at = found
        key = (call, (owner, prefix, place))
        if at == 0:
            passed = self._passed(prefix, call, place)
            self._now[key] = (self._written.get((owner, (prefix, place), passed)), None)
        site, given = self._now[key]
        if site is None or site.expression is None:
            return None
        if at == site.expression.reader and site.expression.operand < len(tensors):
            given = tensors[site.expression.operand]
            self._now[key] = (site, given)
        return site, given if at == len(site.expression.steps) - 1 else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if self.stack and not self.recorder.in_site and name and (self._expressions or name in self._names):
            owner, module, call = self.stack[-1]
            span = self.spans.find(sys._getframe(1), module)
            part = self._step(call, owner, name, span, tuple(tensors_in((args, kwargs))))
            if part is not None:
                if part[1] is not None:
                    return self._act(part[0].name, part[1])
                with self.recorder.part():
                    return func(*args, **kwargs)
            if name not in self._names:
                return func(*args, **kwargs)
            prefix = f"{owner}.{name}".lstrip(".")
            site = self._functional.get((owner, name, span, self._passed(prefix, call, span)))
            if site is not None:
                return self._act(site.name, next(tensors_in((args, kwargs))))
        return func(*args, **kwargs)


def _prefix(site: Site) -> str:
    return site.path if site.path is not None else ".".join(filter(None, _call(site)))


def _call(site: Site) -> tuple[str, str]:
    """Owner and function of a functional site."""
    prefix = site.name.rsplit("@", 1)[0]
    return site.owner, prefix[len(site.owner) + 1 :] if site.owner else prefix


def run(
    make: Callable[[ProgramRecorder], Marks],
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    training: bool,
    gradients: bool = False,
    seed: int = 0,
) -> tuple[Program, Marks]:
    """Run `model` once and record its program, including the exception that it raises.

    Args:
        make: creates the marks of the sites.
        gradients: also run backward from the sum of its outputs.
        seed: seed of the generators of Python, numpy and torch, which are restored afterwards.
    """
    # a separate copy for each run: a network may change its inputs in place
    args, kwargs = replace_tensors((args, kwargs), lambda tensor: tensor.detach().clone())
    recorder = ProgramRecorder(model, (args, kwargs))
    marks = make(recorder)
    model.train(training)
    parameters = list(model.parameters())
    on_meta = any(tensor.is_meta for tensor in [*tensors_in((args, kwargs)), *parameters])
    with ExitStack() as stack:
        stack.enter_context(quiet("meta" if on_meta else "cpu", seed))
        stack.enter_context(torch.set_grad_enabled(training))
        stack.enter_context(marks.attached())
        stack.enter_context(_without_checkpoints(recorder))
        numbers = random_states()
        try:
            with recorder, marks:
                output = model(*args, **kwargs)
            recorder.program.drew = random_states() != numbers
            recorder.finish(output)
        except Exception as error:
            recorder.program.error = error
        else:
            if gradients and training:
                _backward(model, output, recorder.program)
    return recorder.program, marks


def _backward(model: nn.Module, output: Any, program: Program) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    terms = [t for t in tensors_in(output) if t.requires_grad and t.is_floating_point()]
    if not terms:
        return
    generator = torch.Generator().manual_seed(SEED)
    weights = [
        torch.empty_like(t)
        if t.is_meta
        else torch.rand(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)
        for t in terms
    ]
    try:
        torch.autograd.backward(terms, weights)
    except Exception as error:
        program.error = error
        return
    program.gradients = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


@contextmanager
def _without_checkpoints(recorder: ProgramRecorder) -> Iterator[None]:
    """Run checkpointed parts without checkpointing, since in-flight functions are not applied in the recomputation."""

    class Direct:
        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            with recorder.checkpoint():
                return function(*args)

    def generator(*args: Any, **kwargs: Any) -> Iterator[None]:
        with recorder.checkpoint():
            yield

    names = {
        "CheckpointFunction": Direct,
        "_checkpoint_without_reentrant_generator": generator,
        "_checkpoint_without_reentrant_generator_impl": generator,  # torch ≥ 2.14
    }
    kept = {name: getattr(checkpoint, name) for name in names if hasattr(checkpoint, name)}
    try:
        for name in kept:
            setattr(checkpoint, name, names[name])
        yield
    finally:
        for name, value in kept.items():
            setattr(checkpoint, name, value)
