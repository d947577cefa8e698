"""The activations of sites: a protocol, a registry, the reborn block, its rivals and controls."""

from reborn_nas.activations.base import (
    GROUP,
    INITS,
    LAYOUTS,
    ActivationFamily,
    Option,
    complete,
    family_names,
    get_family,
    register,
)
from reborn_nas.activations.catalogue import build_activation, extra_cost, registry_rows
from reborn_nas.activations.folding import Pair, fold, fold_in_place
from reborn_nas.activations.layout import CHANNELS_LAST
from reborn_nas.activations.phases import block_form
from reborn_nas.activations.pointwise import ChannelPReLU, FReLU
from reborn_nas.activations.reborn import Reborn
from reborn_nas.activations.rivals import CReLU, ExtendedConv, NormReLU
from reborn_nas.activations.sparing import spare_memory
from reborn_nas.activations.split import SplitReborn

BLOCKS = (Reborn, SplitReborn, CReLU, NormReLU, ExtendedConv)
"""Activation modules that contain layers."""

__all__ = [
    "BLOCKS",
    "CHANNELS_LAST",
    "GROUP",
    "INITS",
    "LAYOUTS",
    "ActivationFamily",
    "CReLU",
    "ChannelPReLU",
    "ExtendedConv",
    "FReLU",
    "NormReLU",
    "Option",
    "Pair",
    "Reborn",
    "SplitReborn",
    "block_form",
    "build_activation",
    "complete",
    "extra_cost",
    "family_names",
    "fold",
    "fold_in_place",
    "get_family",
    "register",
    "registry_rows",
    "spare_memory",
]
