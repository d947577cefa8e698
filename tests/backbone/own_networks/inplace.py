"""In place, views, branches by mode or value, gates, and activations written as expressions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.backbone.own_networks.register import Base, conv, own


@own(1)
class ReluOfSlice(Base):
    def forward(self, x):
        a = self.start(x)
        F.relu_(a[:, :2])
        return self.finish(a)


@own(1)
class ReluOfChunk(Base):
    def forward(self, x):
        a = self.start(x)
        left, right = a.chunk(2, 1)
        left.relu_()
        return self.finish(a + right.repeat(1, 2, 1, 1))


@own(1)
class ReluOfView(Base):
    def forward(self, x):
        a = self.start(x)
        F.relu(a.view(a.shape[0], -1), inplace=True)
        return self.finish(a)


@own(1)
class ReluOfData(Base):
    def forward(self, x):
        a = self.start(x)
        a.data.relu_()
        return self.finish(a)


@own(1)
class ReluOfDetached(Base):
    def forward(self, x):
        a = self.start(x)
        a.detach().relu_()
        return self.finish(a)


@own(1)
class ReluOfTransposed(Base):
    def forward(self, x):
        a = self.start(x)
        F.relu(a.permute(0, 2, 3, 1), inplace=True)
        return self.finish(a)


@own(1)
class ReluOfUnbound(Base):
    def forward(self, x):
        a = self.start(x)
        for image in a.unbind(0):
            image.relu_()
        return self.finish(a)


@own(1)
class ChunkUsedOnly(Base):
    """The half that was activated is the one that is used: nothing hides here."""

    def forward(self, x):
        left, right = self.start(x).chunk(2, 1)
        left = F.relu(left)
        return self.finish(torch.cat([left, right], 1))


@own(1)
class ResidualWritesOver(Base):
    def forward(self, x):
        x = self.start(x)
        r = self.convs[0](F.relu(x))
        x += r
        return self.finish(x)


@own(2)
class PreActivation(Base):
    """The shortcut starts in front of an in-place activation, as in old ResNets v2."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.start(x)
        y = self.act(x)
        y = self.act(self.convs[0](y))
        return self.finish(self.convs[1](y) + x)


@own(1)
class SliceAssigned(Base):
    def forward(self, x):
        a = self.convs[0](self.start(x))
        a[:, :2] = F.relu(a[:, :2])
        return self.finish(a)


@own(1)
class ResultDropped(Base):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.start(x)
        self.act(x)
        return self.finish(x)


@own(1)
class OldNameRead(Base):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.start(x)
        kept = x
        return self.finish(self.convs[0](self.act(x)) + kept)


@own(1)
class ResultWrittenOver(Base):
    """What the activation gave is changed in place; LeakyReLU bears that, ReLU does not."""

    def __init__(self):
        super().__init__()
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x):
        x = self.act(self.start(x))
        x *= 2
        x[:, 0] = 1
        return self.finish(x)


