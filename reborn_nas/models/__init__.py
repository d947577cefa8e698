"""timm models of reborn-nas; importing this room registers them."""

from reborn_nas.models.convnet import ConvNet, convnet5, convnet8, convnet13

__all__ = ["ConvNet", "convnet5", "convnet8", "convnet13"]
