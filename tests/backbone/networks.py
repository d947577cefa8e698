"""Small networks written in the ways in which people write them; several test files look at them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Functional(nn.Module):
    """Functional calls everywhere, two on one line."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.conv3 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = x + F.relu(self.conv2(F.relu(x)))
        x = self.conv3(x).clamp_(min=0)
        x = torch.relu(x.mean((2, 3)))
        return self.fc(x)


class Shared(nn.Module):
    """One `self.relu` used three times, one of them behind a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.conv1(x))
        out = self.relu(self.conv2(out) + x)
        return self.relu(out.flatten(1))


class Aliased(nn.Module):
    """One activation object at three places of a Sequential, and in a second module."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), act, nn.Conv2d(4, 4, 1), act)
        self.last = act

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) * 2)


class Gated(nn.Module):
    """A squeeze-and-excitation gate around a real activation, with an efficient channel attention behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), nn.ReLU()
        self.fc1, self.gate_act, self.fc2 = nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1)
        self.eca = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        gate = self.fc2(self.gate_act(self.fc1(x.mean((2, 3), keepdim=True))))
        x = x * gate.sigmoid()
        y = F.relu(x)  # a site, though its own mean gates it
        weight = self.eca(y.mean((2, 3)).unsqueeze(1)).sigmoid().view(y.shape[0], 8, 1, 1)
        return y * weight.expand_as(y)


class Looped(nn.Module):
    """Blocks in a list and in a dict, and one activation that a loop shares."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.act = nn.ReLU()
        self.by_name = nn.ModuleDict({"a": nn.ReLU(), "b": nn.GELU()})

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.act(conv(x))
        for name in ("a", "b"):
            x = self.by_name[name](x)
        return x


class Recurrent(nn.Module):
    """One block with one activation, run twice: the same weights, so the same site."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.block(x)
        return x


class Square(nn.Module):
    """A user's own point-wise activation, made of a ReLU; the outer module is the site."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.relu(x) ** 2


class ManyEnds(nn.Module):
    """Two inputs, a dict of outputs, an auxiliary head that only train mode runs, an own activation, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)
        self.act, self.aux, self.aux_act = Square(), nn.Linear(8, 2), nn.ReLU()
        self.head, self.tokens = nn.Linear(8, 2), nn.Linear(8, 8)

    def forward(self, image: Tensor, depth: Tensor) -> dict[str, Tensor]:
        both = self.act(torch.cat([self.left(image), self.right(depth)], 1))
        tokens = F.gelu(self.tokens(both.flatten(2).transpose(1, 2)))
        last = F.silu(self.tokens(both.permute(0, 2, 3, 1)))
        out = {"map": both, "class": self.head(tokens.mean(1)), "last": last}
        if self.training:
            out["aux"] = self.aux(self.aux_act(both).mean((2, 3)))
        return out


class NeedsNumbers(nn.Module):
    """A forward that reads a value, which no meta tensor has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return x / (1 + x.abs().max().item())
