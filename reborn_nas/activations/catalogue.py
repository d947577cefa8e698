"""The built-in activations, in the order of the tables; a choice's module and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reborn_nas.activations.base import INITS, Option, complete, family_names, get_family, register
from reborn_nas.activations.layout import ANY, MAPS, layout_of
from reborn_nas.activations.pointwise import ChannelPReLU, FReLU
from reborn_nas.activations.reborn import Reborn
from reborn_nas.activations.rivals import CReLU, ExtendedConv, NormReLU
from reborn_nas.architecture import ORIGINAL, Choice, Scalar
from reborn_nas.errors import SiteError

__all__ = ["FAMILIES", "Family", "registry_rows"]

Make = Callable[..., nn.Module]


@dataclass(frozen=True)
class Family:
    """A built-in family, `base.ActivationFamily` as data.

    Args:
        name, summary, aliases, options: as in `base.ActivationFamily`.
        make: called with channels, layout, original, init and the options.
        where: supported layouts, for all options.
    """

    name: str
    summary: str
    make: Make
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    where: frozenset[str] = MAPS

    def channel_factor(self, **options: Any) -> int:
        """2 if both phases are returned uncompressed."""
        return 2 if options.get("compression") == "none" else 1

    def layouts(self, **options: Any) -> frozenset[str]:
        """The supported layouts."""
        return self.where

    def build(
        self,
        channels: int,
        *,
        layout: str = "nchw",
        original: nn.Module | None = None,
        init: str = "xavier",
        **options: Any,
    ) -> nn.Module:
        """Build a module for this number of channels."""
        module = self.make(channels, layout, original, init, **options)
        if not hasattr(module, "out_channels"):
            module.channels = module.out_channels = channels  # type: ignore[assignment]
        return module


def _plain(cls: type[nn.Module]) -> Make:
    """The plain torch module, so that tools that search for `nn.ReLU` find it."""
    return lambda channels, layout, original, init, **options: cls(**options)


def _prelu(channels: int, layout: str, original: nn.Module | None, init: str) -> nn.Module:
    """One learnt slope per channel; "preserve" starts it at 0, which is ReLU."""
    return ChannelPReLU(channels, layout, 0.0 if init == "preserve" else 0.25)


def _frelu(channels: int, layout: str, original: nn.Module | None, init: str) -> nn.Module:
    return FReLU(channels, layout)


def _crelu(channels: int, layout: str, original: nn.Module | None, init: str, **options: Any) -> nn.Module:
    return CReLU(channels, layout=layout, init=init, **options)


def _reborn(negative: bool) -> Make:
    """The block, or its control with the positive phase as input."""

    def make(
        channels: int,
        layout: str,
        original: nn.Module | None,
        init: str,
        positive: str = "relu",
        **options: Any,
    ) -> nn.Module:
        path = original if positive == "original" else None
        return Reborn(channels, positive=path, negative=negative, layout=layout, init=init, **options)

    return make


def _extended_conv(channels: int, layout: str, original: nn.Module | None, init: str) -> nn.Module:
    return ExtendedConv(channels, layout, init)


def _norm_relu(channels: int, layout: str, original: nn.Module | None, init: str) -> nn.Module:
    return NormReLU(channels, layout)


_SLOPE = {"negative_slope": Option(0.01, help="slope for x < 0", low=0.0, high=1.0)}
_BOTH = {"compression": Option("1x1", ("1x1", "none"), "back to C channels by a 1×1 convolution, or 2C")}
_BLOCK = {
    "kernel_size": Option(3, (1, 3, 5), "of the deconvolution; odd, so that the map keeps its size"),
    "compression": Option("1x1", ("1x1", "3x3", "none"), "back to C channels, or 2C returned"),
    "deconv": Option("dense", ("dense", "depthwise"), "over all channels, or per channel"),
    "positive": Option("relu", ("relu", "original"), "positive path: ReLU, or the site's own activation"),
}

FAMILIES = (
    Family("relu", "max(x, 0)", _plain(nn.ReLU), where=ANY),
    Family("leaky_relu", "x, or negative_slope·x below 0", _plain(nn.LeakyReLU), ("leakyrelu",), _SLOPE, ANY),
    Family("prelu", "x, or a learnt slope per channel times x below 0", _prelu, where=ANY),
    Family(
        "rrelu", "leaky ReLU, its slope drawn from U(1/8, 1/3) while training", _plain(nn.RReLU), where=ANY
    ),
    Family("elu", "x, or exp(x) − 1 below 0", _plain(nn.ELU), where=ANY),
    Family("selu", "ELU scaled so that activations normalise themselves", _plain(nn.SELU), where=ANY),
    Family("celu", "ELU, continuously differentiable for every α (1 here)", _plain(nn.CELU), where=ANY),
    Family("gelu", "x·Φ(x)", _plain(nn.GELU), where=ANY),
    Family("silu", "x·sigmoid(x)", _plain(nn.SiLU), ("swish",), where=ANY),
    Family("mish", "x·tanh(softplus(x))", _plain(nn.Mish), where=ANY),
    Family("hardswish", "x·relu6(x + 3)/6", _plain(nn.Hardswish), ("hard_swish",), where=ANY),
    Family("frelu", "max(x, BN(depthwise 3×3 convolution of x))", _frelu),
    Family(
        "crelu",
        "relu(x) and relu(−x), compressed by 1×1 or returned as 2C channels",
        _crelu,
        options=_BOTH,
    ),
    Family(
        "reborn",
        "relu(x) and BN(deconvolution of min(x, 0)), compressed (paper, Eq. 2)",
        _reborn(negative=True),
        options=_BLOCK,
    ),
    Family("extended_conv", "relu(x), then a 3×3 convolution (paper, Table 4)", _extended_conv),
    Family(
        "positive_twin",
        "the reborn block fed with relu(x) instead of min(x, 0): same parameters, the control of every claim",
        _reborn(negative=False),
        options=_BLOCK,
    ),
    Family("norm_relu", "BN, then ReLU", _norm_relu),
)

for _family in FAMILIES:
    register(_family)


def registry_rows() -> list[dict[str, str]]:
    """The registry as rows for a table: name, aliases, options with their values, layouts and summary of each."""
    rows = []
    for name in family_names():
        family = get_family(name)
        options = []
        for key, option in family.options.items():
            values = [f"{value}*" if value == option.default else str(value) for value in option.values]
            options.append(
                f"{key}: {' '.join(values) or f'{option.low:g} … {option.high:g}, {option.default}*'}"
            )
        rows.append(
            {
                "name": name,
                "aliases": ", ".join(family.aliases),
                "options": "; ".join(options),
                "layouts": " ".join(sorted(family.layouts())),
                "summary": family.summary,
            }
        )
    return rows


def build_activation(
    name: str | Choice,
    channels: int,
    *,
    layout: str = "nchw",
    original: nn.Module | None = None,
    init: str = "xavier",
    **options: Scalar,
) -> nn.Module:
    """Build an activation module for maps of `channels` channels.

    Args:
        name: a registered name, a label such as "reborn(kernel_size=5)", or a `Choice`.
        channels: C of the input.
        layout: "nchw" (B, C, H, W), "nhwc" (B, H, W, C), "nc" (B, C); "ncl" (B, C, L) of signals, "ncdhw"
            (B, C, D, H, W) and "ndhwc" of volumes and videos, with layers of that dimension; or tokens "nlc"
            (B, L, C), for pointwise activations only.
        original: the site's present activation; used if `positive="original"` (ReLU if None).
        init: "xavier" draws all weights from Xavier's uniform distribution (the paper, Sec. 4.3); "preserve"
            starts with the function of a ReLU parent (any parent with `positive="original"`) if the family
            can do that: reborn, positive_twin, crelu, extended_conv and prelu.
        options: options of the family.

    Returns:
        An `nn.Module` with the attributes `channels` and `out_channels`.

    Raises:
        UnknownNameError: there is no such activation.
        SiteError: an option, layout or number of channels is not supported.

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
        choice: the site's activation; "original" has no cost.
        channels: C of the site.
        shape: (C, H, W) of one image's map, (C, L) or (C, D, H, W); (C,) counts as a 1×1 map.

    Returns:
        (parameters, MACs of one image). A MAC is one multiply-accumulate of a convolution; norms and
        pointwise operations are not counted. The widened consumers of a doubled site are not included.
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
