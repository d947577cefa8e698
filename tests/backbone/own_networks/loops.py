"""Loops, recursion and reductions, over layers, over images and over sizes."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.backbone.own_networks.register import Base, conv, own


@own(3)
class KindsByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([conv(3), conv(), conv(), conv()])
        self.acts = nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})

    def forward(self, x):
        for conv, name in zip(self.convs, ["relu", "relu", "tanh", "relu"]):  # noqa: F402
            x = self.acts[name](conv(x))
        return x


@own(3)
class KindsByCondition(Base):
    def __init__(self):
        super().__init__()
        self.elu = nn.ELU()

    def forward(self, x):
        x = self.start(x)
        for i, layer in enumerate(self.convs):
            act = self.relu if i else self.elu
            x = act(layer(x))
        return self.finish(x)


@own(3)
class KindsByGetattr(Base):
    def __init__(self):
        super().__init__()
        self.gelu = nn.GELU()

    def forward(self, x):
        x = self.start(x)
        for name, layer in zip(("relu", "gelu", "relu"), self.convs):
            x = getattr(self, name)(layer(x))
        return self.finish(x)


@own(2)
class IdentityLambda(Base):
    def forward(self, x):
        x = self.start(x)
        for layer, act in zip(self.convs, [F.relu, lambda t: t, F.relu]):
            x = act(layer(x))
        return self.finish(x)


@own(2)
class LastIsSigmoid(Base):
    def forward(self, x):
        x = self.start(x)
        last = len(self.convs) - 1
        for i, layer in enumerate(self.convs):
            act = F.relu if i < last else torch.sigmoid
            x = act(layer(x))
        return self.finish(x)


@own(1)
class LoopOverImages(Base):
    def forward(self, x):
        out = []
        for img in x:
            out.append(F.relu(self.stem(img[None])).mean((2, 3)))
        return torch.cat(out)


@own(1)
class LoopOverImagesModule(Base):
    def forward(self, x):
        out = [self.relu(self.stem(img.unsqueeze(0))) for img in x]
        return self.finish(torch.cat(out))


@own(2)
class LoopByBatch(Base):
    def forward(self, x):
        x = F.relu(self.stem(x))
        for _ in range(len(x)):
            x = F.relu(self.convs[0](x))
        return self.finish(x)


@own(1, sizes=(16, 32))
class ShrinkUntilSmall(Base):
    def forward(self, x):
        x = self.stem(x)
        while x.shape[-1] > 4:
            x = F.max_pool2d(F.relu(self.convs[0](x)), 2)
        return self.finish(x)


@own(3, sizes=(16, 64))
class StopWhenSmall(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in self.convs:
            x = F.avg_pool2d(self.relu(layer(x)), 2)
            if x.shape[-1] < 6:
                break
        return self.finish(x)


@own(3)
class RandomTurns(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in self.convs:
            if self.training and torch.rand(1).item() < 0.5:
                continue
            x = self.relu(layer(x))
        return self.finish(x)


@own(3)
class LayerDrop(Base):
    """Each layer skipped by Python's own generator, as in fairseq."""

    def __init__(self):
        super().__init__()
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x):
        x = self.start(x)
        for layer, act in zip(self.convs, self.acts):
            if not self.training or random.random() > 0.4:
                x = x + act(layer(x))
        return self.finish(x)


@own(3)
class LayerAndActInPairs(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in self.convs:
            for part in (layer, self.relu):
                x = part(x)
        return self.finish(x)


@own(4)
class NestedLoops(Base):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList(conv() for _ in range(2)) for _ in range(2))

    def forward(self, x):
        x = self.start(x)
        for stage in self.stages:
            for layer in stage:
                x = self.relu(layer(x))
            x = F.max_pool2d(x, 2)
        return self.finish(x)


@own(3)
class NestedLoopsUneven(Base):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList(conv() for _ in range(n)) for n in (1, 2))

    def forward(self, x):
        x = self.start(x)
        for stage in self.stages:
            for layer in stage:
                x = F.relu(layer(x))
        return self.finish(x)


@own(3)
class RecursiveMethod(Base):
    def deeper(self, x, depth):
        if depth == len(self.convs):
            return x
        return self.deeper(F.relu(self.convs[depth](x)), depth + 1)

    def forward(self, x):
        return self.finish(self.deeper(self.start(x), 0))


