"""Networks that are no image classifiers, as people write them: signals, volumes, points, pairs, records and dicts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Step1d(nn.Sequential):
    """Convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv1d(inputs, outputs, 3, padding=1), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)
        )


class UNet1d(nn.Module):
    """Of signals (B, 2, L), with skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Step1d(2, 4), Step1d(4, 8)])
        self.middle = Step1d(8, 8)
        self.up = nn.ModuleList([nn.ConvTranspose1d(8, 8, 2, 2), nn.ConvTranspose1d(8, 4, 2, 2)])
        self.steps = nn.ModuleList([Step1d(16, 8), Step1d(8, 4)])
        self.head = nn.Conv1d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for step in self.down:
            x = step(x)
            skips.append(x)
            x = F.max_pool1d(x, 2)
        x = self.middle(x)
        for up, step, skip in zip(self.up, self.steps, reversed(skips)):
            x = step(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Residual3d(nn.Module):
    """Two convolutions beside a shortcut; one ReLU serves both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.InstanceNorm3d(outputs, affine=True), nn.GroupNorm(2, outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.short = nn.Conv3d(inputs, outputs, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.relu(out + self.short(x))


class ResUNet3d(nn.Module):
    """Of volumes (B, 1, D, H, W), with a second output of half the size while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.below = Residual3d(1, 4), Residual3d(4, 8)
        self.up = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.leave, self.head, self.deep = Residual3d(12, 4), nn.Conv3d(4, 2, 1), nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        high = self.enter(x)
        low = self.below(F.avg_pool3d(high, 2))
        out = self.head(self.leave(torch.cat([high, self.up(low)], dim=1)))
        return (out, self.deep(low)) if self.training else out


class Causal(nn.Module):
    """A dilated convolution that reads only the past, with normalised weights."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv = weight_norm(nn.Conv1d(width, width, 3, padding=self.pad, dilation=dilation))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(F.leaky_relu(self.conv(x)[..., : -self.pad], 0.2))


class Tcn(nn.Module):
    """Of audio: a stack of causal convolutions, the last sample classified."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, 6, 1)
        self.blocks = nn.Sequential(*(Causal(6, 2**n) for n in range(3)))
        self.head = nn.Linear(6, 3)

    def forward(self, wave: Tensor) -> Tensor:
        return self.head(self.blocks(self.enter(wave.unsqueeze(1)))[:, :, -1])


class PointNet(nn.Module):
    """Of points (B, N, 3): layers shared by all points, the largest of each feature, a transformation learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Conv1d(3, 8, 1),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 16, 1),
            nn.BatchNorm1d(16),
            nn.ReLU(),
        )
        self.turn = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 9))
        self.last = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Conv1d(8, 4, 1))

    def forward(self, points: Tensor) -> Tensor:
        x = points.transpose(1, 2)
        turn = self.turn(self.each(x).amax(2)).view(-1, 3, 3)
        return self.last(torch.bmm(turn, x)).amax(-1)


class Siamese(nn.Module):
    """Two images through one encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def embed(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.encoder(x).mean((2, 3))))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return F.pairwise_distance(self.embed(first), self.embed(second))


class Generator(nn.Module):
    """Noise to images, by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 8 * 4 * 4)
        self.net = nn.Sequential(
            nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6)
        )
        self.out = nn.ConvTranspose2d(6, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.out(F.leaky_relu(self.net(self.fc(z).view(-1, 8, 4, 4)), 0.2, inplace=True)))


class Crnn(nn.Module):
    """Lines of text: convolutions, then an LSTM over the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d((8, 1)))
        self.rnn = nn.LSTM(6, 5, bidirectional=True, batch_first=True)
        self.head = nn.Sequential(nn.Linear(10, 8), nn.GELU(), nn.Linear(8, 3))

    def forward(self, image: Tensor) -> Tensor:
        columns, _ = self.rnn(self.cnn(image).squeeze(2).permute(0, 2, 1))
        return self.head(columns).log_softmax(2)


class Keypoints(nn.Module):
    """Heat maps and offsets in a dict, each from a separate head; stages feed each other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, width, 1))
                for name, width in (("heat", 5), ("offset", 2))
            }
        )

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = self.body(batch["image"])
        found: dict[str, Any] = {name: head(x) for name, head in self.heads.items()}
        found["ids"] = batch["ids"]
        return found


class Pyramid(nn.Module):
    """Feature maps in an OrderedDict, top down."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.inner = nn.ModuleList([nn.Conv2d(6, 4, 1), nn.Conv2d(8, 4, 1)])
        self.outer = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        low = self.low(x)
        top = self.inner[1](self.high(low))
        below = self.inner[0](low) + F.interpolate(top, size=low.shape[-2:])
        return OrderedDict(p2=F.relu(self.outer[0](below)), p3=F.relu(self.outer[1](top)))


@dataclass
class Result:
    """What `Records` returns."""

    logits: Tensor
    features: list[Tensor] | None = None


class Pose(NamedTuple):
    """What a part of `Records` hands on."""

    turn: Tensor
    move: Tensor


class Records(nn.Module):
    """Named tuples inside, a dataclass outside, a keyword-only option."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.next = nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 6)

    def pose(self, x: Tensor) -> Pose:
        turn, move = self.head(x.mean((2, 3))).chunk(2, -1)
        return Pose(turn, move)

    def forward(self, image: Tensor, *, keep: bool = False) -> Result:
        first = self.act(self.conv(image))
        second = F.elu(self.next(first))
        pose = self.pose(second)
        return Result(pose.turn + pose.move, [first, second] if keep else None)


