"""Applies a plan and runs it once on the meta device, in both modes, before the plan is returned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reborn_nas.backbone.load.third_party import quiet
from reborn_nas.backbone.proof.differences import first_line
from reborn_nas.backbone.proof.stand_ins import randomised
from reborn_nas.backbone.replace.apply import apply, feature_rows
from reborn_nas.backbone.replace.plan import Plan, Width
from reborn_nas.backbone.sites.site import Discovery
from reborn_nas.backbone.trace.graph import Trace
from reborn_nas.backbone.trace.inputs import arguments, numbered
from reborn_nas.backbone.trace.replica import replicate
from reborn_nas.errors import SiteError


def rehearsed(model: nn.Module, found: Discovery, steps: Plan) -> tuple[Width, ...]:
    """Run the converted network; return the attributes of a timm network that widening changes.

    Raises:
        SiteError: the converted network does not run.
    """
    twins: dict[str, nn.Module] = {}
    for run in found.traces:
        device = "cpu" if run.on_cpu else "meta"
        if device not in twins:
            double = replicate(model, device)
            if device == "cpu" and any(parameter.is_meta for parameter in model.parameters()):
                randomised(double)
            twins[device] = apply(double, steps, inplace=True)
        error = _error(twins[device], found, run, device, grad=run.training)
        if (
            error is not None
            and run.training
            and _error(replicate(model, device), found, run, device, grad=True)
        ):
            error = _error(
                twins[device], found, run, device, grad=False
            )  # the original network cannot be trained
        if error is not None:
            raise _refusal(twins[device], run, steps, error) from error
    if steps.widening is None or "meta" not in twins:
        return ()
    shapes = [found.eval_trace.values[value].shape for value in found.eval_trace.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return ()
    return widths_of(twins["meta"], model, shapes[0][1:])


def _error(double: nn.Module, found: Discovery, run: Trace, device: str, *, grad: bool) -> Exception | None:
    """The exception that a network raises in the mode of `run`, or None."""
    args, kwargs = arguments(numbered(found.inputs, device))
    double.train(run.training)
    try:
        with quiet(device), torch.set_grad_enabled(grad):
            double(*args, **kwargs)
    except Exception as error:
        return error
    return None


def _refusal(double: nn.Module, run: Trace, steps: Plan, error: Exception) -> SiteError:
    doubled = "" if steps.widening is None else "; choose forms that keep the channels"
    mode = "train" if run.training else "eval"
    kind = type(double).__name__
    return SiteError(
        f"{kind}: converted like this, the network fails in {mode} mode: {first_line(error)}{doubled}"
    )


_WIDTHS = ("num_features", "head_hidden_size", "in_features", "hidden_size")


def widths_of(new: nn.Module, model: nn.Module, input_size: tuple[int, ...]) -> tuple[Width, ...]:
    """The attributes that timm reads and widening changes: `feature_info`, and the width from which `reset_classifier`
    makes a layer. Empty for networks not from timm.

    Args:
        new: the converted network, with widened layers.
        model: the network before conversion.
        input_size: (C, H, W) of one image.
    """
    found = _classifier_widths(new, _classifier_width(model), _classifier_width(new))
    rows = feature_rows(model)
    if rows:
        widths = zip(rows, _feature_widths(model, input_size), _feature_widths(new, input_size))
        for index, (row, old, now) in enumerate(widths):
            if old is not None and now is not None and old == row.get("num_chs") and now != old:
                found.append(Width("", "feature_info", now, index))
    return tuple(found)


def _classifier_width(model: nn.Module) -> int | None:
    """The input width of the classifier of a timm network; None if timm names none."""
    paths, layer = _classifier(model)
    return getattr(layer, "in_features", None) if paths else None


def _classifier_widths(model: nn.Module, before: int | None, now: int | None) -> list[Width]:
    if before is None or now is None or now == before:
        return []
    paths, _ = _classifier(model)
    found = []
    for path in sorted({"", *paths[:-1]}):
        holder: Any = model.get_submodule(path)
        for name in _WIDTHS:
            if vars(holder).get(name) == before and not isinstance(holder, nn.Linear):
                found.append(Width(path, name, now))
    return found


def _feature_widths(model: nn.Module, input_size: tuple[int, ...]) -> list[int | None]:
    """Output channels of each module of timm's `feature_info`, from a run on the meta device; None if not a map."""
    double = copy.deepcopy(model).to("meta").eval()
    modules = dict(double.named_modules())
    rows = feature_rows(model)
    found: list[int | None] = [None] * len(rows)

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[index] = output.shape[1] if isinstance(output, Tensor) and output.ndim == 4 else None

        return hook

    for index, row in enumerate(rows):
        if row.get("module") in modules:
            modules[row["module"]].register_forward_hook(keep(index))
    with torch.no_grad(), torch.device("meta"):
        double(torch.empty(1, *input_size))
    return found


def _classifier(model: nn.Module) -> tuple[list[str], nn.Module | None]:
    """The paths from the network's head down to its classifier, and the classifier."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("classifier")
    if not isinstance(name, str):
        return [], None
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        return [], None
    parts = name.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts) + 1)], layer