class Tree(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.conv, self.act = conv(), nn.ReLU()
        self.left = Tree(levels - 1) if levels else None

    def forward(self, x):
        y = self.act(self.conv(x))
        return y if self.left is None else y + self.left(F.avg_pool2d(y, 3, 1, 1))


@own(3)
class RecursiveModule(Base):
    def __init__(self):
        super().__init__()
        self.tree = Tree(2)

    def forward(self, x):
        return self.finish(self.tree(self.start(x)))


@own(2)
class ReduceLayers(Base):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([conv(), nn.ReLU(), conv(), nn.GELU()])

    def forward(self, x):
        return self.finish(functools.reduce(lambda h, layer: layer(h), self.layers, self.start(x)))


@own(3)
class ReduceShared(Base):
    def forward(self, x):
        x = functools.reduce(lambda h, layer: self.relu(layer(h)), self.convs, self.start(x))
        return self.finish(x)


@own(3)
class Comprehension(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(torch.cat([self.relu(layer(x)) for layer in self.convs], 1)[:, :4])


@own(3)
class Generator(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(sum(F.relu(layer(x)) for layer in self.convs))


@own(3)
class Mapped(Base):
    def forward(self, x):
        x = self.start(x)
        maps = list(map(self.relu, [layer(x) for layer in self.convs]))
        return self.finish(maps[0] + maps[1] * maps[2])


@own(2)
class EveryOther(Base):
    def forward(self, x):
        x = self.start(x)
        for i, layer in enumerate(self.convs):
            x = layer(x)
            if i % 2 == 0:
                x = self.relu(x)
        return self.finish(x)


@own(3)
class ZippedActs(Base):
    def __init__(self):
        super().__init__()
        self.acts = nn.ModuleList([nn.ReLU(), nn.SiLU(), nn.ReLU()])

    def forward(self, x):
        x = self.start(x)
        for layer, act in zip(self.convs, self.acts):
            x = act(layer(x))
        return self.finish(x)


@own(3)
class Backwards(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in reversed(self.convs):
            x = self.relu(layer(x))
        return self.finish(x)


@own(3)
class SlicedList(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in self.convs[:2]:
            x = F.relu(layer(x))
        for layer in self.convs[2:]:
            x = F.relu(layer(x))
        return self.finish(x)


@own(3)
class CountedWhile(Base):
    def forward(self, x):
        x, i = self.start(x), 0
        while True:
            x = self.relu(self.convs[i](x))
            i += 1
            if i >= len(self.convs):
                return self.finish(x)


@own(3)
class DictOfLayers(Base):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"a": conv(), "b": conv(), "c": conv()})

    def forward(self, x):
        x, out = self.start(x), {}
        for name, layer in self.layers.items():
            x = out[name] = F.relu(layer(x))
        return {**out, "logits": self.finish(x)}


@own(1)
class SharedCell(Base):
    """One cell, run three times: one site."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        x = self.start(x)
        for _ in range(3):
            x = self.cell(x)
        return self.finish(x)


@own(1)
class Unrolled(Base):
    """The same weights twice, activated in a loop."""

    def forward(self, x):
        x = self.start(x)
        for _ in range(2):
            x = self.relu(self.convs[0](x))
        return self.finish(x)


@own(3)
class Stages(Base):
    def stages(self, x: Tensor) -> Iterator[Tensor]:
        for layer in self.convs:
            x = self.relu(layer(x))
            yield x

    def forward(self, x):
        return self.finish(sum(self.stages(self.start(x))))


@own(3)
class DenseCache(Base):
    """A list of earlier maps, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(conv(4 * (i + 1), 4) for i in range(3))

    def forward(self, x):
        features = [self.start(x)]
        for layer in self.layers:
            features.append(F.relu(layer(torch.cat(features, 1))))
        return self.finish(features[-1])


@own(2)
class CachedOnSelf(Base):
    """Maps kept in a list on the module, cleared each time."""

    def forward(self, x):
        self.features = []
        x = self.start(x)
        for layer in self.convs[:2]:
            x = F.relu(layer(x))
            self.features.append(x)
        return self.finish(self.features[0] + self.features[1])


@own(3)
class Nonlocal(Base):
    def forward(self, x):
        count = 0

        def step(x):
            nonlocal count
            x = self.relu(self.convs[count](x))
            count += 1
            return x

        return self.finish(step(step(step(self.start(x)))))


@own(3)
class ByScale(Base):
    def forward(self, x):
        x = self.start(x)
        maps = {k: F.relu(c(F.avg_pool2d(x, k) if k > 1 else x)) for k, c in zip((1, 2, 4), self.convs)}
        return self.finish(sum(F.interpolate(m, x.shape[2:]) for m in maps.values()))


@own(3)
class PopFromList(Base):
    def forward(self, x):
        x, todo = self.start(x), list(self.convs)
        while todo:
            x = self.relu(todo.pop(0)(x))
        return self.finish(x)


@own(2)
class GrowingResidual(Base):
    """A loop that ends in a turn without activation."""

    def forward(self, x):
        x = self.start(x)
        for layer, last in zip(self.convs, (False, False, True)):
            y = layer(x)
            x = x + (y if last else self.relu(y))
        return self.finish(x)


@own(3)
class Iter(Base):
    def forward(self, x):
        x, acts = self.start(x), iter([self.relu, F.gelu, F.relu])
        for layer in self.convs:
            x = next(acts)(layer(x))
        return self.finish(x)