@own(2)
class InplaceDropout(Base):
    """torchvision's MobileNetV3 head."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(4, 8), nn.Hardswish(), nn.Dropout(0.2, inplace=True), nn.Linear(8, 5)
        )

    def forward(self, x):
        return self.classifier(F.hardswish(self.start(x)).mean((2, 3)))


@own(2)
class OtherInTraining(Base):
    def forward(self, x):
        y = self.start(x)
        y = F.relu(y) if self.training else F.relu6(y)
        return self.finish(self.convs[0](y))


@own(2)
class AuxiliaryHead(Base):
    def forward(self, x):
        x = self.relu(self.start(x))
        if self.training:
            return self.finish(x), self.finish(F.relu(self.convs[0](x)))
        return self.finish(x)


@own(2)
class ByValue(Base):
    """A branch that depends on the numbers."""

    def forward(self, x):
        x = self.start(x)
        if x.mean() > -1e9:
            x = F.relu(self.convs[0](x))
        return self.finish(F.relu(self.convs[1](x)))


@own(2)
class BySignOfData(Base):
    def forward(self, x):
        y = self.start(x)
        if y.sum().item() > 0:
            y = F.relu(self.convs[0](y))
        else:
            y = F.gelu(self.convs[1](y))
        return self.finish(y)


@own(2)
class ByBatchSize(Base):
    def forward(self, x):
        y = self.start(x)
        if len(x) > 2:
            y = F.relu(self.convs[0](y))
        return self.finish(F.relu(self.convs[1](y)))


@own(2)
class SizeDecides(Base):
    def forward(self, x):
        y = F.relu(self.start(x))
        if x.shape[-1] >= 20:
            y = F.relu(self.convs[0](y))
        return self.finish(y)


@own(2)
class DropBranch(Base):
    """Whole branches dropped at random in training."""

    def forward(self, x):
        x = self.start(x)
        left = F.relu(self.convs[0](x))
        right = F.relu(self.convs[1](x))
        if self.training:
            if torch.rand(()) < 0.5:
                left = torch.zeros_like(left)
            else:
                right = torch.zeros_like(right)
        return self.finish(left + right)


@own(2)
class SkipBranch(Base):
    """A branch not run at random in training."""

    def forward(self, x):
        x = F.relu(self.start(x))
        if not self.training or torch.rand(()).item() < 0.6:
            x = x + F.relu(self.convs[0](x))
        return self.finish(x)


class CbamGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1))

    def forward(self, x):
        average = self.mlp(F.adaptive_avg_pool2d(x, 1))
        largest = self.mlp(F.adaptive_max_pool2d(x, 1))
        return x * torch.sigmoid(average + largest)


@own(1)
class Cbam(Base):
    def __init__(self):
        super().__init__()
        self.gate = CbamGate()

    def forward(self, x):
        return self.finish(self.gate(F.relu(self.start(x))))


@own(1)
class SqueezeExcite(Base):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        x = self.relu(self.start(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return self.finish(x * gate[:, :, None, None])


class SiluTwin(Base):
    def forward(self, x):
        return self.finish(F.silu(self.start(x)))


@own(1, twin=SiluTwin)
class SwishByHand(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(x * x.sigmoid())


class ReluTwin(Base):
    def forward(self, x):
        return self.finish(F.relu(self.start(x)))


@own(1, twin=ReluTwin)
class ReluByMask(Base):
    def forward(self, x):
        y = self.start(x)
        return self.finish(y * (y > 0))


@own(1, twin=ReluTwin)
class LeakyByWhere(Base):
    def forward(self, x):
        y = self.start(x)
        return self.finish(torch.where(y > 0, y, 0.1 * y))


class Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


@own(1, twin=ReluTwin)
class OwnFunction(Base):
    def forward(self, x):
        return self.finish(Rectifier.apply(self.start(x)))


class Mish(nn.Module):
    def forward(self, x):
        return x * torch.tanh(F.softplus(x))


@own(1, twin=SiluTwin)
class OwnActivationModule(Base):
    def __init__(self):
        super().__init__()
        self.act = Mish()

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


class MemoryEfficientSwish(nn.Module):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            s = torch.sigmoid(x)
            return grad * (s * (1 + x * (1 - s)))

    def forward(self, x):
        return self.Function.apply(x)


@own(1, twin=SiluTwin)
class SwishAsInEfficientnetPytorch(Base):
    def __init__(self):
        super().__init__()
        self._swish = MemoryEfficientSwish()

    def forward(self, x):
        return self.finish(self._swish(self.start(x)))


@own(1)
class Glu(Base):
    """A gated linear unit beside a site."""

    def __init__(self):
        super().__init__()
        self.wide = conv(4, 8)

    def forward(self, x):
        return self.finish(F.glu(self.wide(F.relu(self.start(x))), 1))


@own(1)
class Maxout(Base):
    def forward(self, x):
        x = F.relu(self.start(x))
        return self.finish(torch.max(self.convs[0](x), self.convs[1](x)))


@own(1)
class ClampBothSides(Base):
    def forward(self, x):
        return self.finish(torch.clamp(self.start(x), 0, 6))


@own(2)
class InplaceChain(Base):
    def forward(self, x):
        x = self.start(x).relu_().add_(1).mul_(0.5)
        return self.finish(self.convs[0](x).clamp_(min=0))


@own(1)
class BothSidesOfInplace(Base):
    """The map is read in front of the in-place activation and behind it."""

    def forward(self, x):
        x = self.start(x)
        before = x.mean((2, 3))
        F.relu_(x)
        return self.head(before) + self.finish(x)


@own(1)
class IntoBuffer(Base):
    """Results collected in a tensor made beforehand."""

    def forward(self, x):
        x = self.start(x)
        out = x.new_zeros(x.shape[0], 8, *x.shape[2:])
        out[:, :4] = F.relu(x)
        out[:, 4:] = self.convs[0](x)
        return self.finish(out[:, 2:6])


@own(1)
class PerGroup(Base):
    def forward(self, x):
        parts = torch.split(self.start(x), 2, dim=1)
        return self.finish(torch.cat([F.relu(part) for part in parts], 1))


@own(2)
class ChannelShuffle(Base):
    def forward(self, x):
        x = F.relu(self.start(x))
        B, C, H, W = x.shape
        x = x.view(B, 2, C // 2, H, W).transpose(1, 2).reshape(B, C, H, W)
        return self.finish(F.relu(self.convs[0](x)))


@own(1)
class Concatenated(Base):
    """CReLU by hand."""

    def __init__(self):
        super().__init__()
        self.mix = conv(8, 4)

    def forward(self, x):
        x = self.start(x)
        return self.finish(self.mix(F.relu(torch.cat([x, -x], 1))))


@own(2)
class NegativePart(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(F.relu(x) - 0.3 * F.relu(-x))


@own(1)
class RunningMean(Base):
    """A buffer of its own, updated in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(4))

    def forward(self, x):
        x = F.relu(self.start(x))
        if self.training:
            with torch.no_grad():
                self.average.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        return self.finish(x - self.average[None, :, None, None])


@own(1)
class CountsCalls(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return self.finish(F.relu(self.start(x)))


@own(2)
class ScaledTwice(Base):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        x = self.gain * F.relu(self.start(x))
        return self.finish(x + self.gain * self.relu(self.convs[0](x)))


@own(1)
class InputInPlace(Base):
    """Its own input is changed in place."""

    def forward(self, x):
        x.mul_(0.5)
        return self.finish(F.relu(self.start(x)))


@own(1)
class ReluOfInput(Base):
    """The activation acts on what the caller gave, in place."""

    def forward(self, x):
        F.relu_(x)
        return self.finish(self.start(x))


@own(1)
class SoftGate(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(F.relu(self.convs[0](x)) * torch.tanh(self.convs[1](x)))


@own(2)
class HalfAndHalf(Base):
    """Two activations on the two halves of one map (IBN, GhostNet)."""

    def forward(self, x):
        left, right = torch.split(self.start(x), 2, 1)
        return self.finish(torch.cat([F.relu(left), F.gelu(right)], 1))
