"""timm models of reborn-nas; importing this room registers them."""

from reborn_nas.models.adapter import TimmAdapter
from reborn_nas.models.converted import build_network, reborn_model
from reborn_nas.models.convnet import ConvNet, convnet5, convnet8, convnet13

__all__ = [
    "ConvNet",
    "TimmAdapter",
    "build_network",
    "convnet5",
    "convnet8",
    "convnet13",
    "reborn_model",
]
