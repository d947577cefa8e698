"""Hand-written networks whose activations are written out, called as plain functions, or only look like activations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.backbone.own_networks.register import Base, conv, own


class Rounded(torch.autograd.Function):
    """A quantised ReLU that is trained as if it were none."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x.clamp(0, 4) * 4).round() / 4

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ((x > 0) & (x < 4))


class Bent(torch.autograd.Function):
    """A leaky ReLU in the new style, with the slope as an argument."""

    @staticmethod
    def forward(x, slope):
        return torch.where(x > 0, x, x * slope)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.slope = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad, grad * ctx.slope), None


def swish(x):
    return x * torch.sigmoid(x)


def hard_swish(x, inplace=False):
    return x * F.relu6(x + 3, inplace) / 6


class InBlocks(Base):
    """Three nested blocks, which share the class whose forward has a formula."""

    class Block(nn.Module):
        act = staticmethod(F.silu)

        def __init__(self):
            super().__init__()
            self.conv, self.bn = conv(), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.bn(self.conv(x))
            return x + F.silu(y)

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Sequential(self.Block(), self.Block()), self.Block())

    def forward(self, x):
        return self.finish(self.blocks(self.start(x)))


@own(3, twin=InBlocks)
class SwishInBlocks(InBlocks):
    class Block(InBlocks.Block):
        def forward(self, x):
            y = self.bn(self.conv(x))
            return x + y * y.sigmoid()


class TwoInOne(Base):
    def forward(self, x):
        a, b = self.convs[0](self.start(x)), self.convs[1](x.mean(1, True).expand(-1, 4, -1, -1))
        return self.finish(F.silu(a) + F.relu(b))


@own(2, twin=TwoInOne)
class TwoFormulasInOneLine(Base):
    def forward(self, x):
        a, b = self.convs[0](self.start(x)), self.convs[1](x.mean(1, True).expand(-1, 4, -1, -1))
        return self.finish(a * torch.sigmoid(a) + b * (b > 0))


