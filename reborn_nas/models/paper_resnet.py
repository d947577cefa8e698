"""ResNet-34 in the paper's form (Sec. 4.2): strides and no pooling, for images of 32×32 and 28×28 pixels."""

# no postponed annotations here: torch.fx copies a root module's annotations into generated code
from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from reborn_nas.models.adapter import small_cfg

__all__ = ["PaperResNet", "paper_resnet34"]

STEMS = ("small", "imagenet")
CHANNELS = (64, 128, 256, 512)


class PaperResNet(ResNet):  # type: ignore[misc]  # timm has no types
    """timm's ResNet of basic blocks, whose only pooling is the final global one.

    Args:
        layers: number of blocks of each stage.
        width: factor on every convolution's channels; 0.5 is the paper's "Half" (Table 3).
        stem: "small": one 3×3 convolution of stride 1. "imagenet": He et al.'s 7×7 convolution of stride 2, and
            a 3×3 convolution of stride 2 (with batch norm and activation) in place of their max-pool.
        zero_init_last: start each block's last batch norm at 0, as timm's own ResNets do.
        kwargs: arguments of timm's ResNet.

    Raises:
        ValueError: the stem is unknown, or the width leaves less than two channels.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        *,
        width: float = 1.0,
        stem: str = "small",
        num_classes: int = 10,
        in_chans: int = 3,
        zero_init_last: bool = False,
        **kwargs: Any,
    ) -> None:
        if stem not in STEMS:
            raise ValueError(f"stem is one of {', '.join(STEMS)}, not {stem!r}")
        channels = tuple(
            2 * round(size * width / 2) for size in CHANNELS
        )  # timm doubles its deep stem's width
        if channels[0] < 2:
            raise ValueError(
                f"width is a factor that leaves at least 2 of {CHANNELS[0]} channels, not {width!r}"
            )
        block: Any = BasicBlock  # timm types the class as its instance
        super().__init__(
            block,
            tuple(layers),
            num_classes=num_classes,
            in_chans=in_chans,
            stem_type="deep",
            stem_width=channels[0] // 2,
            replace_stem_pool=stem == "imagenet",
            channels=channels,
            zero_init_last=zero_init_last,
            **kwargs,
        )
        kernel, stride = (3, 1) if stem == "small" else (7, 2)
        factory = {key: kwargs[key] for key in ("device", "dtype") if key in kwargs}
        conv = nn.Conv2d(in_chans, channels[0], kernel, stride, kernel // 2, bias=False, **factory)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        network: Any = self
        network.conv1 = conv
        if stem == "small":
            network.maxpool = nn.Identity()
            for row in network.feature_info:
                row["reduction"] = max(1, row["reduction"] // 4)


default_cfgs = generate_default_cfgs(
    {"paper_resnet34": small_cfg(pool_size=(4, 4), first_conv="conv1", classifier="fc")}
)


@register_model
def paper_resnet34(pretrained: bool = False, **kwargs: Any) -> PaperResNet:
    """ResNet-34 (Sec. 4.2): "exactly the same architecture as stated in [5] … and employs step-size convolution
    instead of pooling".

    He et al.'s network is designed for 224×224 pixels; the paper does not specify its first layers for 32×32. Here
    they are one 3×3 convolution of stride 1, and all down-sampling is done by the strides of the stages: 32, 16, 8 and
    4 pixels (`stem="imagenet"` keeps the 7×7 of stride 2, with a strided convolution instead of the max-pool, and
    gives 8, 4, 2 and 1). The shortcuts that change the size are 1×1 projections (He et al.'s option B), the
    activation after the sum is also a site, so that a reborn block follows the residual sum (a row's
    `skip: ["*.act2"]` leaves ReLU there). CReLU's doubled channels are read by the next convolution inside a block; an
    identity shortcut would read them too, so that after such a sum a 1×1 convolution compresses them.
    """
    model: PaperResNet = build_model_with_cfg(PaperResNet, "paper_resnet34", pretrained, **kwargs)
    return model
