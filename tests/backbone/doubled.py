"""Small networks whose first activation can, or cannot, double its channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import (
    BatchNormAct2d,
    BlurPool2d,
    CondConv2d,
    Conv2dSame,
    EcaModule,
    EffectiveSEModule,
    LayerNorm2d,
    LayerScale2d,
    MixedConv2d,
    ScaledStdConv2dSame,
    SelectiveKernel,
    SEModule,
    StdConv2d,
)
from torch import Tensor, nn
from torch.nn import functional as F


def seq(*layers: nn.Module) -> nn.Sequential:
    """A stem of 8 channels with a ReLU, the layers, and a pooled linear head of what they leave."""
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    with torch.no_grad():
        width = nn.Sequential(*stem, *layers).eval()(torch.zeros(1, 3, 12, 10)).shape[1]
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class Over(nn.Module):
    """A network whose forward is a function of its parts, so that each test shows its own."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.LazyLinear(5)
        self.eval()(torch.zeros(2, 3, 12, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, F.relu(self.stem(x))).flatten(1))


class Dense(nn.Module):
    """Concatenations of a map with what is made of it, norms between, as DenseNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(14, 5, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(10), nn.BatchNorm2d(14)])
        self.convs = nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for norm, conv in zip(self.norms, self.convs):
            x = torch.cat([x, F.relu(conv(norm(x)))], 1)
        return self.last(F.relu(self.norms[2](x))).mean((2, 3))


class Last(nn.Module):
    """Channels-last MLP with a layer scale, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc1, self.fc2 = nn.Conv2d(3, 8, 3), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.gamma = nn.LayerNorm(8), nn.Parameter(torch.rand(8))
        self.scale = nn.Parameter(torch.rand(16))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.gelu(self.fc1(self.norm(x.permute(0, 2, 3, 1)))) * self.scale
        y = (self.fc2(y) * self.gamma).permute(0, 3, 1, 2)
        return self.head((x + y).mean((2, 3)))


def _gate(net: Over, x: Tensor) -> Tensor:
    pooled = net.fc1(x.mean((2, 3))) + net.fc1(x.amax((2, 3)))
    return net.conv(x * net.fc2(pooled).sigmoid()[:, :, None, None])


def _context(net: Over, x: Tensor) -> Tensor:
    weight = net.mask(x).flatten(2).softmax(-1).unsqueeze(-1)  # (B, 1, HW, 1)
    context = (x.flatten(2).unsqueeze(1) @ weight).view(x.shape[0], -1, 1, 1)
    return net.conv(x + net.out(context))


def _routed(net: Over, x: Tensor) -> Tensor:
    """Weights that depend on the image."""
    return net.last(net.conv(x, net.routing(x.mean((2, 3))).sigmoid()))


def _ghost_attention(net: Over, x: Tensor) -> Tensor:
    gate = F.interpolate(net.gate(F.avg_pool2d(x, 2)).sigmoid(), size=x.shape[-2:], mode="nearest")
    return net.conv(x * gate)


def _depthwise_gate() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 8, 1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8),
        nn.BatchNorm2d(8),
    )


class Branches(nn.Module):
    """RepVGG's block: the sum of a convolution and a norm, of one map or of the image and the map."""

    def __init__(self, norm: nn.Module, *, shared: bool) -> None:
        super().__init__()
        self.stem, self.norm, self.shared = nn.Conv2d(3, 8, 1), norm, shared
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=4) if shared else nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        total = self.conv(y if self.shared else x)
        total += self.norm(y)
        return self.head(total).mean((2, 3))