class Separable3d(nn.Module):
    """Videos (B, T, C, H, W): each frame separately, then time; channels last in between, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.time = nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0), groups=6)
        self.norm, self.wide, self.narrow = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, video: Tensor) -> Tensor:
        B, T = video.shape[:2]
        frames = self.frame(video.flatten(0, 1)).unflatten(0, (B, T)).transpose(1, 2)
        x = self.norm(self.time(frames).permute(0, 2, 3, 4, 1))
        return frames + self.narrow(F.gelu(self.wide(x))).permute(0, 4, 1, 2, 3)


class Refinement(nn.Module):
    """A flow between two images that starts at zero and is refined twice: at first its encoder sees only constants."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.InstanceNorm2d(6), nn.ReLU())
        self.flow = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.update, self.act = nn.Conv2d(16, 2, 3, padding=1), nn.LeakyReLU(0.1)

    def forward(self, first: Tensor, second: Tensor, times: int = 2) -> list[Tensor]:
        both = torch.cat([self.features(first), self.features(second)], 1)
        flow = torch.zeros(len(first), 2, *first.shape[2:], device=first.device)
        found = []
        for _ in range(times):
            flow = flow + self.act(self.update(torch.cat([both, self.flow(flow)], 1)))
            found.append(flow)
        return found


class SlowFast(nn.Module):
    """Two clips of one video in a list, of different frame rates, with a lateral connection."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Sequential(
            nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(8), nn.ReLU(True)
        )
        self.fast = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(True))
        self.across, self.head = nn.Conv3d(4, 4, (5, 1, 1), (4, 1, 1), (2, 0, 0)), nn.Linear(16, 3)

    def forward(self, clips: list[Tensor]) -> Tensor:
        fast = self.fast(clips[1])
        slow = torch.cat([self.slow(clips[0]), F.relu(self.across(fast))], 1)
        return self.head(torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1))


class Diffusion(nn.Module):
    """Noise to be taken away at a time step, which is embedded; one SiLU serves maps and embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 8))
        self.enter, self.norm, self.leave = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(4, 8),
            nn.Conv2d(8, 3, 1),
        )
        self.nonlinearity = nn.SiLU()

    def forward(self, x: Tensor, timesteps: Tensor, *, guidance: float | None = None) -> Tensor:
        when = self.embed(torch.stack([timesteps.float().sin(), timesteps.float().cos()], -1))
        h = self.enter(x) + self.nonlinearity(when)[:, :, None, None]
        return self.leave(self.nonlinearity(self.norm(h)))


class Anchors(nn.Module):
    """Raw maps of each size while it trains, boxes of all sizes together afterwards."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((3, 6), (6, 8), (8, 8))
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.SiLU(inplace=True))
            for i, o in widths
        )
        self.heads = nn.ModuleList(nn.Conv2d(8, 6, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        maps = []
        for step in self.steps:
            x = step(x)
            maps.append(x)
        raw = [head(each) for head, each in zip(self.heads, maps[1:])]
        if self.training:
            return raw
        return torch.cat([each.flatten(2).permute(0, 2, 1).sigmoid() for each in raw], 1), raw


def drawn(*shape: int) -> Tensor:
    """Normal numbers, the same ones each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _pair() -> tuple[Tensor, Tensor]:
    pair = drawn(2, 2, 3, 12, 12)
    return pair[0], pair[1]


# name -> network, example inputs, names of the sites with their layouts
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "UNet1d": (UNet1d, lambda: drawn(2, 2, 16), "ncl"),
    "ResUNet3d": (ResUNet3d, lambda: drawn(2, 1, 4, 8, 8), "ncdhw"),
    "Tcn": (Tcn, lambda: drawn(2, 40), "ncl"),
    "PointNet": (PointNet, lambda: {"points": drawn(4, 10, 3)}, "ncl nc"),
    "Siamese": (Siamese, _pair, "nchw nc"),
    "Generator": (Generator, lambda: drawn(3, 5), "nchw"),
    "Crnn": (Crnn, lambda: drawn(2, 1, 8, 10), "nchw nlc"),
    "Keypoints": (Keypoints, lambda: ({"image": drawn(2, 3, 12, 12), "ids": ["a", "b"]},), "nchw"),
    "Pyramid": (Pyramid, lambda: drawn(2, 3, 16, 16), "nchw"),
    "Records": (Records, lambda: {"image": drawn(2, 3, 12, 12), "keep": True}, "nchw"),
    "Refinement": (Refinement, lambda: (*_pair(), 2), "nchw"),
    "SlowFast": (SlowFast, lambda: ([drawn(2, 3, 2, 8, 8), drawn(2, 3, 8, 8, 8)],), "ncdhw"),
    "Diffusion": (Diffusion, lambda: {"x": drawn(2, 3, 8, 8), "timesteps": torch.tensor([3, 5])}, "nchw"),
    "Anchors": (Anchors, lambda: drawn(2, 3, 32, 32), "nchw"),
    "Separable3d": (Separable3d, lambda: drawn(2, 4, 3, 8, 8), "nchw ndhwc"),
}
