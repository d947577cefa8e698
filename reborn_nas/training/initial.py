"""Xavier's initialisation of a whole network (paper, Sec. 4.3)."""

from __future__ import annotations

import torch
from torch import nn

from reborn_nas.seeds import derive_seed, generator


def draw_xavier(model: nn.Module, seed: int) -> None:
    """Draw every learned weight anew from Xavier's uniform distribution; biases become 0.

    Weights are the parameters of two or more dimensions. Scales and shifts of normalisations keep their 1 and 0, and
    learned slopes theirs. Each weight has a stream of its own, named after it, so that two networks
    that share a layer start with the same one there.
    """
    biases = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.ndim >= 2:
                drawn = torch.empty(parameter.shape)
                nn.init.xavier_uniform_(drawn, generator=generator(derive_seed(seed, "init", name)))
                parameter.copy_(drawn)
            elif name.rpartition(".")[2] == "bias" and name.rpartition(".")[0] in biases:
                parameter.zero_()