class Counted(nn.Module):
    """A convolution whose result is reshaped by the channels of its input: `named` ones, or as many by number."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.conv, self.named = nn.Conv2d(8, 8, 1), named

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        y = self.conv(x).flatten(2)
        if self.named:
            return y.reshape(B, C, H, W)
        return y.reshape(B, 8, H, W)


WIDENABLE: dict[str, Callable[[], nn.Module]] = {
    "a reshape by number": lambda: seq(Counted(False), nn.Conv2d(8, 4, 1)),
    "convolution": lambda: seq(nn.Conv2d(8, 6, 3)),
    "two consumers": lambda: Over(
        lambda n, x: n.a(x) + n.b(x), a=nn.Conv2d(8, 4, 1), b=nn.Conv2d(8, 4, 3, padding=1)
    ),
    "pool, pad, drop, resize": lambda: seq(
        nn.MaxPool2d(2), nn.ZeroPad2d(1), nn.Dropout2d(0.5), nn.Upsample(scale_factor=2), nn.Conv2d(8, 6, 1)
    ),
    "batch norm": lambda: seq(nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)),
    "PReLU on the way": lambda: seq(nn.PReLU(8, init=0.3), nn.Conv2d(8, 6, 1)),
    "head": lambda: seq(),
    "flatten to a linear layer": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10 * 8, 5)
    ),
    "view(B, -1)": lambda: Over(lambda n, x: n.fc(x.view(x.shape[0], -1)), fc=nn.Linear(8 * 120, 5)),
    "grouped": lambda: seq(nn.Conv2d(8, 12, 3, groups=4)),
    "depthwise": lambda: seq(nn.Conv2d(8, 8, 3, groups=8, bias=False)),
    "depthwise multiplier, same padding": lambda: seq(Conv2dSame(8, 16, 3, stride=2, groups=8)),
    "dilated transposed": lambda: seq(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ConvTranspose2d(6, 4, 3)),
    "grouped subclass": lambda: seq(NamedConv(8, 12, 3, groups=4)),
    "squeeze-excite": lambda: seq(SEModule(8, rd_channels=4), nn.Conv2d(8, 6, 1)),
    "effective squeeze-excite": lambda: seq(EffectiveSEModule(8), nn.Conv2d(8, 6, 1)),
    "efficient channel attention": lambda: seq(EcaModule(8), nn.Conv2d(8, 6, 1)),
    "gate of two sums": lambda: Over(
        _gate, fc1=nn.Linear(8, 4), fc2=nn.Linear(4, 8), conv=nn.Conv2d(8, 6, 1)
    ),
    "global context": lambda: Over(
        _context, mask=nn.Conv2d(8, 1, 1), out=nn.Conv2d(8, 8, 1), conv=nn.Conv2d(8, 6, 1)
    ),
    "layer scale": lambda: seq(LayerScale2d(8, 0.5), nn.Conv2d(8, 6, 1)),
    "x · sigmoid(x)": lambda: Over(lambda n, x: n.conv(x * x.sigmoid()), conv=nn.Conv2d(8, 6, 1)),
    "blur pool": lambda: seq(BlurPool2d(8), nn.Conv2d(8, 6, 1)),
    "mixed convolution": lambda: seq(MixedConv2d(8, 8, [3, 5, 7], depthwise=True), MixedConv2d(8, 6, [1, 3])),
    "product with a layer's result": lambda: Over(
        lambda n, x: n.last(x * n.norm(n.conv(x))),
        conv=nn.Conv2d(8, 8, 1),
        norm=nn.BatchNorm2d(8),
        last=nn.Conv2d(8, 6, 1),
    ),
    "depthwise gate": lambda: Over(_ghost_attention, gate=_depthwise_gate(), conv=nn.Conv2d(8, 6, 1)),
    "identity branch": lambda: Branches(nn.BatchNorm2d(8), shared=True),
    "identity branch of timm": lambda: Branches(BatchNormAct2d(8, apply_act=False), shared=True),
    "selective kernel": lambda: seq(SelectiveKernel(8, 8, rd_channels=4), nn.Conv2d(8, 6, 1)),
    "routed experts": lambda: Over(
        _routed, conv=CondConv2d(8, 8, 3, padding=1), routing=nn.Linear(8, 4), last=nn.Conv2d(8, 6, 1)
    ),
    "routed experts in groups": lambda: Over(
        _routed,
        conv=CondConv2d(8, 8, 3, padding=1, groups=4, bias=True),
        routing=nn.Linear(8, 4),
        last=nn.Conv2d(8, 6, 1),
    ),
    "scaled weight standardisation": lambda: seq(ScaledStdConv2dSame(8, 12, 3, groups=4)),
    "weight standardisation": lambda: seq(StdConv2d(8, 12, 3)),
    "channels last": Last,
    "dense": Dense,
}


def _shuffle(net: Over, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    groups = 2
    return net.conv(x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w))


class Shuffle(nn.Module):
    """ShuffleNet's shuffle; all sizes come from the map's own shape."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        groups = 2
        return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class Attention(nn.Module):
    """Self-attention over the channels' tokens, with queries that are the map itself."""

    def forward(self, x: Tensor) -> Tensor:
        q = x.flatten(2).transpose(1, 2)
        return (q @ q.transpose(1, 2)).mean(1)


