"""timm models of reborn-nas; importing this package registers them."""

from reborn_nas.models.adapter import TimmAdapter
from reborn_nas.models.converted import build_network, reborn_model
from reborn_nas.models.convnet import ConvNet, convnet5, convnet8, convnet13
from reborn_nas.models.paper_resnet import PaperResNet, paper_resnet34

__all__ = [
    "ConvNet",
    "PaperResNet",
    "TimmAdapter",
    "build_network",
    "convnet5",
    "convnet8",
    "convnet13",
    "paper_resnet34",
    "reborn_model",
]
