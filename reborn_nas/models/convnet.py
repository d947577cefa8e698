"""The paper's plain networks, as timm models: ConvNet-8, ConvNet-13 and the five-layer network of Sec. 4.7.

The paper specifies the number of convolutions and of their kernels, batch norm (ConvNet-13) and the pooling; what it
does not specify is stated in the docstring of each model and is an argument.
"""

# no postponed annotations here: torch.fx copies a root module's annotations into generated code
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.models.adapter import small_cfg

__all__ = ["ConvAct", "ConvNet", "ConvNetHead", "convnet5", "convnet8", "convnet13"]


class ConvAct(nn.Module):
    """3×3 convolution, optional batch norm, activation: (B, C, H, W) → (B, width, H/stride, W/stride)."""

    def __init__(
        self,
        in_chans: int,
        width: int,
        stride: int,
        norm: bool,
        act_layer: type[nn.Module],
        **factory: Any,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, width, 3, stride=stride, padding=1, bias=not norm, **factory)
        self.norm = nn.BatchNorm2d(width, **factory) if norm else nn.Identity()
        self.act = act_layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class ConvNetHead(nn.Module):
    """Pool to `pool_size`², then fully connected layers with activations between them; the last one classifies."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int],
        pool_size: int,
        pool_type: str,
        drop_rate: float,
        act_layer: type[nn.Module],
        **factory: Any,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.pool_size = pool_size
        self.pool_type = pool_type
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = in_features * pool_size**2
        for index, size in enumerate(hidden, start=1):
            layers[f"fc{index}"] = nn.Linear(width, size, **factory)
            layers[f"act{index}"] = act_layer()
            width = size
        self.hidden = nn.Sequential(layers)
        self.num_features = width
        self.drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Linear(width, num_classes, **factory) if num_classes > 0 else nn.Identity()

    def reset(self, num_classes: int, pool_type: str | None = None, **factory: Any) -> None:
        """Set a new classifier with `num_classes` outputs (0: none); `pool_type` "" keeps the feature map."""
        if pool_type is not None:
            if pool_type and pool_type != "avg":
                raise ValueError(f"ConvNet pools by 'avg' or not at all (''), not by {pool_type!r}")
            self.pool_type = pool_type
            if not pool_type:
                self.hidden = nn.Sequential()
        width = self.num_features
        self.fc = nn.Linear(width, num_classes, **factory) if num_classes > 0 else nn.Identity()
        self.train(self.training)  # the new layers get the mode of the others

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.pool_type:
            x = F.adaptive_avg_pool2d(x, self.pool_size).flatten(1)  # (B, C·p²)
            x = self.hidden(x)
        x = self.drop(x)
        return x if pre_logits else self.fc(x)


class ConvNet(nn.Module):
    """A chain of 3×3 convolutions and a head.

    Args:
        widths: output channels of each convolution, before `width`.
        strides: stride of each convolution.
        width: factor on every convolution's channels; 0.5 is the paper's "Half" (Table 3).
        norm: batch norm after each convolution.
        hidden: sizes of the fully connected layers before the classifier.
        pool_size: side of the map after average pooling in the head; 1 is global average pooling.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        width: float = 1.0,
        norm: bool = False,
        hidden: Sequence[int] = (),
        pool_size: int = 1,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        act_layer: type[nn.Module] = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(widths) != len(strides):
            raise ValueError(f"ConvNet: {len(widths)} widths but {len(strides)} strides")
        if not width > 0:
            raise ValueError(f"ConvNet: width is a factor above 0, not {width!r}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, reduction = in_chans, 1
        for index, (size, stride) in enumerate(zip(widths, strides, strict=True), start=1):
            out = max(1, round(size * width))
            layers[f"conv{index}"] = ConvAct(channels, out, stride, norm, act_layer, **factory)
            channels, reduction = out, reduction * stride
            info = {"num_chs": out, "reduction": reduction, "module": f"features.conv{index}"}
            if self.feature_info and self.feature_info[-1]["reduction"] == reduction:
                self.feature_info[-1] = info
            else:
                self.feature_info.append(info)
        self.features = nn.Sequential(layers)
        self.num_features = channels
        self.head = ConvNetHead(
            channels, num_classes, hidden, pool_size, global_pool, drop_rate, act_layer, **factory
        )
        self.head_hidden_size = self.head.num_features
        if not norm:
            self._draw_xavier()
        if not global_pool:
            self.reset_classifier(num_classes, global_pool)

    def _draw_xavier(self) -> None:
        """Initialise by Xavier's rule, as in the paper (Sec. 4.3): by torch's the signal vanishes without norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups: one per convolution."""
        return {"stem": r"^features\.conv1\.", "blocks": r"^features\.conv(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Set a new classifier; `global_pool=""` keeps the feature map unpooled."""
        if global_pool == "":
            self.head.num_features = self.num_features
        self.num_classes = num_classes
        reference = next(self.features.parameters())
        self.head.reset(num_classes, global_pool, device=reference.device, dtype=reference.dtype)
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's intermediates: the last map of each resolution, (B, C, H, W)."""
        if output_fmt != "NCHW":
            raise ValueError(f"ConvNet gives maps as 'NCHW', not {output_fmt!r}")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        ends = [info["module"].rsplit(".", 1)[1] for info in self.feature_info]
        maps: list[Tensor] = []
        for name, layer in self.features.named_children():
            x = layer(x)
            if name in ends and ends.index(name) in taken:
                maps.append(x)
            if stop_early and name == ends[last]:
                break
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that the intermediates `indices` do not need."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        end = self.feature_info[last]["module"].rsplit(".", 1)[1]
        names = [name for name, _ in self.features.named_children()]
        for name in names[names.index(end) + 1 :]:
            delattr(self.features, name)
        if last < len(self.feature_info) - 1:
            self.num_features = self.feature_info[last]["num_chs"]
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "")
        return list(taken)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, (B, num_features, H', W')."""
        if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            features: Tensor = checkpoint_seq(self.features, x)
            return features
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes), or the input of the classifier."""
        return self.head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.forward_head(x)


_LAST_MAP = {"convnet5": (8, 8), "convnet8": (2, 2), "convnet13": (1, 1)}  # at 32×32
default_cfgs = generate_default_cfgs({name: small_cfg(pool_size=size) for name, size in _LAST_MAP.items()})


def _build(variant: str, pretrained: bool, defaults: dict[str, Any], kwargs: dict[str, Any]) -> ConvNet:
    arguments = {**defaults, **kwargs}
    stages = 1 + sum(stride > 1 for stride in arguments["strides"][1:])
    model: ConvNet = build_model_with_cfg(
        ConvNet,
        variant,
        pretrained,
        feature_cfg={"flatten_sequential": True, "out_indices": tuple(range(stages))},
        **arguments,
    )
    return model


@register_model
def convnet5(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """The five-layer network of the paper's Sec. 4.7; the n-th convolution has 2^(n+4) kernels.

    The paper does not specify strides, norm and head: here the second and the fourth convolution have stride 2,
    batch norm follows each (`norm=False` removes it), and the head is global average pooling and one linear layer.
    """
    defaults = {"widths": (32, 64, 128, 256, 512), "strides": (1, 2, 1, 2, 1), "norm": True}
    return _build("convnet5", pretrained, defaults, kwargs)


@register_model
def convnet8(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """ConvNet-8 (Sec. 4.2): eight 3×3 convolutions, 32 kernels at first, doubling every two, then three
    fully connected layers.

    The paper does not specify down-sampling, the hidden widths and batch norm: here the second convolution of each
    pair has stride 2, the head pools to 2×2 (no change for inputs of 28×28 and 32×32) and has hidden layers of
    512 and 256, and there is no batch norm (`norm=True` adds it; the paper names it for ConvNet-13 only).
    `strides`, `hidden` and `pool_size` change these. In the paper's tables (`studies/table2.yaml`) reborn and CReLU
    are used only after convolutions, and pointwise activations also after the hidden layers (the paper leaves reborn in
    MLPs to future work); the channels that CReLU doubles are read by the next layer without compression
    (`crelu(compression=1x1)` compresses them at the site).
    """
    defaults = {
        "widths": (32, 32, 64, 64, 128, 128, 256, 256),
        "strides": (1, 2, 1, 2, 1, 2, 1, 2),
        "hidden": (512, 256),
        "pool_size": 2,
    }
    return _build("convnet8", pretrained, defaults, kwargs)


@register_model
def convnet13(pretrained: bool = False, **kwargs: Any) -> ConvNet:
    """ConvNet-13 (Sec. 4.2): VGG-16's thirteen convolutions, strides instead of pooling, batch norm, global pooling.

    The paper does not say which convolutions stride: here the last of each of VGG's five groups, where VGG pools
    (`strides=` changes that). CReLU's doubled channels as in `convnet8`.
    """
    defaults = {
        "widths": (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
        "strides": (1, 2, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2),
        "norm": True,
    }
    return _build("convnet13", pretrained, defaults, kwargs)
