"""From a choice to a module, and what it costs."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reborn_nas.activations.base import INITS, complete, get_family
from reborn_nas.activations.layout import layout_of
from reborn_nas.architecture import ORIGINAL, Choice, Scalar
from reborn_nas.errors import SiteError


def build_activation(
    name: str | Choice,
    channels: int,
    *,
    layout: str = "nchw",
    original: nn.Module | None = None,
    init: str = "xavier",
    **options: Scalar,
) -> nn.Module:
    """A new module that activates maps of `channels` channels.

    Args:
        name: a registered name, a label such as "reborn(kernel_size=5)", or a `Choice`.
        channels: C of the input.
        layout: "nchw" (B, C, H, W), "nhwc" (B, H, W, C), "nc" (B, C); "ncl" (B, C, L) of signals, "ncdhw"
            (B, C, D, H, W) and "ndhwc" of volumes and videos, with that dimension's own layers; or tokens "nlc"
            (B, L, C), which only point-wise activations admit.
        original: the activation that the site has now; used where `positive="original"` (ReLU if None).
        init: "xavier" draws every weight from Xavier's uniform distribution (the paper, Sec. 4.3); "preserve"
            starts at the function of a ReLU parent (any parent with `positive="original"`) where the family
            can: reborn, positive_twin, crelu, extended_conv and prelu.
        options: the family's options.

    Returns:
        An `nn.Module` with the attributes `channels` and `out_channels`.

    Raises:
        UnknownNameError: no such activation.
        SiteError: an option, layout or channel count that it cannot take.

    Example:
        >>> block = build_activation("reborn", channels=64, kernel_size=3, compression="1x1")
        >>> block(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """
    choice = Choice.parse(name) if isinstance(name, str) else name
    choice = complete(Choice(choice.name, **{**choice.options, **options}))
    if choice == ORIGINAL:
        raise SiteError("'original' is what the site has already; there is nothing to build, keep the module")
    family = get_family(choice.name)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise SiteError(f"activation {choice.label!r}: channels is a whole number ≥ 1, not {channels!r}")
    if init not in INITS:
        raise SiteError(f"activation {choice.label!r}: init is one of {', '.join(INITS)}, not {init!r}")
    allowed = family.layouts(**choice.options)
    if layout not in allowed:
        names = ", ".join(sorted(allowed))
        raise SiteError(f"activation {choice.label!r} works in the layouts {names}, not {layout!r}")
    return family.build(channels, layout=layout, original=original, init=init, **choice.options)


def extra_cost(choice: Choice | str, channels: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and MACs that `choice` adds to a site, counted on the meta device.

    Args:
        choice: what stands at the site; "original" costs nothing.
        channels: C of the site.
        shape: (C, H, W) of one image's map, (C, L) or (C, D, H, W); (C,) counts as a 1×1 map.

    Returns:
        (parameters, MACs of one image). A MAC is one multiply-accumulate of a convolution; norms and
        point-wise operations count nothing. The widened consumers of a doubled site are not in it.
    """
    return _extra_cost(complete(choice), channels, tuple(shape[1:]) or (1, 1))


@lru_cache(maxsize=65536)
def _extra_cost(choice: Choice, channels: int, size: tuple[int, ...]) -> tuple[int, int]:
    if choice == ORIGINAL:
        return 0, 0
    with torch.device("meta"), torch.no_grad():
        module = build_activation(choice, channels, layout=layout_of(size)).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            module(torch.empty(1, channels, *size))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2
