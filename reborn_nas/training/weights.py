"""The weights of a whole network: drawn anew by Xavier's or Kaiming He's rule, and averaged over the steps."""

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


__all__ = ["Average"]


class Average:
    """mean ← d·mean + (1 − d)·weights after every step, of parameters and of floating-point buffers.

    d = min(decay, (1 + t)/(10 + t)) in step t, so that the start is forgotten soon (as TensorFlow's
    ExponentialMovingAverage does with its `num_updates`).

    Args:
        model: on its device, in its memory format; its tensors must stay where they are.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        live = {k: v.detach() for k, v in model.state_dict().items() if v.is_floating_point()}
        self.names, self.live = list(live), list(live.values())
        self.mean = [tensor.clone() for tensor in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step `step`, counted from 0, into the mean."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, self.live, weight)

    @torch.no_grad()
    def into_model(self) -> None:
        """Put the mean in the place of the weights."""
        for live, mean in zip(self.live, self.mean, strict=True):
            live.copy_(mean)

    def state(self) -> dict[str, Tensor]:
        """The mean as `average/<name>`."""
        return {f"average/{name}": tensor for name, tensor in zip(self.names, self.mean, strict=True)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`. Raises KeyError where a tensor is missing."""
        for name, mean in zip(self.names, self.mean, strict=True):
            mean.copy_(tensors[f"average/{name}"])
