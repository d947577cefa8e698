"""A plan is carried out and run once on the meta device, in both modes, before it is handed out."""

from __future__ import annotations

import torch
from torch import nn

from reborn_nas.backbone.load.quiet import quiet
from reborn_nas.backbone.proof.numbers import randomised
from reborn_nas.backbone.replace.apply import apply
from reborn_nas.backbone.replace.heads import Width, widths_of
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.sites.site import Discovery
from reborn_nas.backbone.trace.events import Trace
from reborn_nas.backbone.trace.inputs import arguments
from reborn_nas.backbone.trace.replica import replicate
from reborn_nas.backbone.trace.varied import numbered
from reborn_nas.errors import SiteError


def rehearsed(model: nn.Module, found: Discovery, steps: Plan) -> tuple[Width, ...]:
    """Run what `steps` makes of `model`; the widths that a timm network tells and that widening changes.

    Raises:
        SiteError: the converted network does not run.
    """
    runs = [run for run in (found.eval_trace, found.train_trace) if run is not None]
    twins: dict[str, nn.Module] = {}
    for run in runs:
        device = "cpu" if run.on_cpu else "meta"
        if device not in twins:
            twin = replicate(model, device)
            if device == "cpu" and any(parameter.is_meta for parameter in model.parameters()):
                randomised(twin)
            twins[device] = apply(twin, steps, inplace=True)
        error = _error(twins[device], found, run, device, grad=run.training)
        if (
            error is not None
            and run.training
            and _error(replicate(model, device), found, run, device, grad=True)
        ):
            error = _error(
                twins[device], found, run, device, grad=False
            )  # the network itself cannot be trained
        if error is not None:
            raise _refusal(twins[device], run, steps, error) from error
    if steps.widening is None or "meta" not in twins:
        return ()
    shapes = [found.eval_trace.values[value].shape for value in found.eval_trace.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return ()
    return widths_of(twins["meta"], model, shapes[0][1:])


def _error(twin: nn.Module, found: Discovery, run: Trace, device: str, *, grad: bool) -> Exception | None:
    """What a network raises in the mode of `run`, if anything."""
    args, kwargs = arguments(numbered(found.inputs, device))
    twin.train(run.training)
    try:
        with quiet(device), torch.set_grad_enabled(grad):
            twin(*args, **kwargs)
    except Exception as error:
        return error
    return None


def _refusal(twin: nn.Module, run: Trace, steps: Plan, error: Exception) -> SiteError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    doubled = "" if steps.widening is None else "; choose forms that keep the channels"
    mode = "train" if run.training else "eval"
    kind = type(twin).__name__
    return SiteError(f"{kind}: converted like this, the network fails in {mode} mode: {reason}{doubled}")
