"""The layers that widened channels pass by a form of their own: one table by type, for planning and for applying.

A subclass counts as its base where it has the base's forward: it only builds itself in its own way.
"""

from __future__ import annotations

from collections.abc import Iterable

from timm.layers.blur_pool import BlurPool2d
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.mixed_conv2d import MixedConv2d
from timm.layers.selective_kernel import SelectiveKernel
from timm.models.ghostnet import GhostModule, GhostModuleV2, GhostModuleV3
from torch import nn

from reborn_nas.backbone.layers.cut import CUT
from reborn_nas.backbone.layers.regrouped import REGROUPED, kind_among
from reborn_nas.backbone.layers.standardised import WIDE

__all__ = ["CUT", "CUTTING", "REGROUPED", "SPLITTING", "WIDE", "is_shuffle_block", "kind_of", "kinds_in"]

SPLITTING = (MixedConv2d, SelectiveKernel)
CUTTING: dict[type, str] = dict.fromkeys((GhostModule, GhostModuleV2, GhostModuleV3), "out_chs")
KNOWN: tuple[type, ...] = (*REGROUPED, *WIDE, *CUT, *SPLITTING, *CUTTING, CondConv2d, BlurPool2d, nn.Conv1d)


def kind_of(cls: type) -> type | None:
    """The layer of the table that a class is, or None. ShuffleNet's block counts too."""
    return cls if is_shuffle_block(cls) else kind_among(cls, KNOWN)


def is_shuffle_block(cls: type | None) -> bool:
    """Whether a class is the block of torchvision's ShuffleNet, which is slow to import."""
    home = getattr(cls, "__module__", ""), getattr(cls, "__qualname__", "")
    return home == ("torchvision.models.shufflenetv2", "InvertedResidual")


def kinds_in(model: nn.Module) -> dict[str, type]:
    """Path → layer of the table, for the modules of a network that are one."""
    found: Iterable[tuple[str, type | None]] = (
        (path, kind_of(type(module))) for path, module in model.named_modules()
    )
    return {path: kind for path, kind in found if kind is not None}
