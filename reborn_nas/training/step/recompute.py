"""Memory for time, with the same result: maps made again in the backward pass, running statistics counted once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reborn_nas.activations import spare_memory
from reborn_nas.errors import TrainingError

_Norm = nn.modules.batchnorm._NormBase
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def recompute_activations(model: nn.Module) -> None:
    """Let the blocks of `model` make their maps again, and the model its stages where it can checkpoint them.

    A checkpointed stage runs forward twice a step. Its batch norms then see each batch twice; their running
    statistics are held still the second time, else the network would be judged by others than without.

    Raises:
        TrainingError: the model has neither way.
    """
    blocks = spare_memory(model)
    switch = getattr(model, "set_grad_checkpointing", None)
    if switch is None and blocks:
        return
    if switch is None:
        raise TrainingError(
            "out of memory, and the network has no activation checkpointing to try again with"
        )
    switch(True)
    for part in model.modules():
        if isinstance(part, _Norm) and part.track_running_stats:
            part.register_forward_pre_hook(_hold)
            part.register_forward_hook(_release, always_call=True)  # recomputing may leave a forward early


def _hold(norm: Any, _: Any) -> None:
    if _in_backward() and norm.training:
        norm._held = {name: getattr(norm, name) for name in _STATISTICS}
        for name, tensor in norm._held.items():
            setattr(norm, name, None if tensor is None else tensor.clone())


def _release(norm: Any, *_: Any) -> None:
    for name, tensor in norm.__dict__.pop("_held", {}).items():
        setattr(norm, name, tensor)


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)