class OwnConv(nn.Conv2d):
    """A grouped convolution with its own forward."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, groups=self.groups)


class NamedConv(nn.Conv2d):
    """A convolution with another name and nothing else."""


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "residual": (lambda: Over(lambda n, x: x + n.conv(x), conv=nn.Conv2d(8, 8, 1)), "add", ""),
    "product": (
        lambda: Over(lambda n, x: x * n.norm(n.conv(x)), conv=nn.Conv2d(8, 8, 1), norm=nn.GroupNorm(2, 8)),
        "mul",
        "",
    ),
    "product with a sum": (
        lambda: Over(lambda n, x: x * (n.conv(x) + x.mean(1, keepdim=True)), conv=nn.Conv2d(8, 8, 1)),
        "mean",
        "",
    ),
    "product with a grouped convolution": (
        lambda: Over(lambda n, x: x * n.conv(x), conv=nn.Conv2d(8, 8, 1, groups=2)),
        "mul",
        "",
    ),
    "identity branch that alone reads it": (lambda: Branches(nn.BatchNorm2d(8), shared=False), "add", ""),
    "identity branch with another norm": (
        lambda: Branches(nn.InstanceNorm2d(8, affine=True, track_running_stats=True), shared=True),
        "instance_norm",
        "norm",
    ),
    "chunk": (lambda: Over(lambda n, x: torch.cat(x.chunk(2, 1)[::-1], 1)), "chunk", ""),
    "slice": (lambda: Over(lambda n, x: x[:, :4]), "getitem", ""),
    "shuffle": (lambda: Over(_shuffle, conv=nn.Conv2d(8, 4, 1)), "view", ""),
    "channel shuffle": (lambda: seq(Shuffle(), nn.Conv2d(8, 4, 1)), "view", "2"),
    "group norm": (lambda: seq(nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)), "group_norm", "2"),
    "layer norm": (lambda: seq(LayerNorm2d(8), nn.Conv2d(8, 4, 1)), "layer_norm", "2"),
    "softmax": (lambda: Over(lambda n, x: x.softmax(1)), "softmax", ""),
    "channel mean": (lambda: Over(lambda n, x: x - x.mean(1, keepdim=True)), "mean", ""),
    "attention": (lambda: Over(lambda n, x: n.attn(x), attn=Attention()), "matmul", "attn"),
    "its own number": (lambda: seq(Counted(True), nn.Conv2d(8, 4, 1)), "reshape", "2"),
    "output": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "output", ""),
    "own grouped convolution": (lambda: seq(OwnConv(8, 8, 1, groups=2)), "conv2d", "2"),
    "fixed view": (lambda: Over(lambda n, x: n.fc(x.view(-1, 8 * 120)), fc=nn.Linear(960, 5)), "view", ""),
    "weights used twice": (
        lambda: Over(
            lambda n, x: n.conv(n.other(n.conv(x))), conv=nn.Conv2d(8, 8, 1), other=nn.Conv2d(8, 8, 1)
        ),
        "conv2d",
        "conv",
    ),
    "computed weight": (
        lambda: seq(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 6, 1))),
        "conv2d",
        "2",
    ),
    "unknown operation": (lambda: Over(lambda n, x: torch.cummax(x, 1)[0]), "cummax", ""),
}