class Looped(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in self.convs:
            x = layer(x)
            x = F.silu(x)
        return self.finish(x)


@own(3, twin=Looped)
class FormulaInLoop(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in self.convs:
            x = layer(x)
            x = x * torch.sigmoid(x)
        return self.finish(x)


@own(3, twin=Looped)
class FunctionInLoop(Base):
    def forward(self, x):
        x = self.start(x)
        for layer in self.convs:
            x = swish(layer(x))
        return self.finish(x)


class InProperty(Base):
    def forward(self, x):
        self.kept = self.start(x)
        return self.finish(F.silu(self.kept))


@own(1, twin=InProperty)
class FormulaInProperty(Base):
    """The formula stands in a property, which no rewritten method replaces."""

    @property
    def bent(self):
        return self.kept * self.kept.sigmoid()

    def forward(self, x):
        self.kept = self.start(x)
        return self.finish(self.bent)


@own(1, twin=InProperty)
class FormulaOfAttribute(Base):
    def forward(self, x):
        self.kept = self.start(x)
        return self.finish(self.kept * self.kept.sigmoid())


@own(1)
class GluByHand(Base):
    """One half gates the other: no function of one map."""

    def __init__(self):
        super().__init__()
        self.wide = conv(4, 8)

    def forward(self, x):
        a, b = self.wide(F.relu(self.start(x))).chunk(2, 1)
        return self.finish(a * torch.sigmoid(b))


@own(1)
class GateByHand(Base):
    """Squeeze and excitation with every activation written out: one site, none in the gate."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        x = F.relu(self.start(x))
        g = self.down(x.mean((2, 3), keepdim=True))
        g = self.up(g * (g > 0))
        return self.finish(x * ((g + 3).clamp(0, 6) / 6))


class MishTwin(Base):
    def forward(self, x):
        return self.finish(F.mish(self.start(x)))


@own(1, twin=MishTwin)
class MishByHand(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(x * torch.tanh(F.softplus(x)))


@own(1, twin=MishTwin)
class MishByModules(Base):
    def __init__(self):
        super().__init__()
        self.tanh, self.softplus = nn.Tanh(), nn.Softplus()

    def forward(self, x):
        x = self.start(x)
        return self.finish(x.mul(self.tanh(self.softplus(x))))


class HardTwin(Base):
    def forward(self, x):
        x = F.hardswish(self.convs[0](self.start(x)))
        return self.finish(F.hardswish(self.convs[1](x)))


@own(2, twin=HardTwin)
class HardSwishByFunction(Base):
    def forward(self, x):
        x = hard_swish(self.convs[0](self.start(x)))
        return self.finish(hard_swish(self.convs[1](x), True))


@own(2, twin=HardTwin)
class HardSwishByClamp(Base):
    def forward(self, x):
        x = self.convs[0](self.start(x))
        y = self.convs[1](x * (x + 3).clamp(0, 6) / 6)
        return self.finish(
            y
            * torch.clamp(
                y + 3,  # as in the paper
                min=0,
                max=6,
            ).div(6)
        )


class GeluTwin(Base):
    def forward(self, x):
        return self.finish(F.gelu(self.start(x)))


@own(1, twin=GeluTwin)
class GeluByHand(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


@own(0)
class QuantisedRelu(Base):
    """A straight-through estimator: its gradient is not its derivative."""

    def forward(self, x):
        return self.finish(Rounded.apply(self.start(x)))


class LeakyTwin(Base):
    def forward(self, x):
        return self.finish(F.leaky_relu(self.convs[0](self.start(x)), 0.2))


@own(1, twin=LeakyTwin)
class FunctionOfNewStyle(Base):
    def forward(self, x):
        return self.finish(Bent.apply(self.convs[0](self.start(x)), 0.2))


@own(0)
class OverSeveralStatements(Base):
    def forward(self, x):
        x = self.start(x)
        g = torch.sigmoid(x)
        x = x * g
        return self.finish(x)


@own(0)
class WrittenOver(Base):
    def forward(self, x):
        y = self.start(x)
        y[y < 0] = 0
        z = self.convs[0](y)
        z *= torch.sigmoid(z)
        return self.finish(z)


@own(0)
class SwishWithParameter(Base):
    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x):
        x = self.start(x)
        return self.finish(x * torch.sigmoid(self.beta * x))


class SkipTwin(Base):
    def forward(self, x):
        y = self.start(x)
        return self.finish(self.convs[0](F.silu(y)) + y)


@own(1, twin=SkipTwin)
class ReadTwice(Base):
    """The map goes on beside the formula."""

    def forward(self, x):
        y = self.start(x)
        return self.finish(self.convs[0](y / (1 + torch.exp(-y))) + y)


class ListTwin(Base):
    def forward(self, x):
        maps = [self.start(x)]
        for layer in self.convs[:2]:
            maps.append(layer(maps[-1]))
        return self.finish(sum(F.relu(m) for m in maps))


@own(3, twin=ListTwin)
class FormulaInGenerator(Base):
    def forward(self, x):
        maps = [self.start(x)]
        for layer in self.convs[:2]:
            maps.append(layer(maps[-1]))
        return self.finish(sum(m * (m > 0) for m in maps))


@own(0)
class NotPointwise(Base):
    """Soft attention over the channels, and a map scaled by its own greatest value."""

    def forward(self, x):
        y = self.start(x)
        y = y * y.softmax(1)
        return self.finish(y / y.abs().amax((1, 2, 3), keepdim=True))


class BranchTwin(Base):
    def forward(self, x):
        y = self.start(x)
        return self.finish(self.convs[0](F.relu(y)) if self.training else self.convs[0](F.silu(y)))


@own(2, twin=BranchTwin)
class OtherFormulaInTraining(Base):
    def forward(self, x):
        y = self.start(x)
        return self.finish(self.convs[0](y * (y > 0)) if self.training else self.convs[0](y * y.sigmoid()))
