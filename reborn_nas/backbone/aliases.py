"""One activation object that is registered under several names becomes one object a name.

`act = nn.ReLU(); nn.Sequential(conv1, act, conv2, act)` has one module at two places. It holds nothing, so
copies compute the same, and each place can then be set by itself.
"""

from __future__ import annotations

import copy

from torch import nn


def unshare(model: nn.Module) -> nn.Module:
    """Give every registered name of a stateless activation its own copy, in place; the first name keeps the object."""
    seen: set[int] = set()
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is None or not _is_stateless_activation(child):
                continue
            if id(child) in seen:
                parent._modules[name] = copy.copy(child)
            seen.add(id(child))
    return model


def _is_stateless_activation(module: nn.Module) -> bool:
    home = type(module).__module__
    if not home.startswith(("torch.nn.modules.activation", "timm.layers.activations")):
        return False
    return not (module._parameters or module._buffers or module._modules)
