"""The weights of a whole network drawn anew: Xavier's way (paper, Sec. 4.3) or Kaiming He's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from reborn_nas.seeds import derive_seed, generator

SCHEMES: Mapping[str, Callable[..., Tensor]] = {
    "xavier": nn.init.xavier_uniform_,
    "kaiming": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
}
"""Name → uniform distribution of a weight; variances 2 / (fan in + fan out) (Glorot and Bengio 2010) and 2 / fan in (He
et al. 2015), which makes up for the half of the signal that a ReLU takes."""


def draw_weights(model: nn.Module, scheme: str, seed: int) -> None:
    """Draw every learned weight anew from the uniform distribution of `scheme`; biases become 0.

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
                SCHEMES[scheme](drawn, generator=generator(derive_seed(seed, "init", name)))
                parameter.copy_(drawn)
            elif name.rpartition(".")[2] == "bias" and name.rpartition(".")[0] in biases:
                parameter.zero_()
