"""Run a network once and keep its program, its output and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from reborn_nas.backbone.load.quiet import SEED, numbers_to_come, quiet
from reborn_nas.backbone.proof.marks import Marks
from reborn_nas.backbone.proof.program import Program, ProgramRecorder
from reborn_nas.backbone.trace.replica import replace_tensors, tensors_in


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
    """Run `model` once and record its program. What it raises is kept in the record.

    Args:
        make: what marks the sites.
        gradients: also run backward from the sum of what it returns.
        seed: of Python's, numpy's and torch's generators, which are put back afterwards.
    """
    # a copy of its own for each run: a network may write into what it is given
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
        numbers = numbers_to_come()
        try:
            with recorder, marks:
                output = model(*args, **kwargs)
            recorder.program.drew = numbers_to_come() != numbers
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
    """Let checkpointed parts run like any other: what acts in flight does not reach their recomputation."""

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
