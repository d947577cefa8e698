"""Layers: a registry of layer kinds by class; each plans how widened channels pass, and applies that to a module."""

from reborn_nas.backbone.layers.blocks import GhostBlock, ShuffleBlock
from reborn_nas.backbone.layers.convolutions import (
    Convolution,
    FixedFilter,
    LineConvolution,
    RoutedConvolution,
    SplittingConvolution,
)
from reborn_nas.backbone.layers.normalised import IdentityNorm, StandardisedConvolution
from reborn_nas.backbone.layers.registry import Layer, layer_of, register

__all__ = ["Layer", "layer_of", "register"]

for _kind in (
    Convolution,
    LineConvolution,
    RoutedConvolution,
    SplittingConvolution,
    FixedFilter,
    StandardisedConvolution,
    IdentityNorm,
    GhostBlock,
    ShuffleBlock,
):
    register(_kind())
