"""Kinds of modules: containers, parametrisations, hooks, wrappers, checkpoints, scripts, graphs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.utils.checkpoint
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from tests.backbone.own_networks.register import Base, conv, own


class Indexing(nn.Sequential):
    def forward(self, x):
        x = self[0](x)
        x = self[1](x)
        return self[3](self[2](x))


@own(2)
class SequentialByIndex(Base):
    def __init__(self):
        super().__init__()
        self.body = Indexing(conv(), nn.ReLU(), conv(), nn.ELU())

    def forward(self, x):
        return self.finish(self.body(self.start(x)))


class Walking(nn.Sequential):
    def forward(self, x, scale=1.0):
        for module in self:
            x = module(x) * scale
        return x


@own(2)
class SequentialByLoop(Base):
    def __init__(self):
        super().__init__()
        self.body = Walking(conv(), nn.ReLU(), conv(), nn.ReLU())

    def forward(self, x):
        return self.finish(self.body(self.start(x), 0.9))


class ConvBNReLU(nn.Sequential):
    def __init__(self, into, out):
        super().__init__(conv(into, out), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


@own(2)
def sequential_as_network():
    return nn.Sequential(
        ConvBNReLU(3, 4), ConvBNReLU(4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


@own(2)
def repeated_object():
    act = nn.ReLU(inplace=True)
    return nn.Sequential(conv(3), act, conv(), act, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@own(2)
def ordered_names():
    layers = OrderedDict([("conv", conv(3)), ("relu", nn.ReLU()), ("last", conv()), ("relu last", nn.ReLU())])
    return nn.Sequential(layers)


@own(2)
class OddNames(Base):
    def __init__(self):
        super().__init__()
        self.add_module("generalized layers0", nn.ReLU())
        self.acts = nn.ModuleDict({"after stem": nn.ReLU()})

    def forward(self, x):
        x = self.acts["after stem"](self.start(x))
        return self.finish(self._modules["generalized layers0"](self.convs[0](x)))


@own(2)
class SharedPRelu(Base):
    def __init__(self):
        super().__init__()
        self.act = nn.PReLU()

    def forward(self, x):
        x = self.act(self.start(x))
        return self.finish(self.act(self.convs[0](x)))


@own(2)
class PReluPerChannel(Base):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.PReLU(4), nn.PReLU(4, init=0.1)

    def forward(self, x):
        x = self.one(self.start(x))
        return self.finish(self.two(self.convs[0](x)))


class Conv2d(nn.Conv2d):
    """A user's own class under torch's name."""

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@own(2)
class OwnConv(Base):
    def __init__(self):
        super().__init__()
        self.grouped = Conv2d(4, 4, 3, padding=1, groups=4)
        self.plain = Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.grouped(F.relu(self.start(x)))
        return self.finish(self.plain(F.relu(x)))


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


@own(2)
class WeightStandardised(Base):
    def __init__(self):
        super().__init__()
        self.one, self.two = StandardisedConv(4, 4, 3), StandardisedConv(4, 4, 3)

    def forward(self, x):
        x = self.one(F.relu(self.start(x)))
        return self.finish(self.two(F.relu(x)))


class ReLU(nn.ReLU):
    """A user's own activation under torch's name, shifted."""

    def forward(self, x):
        return F.relu(x - 0.1)


class ShiftTwin(Base):
    def forward(self, x):
        return self.finish(F.relu(self.start(x)))


@own(1, twin=ShiftTwin)
class OwnRelu(Base):
    def __init__(self):
        super().__init__()
        self.act = ReLU()

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


class FunctionalWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3) * 0.2)

    def forward(self, x):
        return F.relu(F.conv2d(x, self.weight, padding=1))


@own(1)
class OwnWeights(Base):
    def __init__(self):
        super().__init__()
        self.layer = FunctionalWeights()

    def forward(self, x):
        return self.finish(self.layer(self.start(x)))


def _two(wrap):
    return nn.Sequential(wrap(conv(3)), nn.ReLU(), wrap(conv()), nn.ReLU(), nn.Flatten(2))


@own(2)
def weight_norm_old():
    return _two(weight_norm)


@own(2)
def weight_norm_new():
    return _two(parametrizations.weight_norm)


@own(2)
def spectral_norm_old():
    return _two(spectral_norm)


@own(2)
def spectral_norm_new():
    return _two(parametrizations.spectral_norm)


class Symmetric(nn.Module):
    def forward(self, w):
        return (w + w.flip(-1)) / 2


@own(2)
class OwnParametrization(Base):
    def __init__(self):
        super().__init__()
        parametrize.register_parametrization(self.convs[0], "weight", Symmetric())

    def forward(self, x):
        x = F.relu(self.start(x))
        return self.finish(F.relu(self.convs[0](x)))


@own(2)
class ParametrizedOwner(Base):
    """The class of the module that holds the call is torch's invention."""

    def __init__(self):
        super().__init__()
        self.block = FunctionalWeights()
        parametrize.register_parametrization(self.block, "weight", Symmetric())

    def forward(self, x):
        return self.finish(self.block(F.relu(self.start(x))))


@own(2)
class Pruned(Base):
    def __init__(self):
        super().__init__()
        prune.l1_unstructured(self.convs[0], "weight", amount=0.3)

    def forward(self, x):
        x = F.relu(self.start(x))
        return self.finish(F.relu(self.convs[0](x)))


@own(2)
class TiedWeights(Base):
    def __init__(self):
        super().__init__()
        self.convs[1].weight = self.convs[0].weight

    def forward(self, x):
        x = F.relu(self.convs[0](self.start(x)))
        return self.finish(F.relu(self.convs[1](x)))


@own(2)
class SharedBlock(Base):
    """One block under two names."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(conv(), nn.ReLU())
        self.two = self.one

    def forward(self, x):
        return self.finish(F.relu(self.two(self.one(self.start(x)))))


@own(2)
class Siamese(Base):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(), nn.ReLU())

    def forward(self, x):
        x = self.start(x)
        return self.finish(F.relu(self.body(x) - self.body(x.flip(-1))))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act = conv(), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        return x + self.act(self.bn(self.conv(x)))


@torch.jit.script
def scripted_relu(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


@own(2)
class ScriptedFunction(Base):
    def forward(self, x):
        x = scripted_relu(self.start(x))
        return self.finish(F.relu(self.convs[0](x)))


@own(2)
class ScriptedPart(Base):
    def __init__(self):
        super().__init__()
        self.part = torch.jit.script(Block())

    def forward(self, x):
        return self.finish(F.relu(self.part(self.start(x))))


@own(2)
class TracedPart(Base):
    def __init__(self):
        super().__init__()
        self.part = torch.jit.trace(nn.Sequential(conv(), nn.ReLU()), torch.zeros(2, 4, 16, 16))

    def forward(self, x):
        return self.finish(F.relu(self.part(self.start(x))))


@own(1)
def scripted_whole():
    return torch.jit.script(nn.Sequential(conv(3), nn.ReLU()))


class Plain(Base):
    def forward(self, x):
        x = F.relu(self.start(x))
        return self.finish(self.relu(self.convs[0](x)))


@own(2)
def graph_module():
    return fx.symbolic_trace(Plain())


@own(2)
class GraphInside(Base):
    def __init__(self):
        super().__init__()
        self.block = fx.symbolic_trace(FunctionalWeights())

    def forward(self, x):
        return self.finish(F.relu(self.block(self.start(x))))


@own(2)
class Checkpointed(Base):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        x = F.relu(self.start(x))
        return self.finish(torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False))


@own(2)
class CheckpointedMethod(Base):
    def inner(self, x):
        return self.relu(self.convs[0](x))

    def forward(self, x):
        x = self.relu(self.start(x))
        return self.finish(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=True))


@own(3)
class CheckpointedInTraining(Base):
    def forward(self, x):
        x = F.relu(self.start(x))
        for layer in self.convs[:2]:
            step = lambda t, layer=layer: F.relu(layer(t))  # noqa: E731
            x = torch.utils.checkpoint.checkpoint(step, x, use_reentrant=False) if self.training else step(x)
        return self.finish(x)


def relu_hook(module, given, made):
    return F.relu(made)


@own(1)
class ReluInHook(Base):
    def __init__(self):
        super().__init__()
        self.convs[0].register_forward_hook(relu_hook)

    def forward(self, x):
        return self.finish(self.convs[0](self.start(x)))


class Keep:
    """A hook that keeps what it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, given, made):
        self.seen.append(made)


@own(2)
class FeatureHooks(Base):
    def __init__(self):
        super().__init__()
        self.keep = Keep()
        self.relu.register_forward_hook(self.keep)

    def forward(self, x):
        self.keep.seen.clear()
        x = self.relu(self.start(x))
        self.relu(self.convs[0](x))
        return self.finish(self.keep.seen[0] + self.keep.seen[1])


def double_hook(module, given, made):
    return made * 2


@own(1)
class HookOnActivation(Base):
    """A hook that changes what the activation gives."""

    def __init__(self):
        super().__init__()
        self.relu.register_forward_hook(double_hook)

    def forward(self, x):
        return self.finish(self.relu(self.start(x)))


def shift_hook(module, given):
    return (given[0] - 0.2,)


@own(1)
class PreHookOnActivation(Base):
    def __init__(self):
        super().__init__()
        self.relu.register_forward_pre_hook(shift_hook)

    def forward(self, x):
        return self.finish(self.relu(self.start(x)))


class Wrapper(nn.Module):
    """Like DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@own(2)
def wrapped():
    return Wrapper(Plain())


class Delegating(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x):
        return self.finish(F.relu(self.convs[0](self.net.relu(self.net.start(x)))))


@own(2)
def delegating():
    return Delegating(Plain())


@own(2)
def data_parallel():
    return nn.DataParallel(Plain())


@dataclass(eq=False)
class DataclassModule(nn.Module):
    width: int = 4

    def __post_init__(self):
        super().__init__()
        self.conv, self.act = conv(3, self.width), nn.ReLU()

    def forward(self, x):
        return F.gelu(self.act(self.conv(x)) - 0.2)


@own(2)
def dataclass_module():
    return DataclassModule()


TYPED = """
import torch
from torch import nn
from torch.nn import functional as F

class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.last = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return F.relu(self.last(self.act(self.conv(x))))
"""


@own(2)
def typed_at_the_prompt():
    space = {"__name__": "__main__"}
    exec(TYPED, space)
    return space["Typed"]()


@own(2)
class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()
        self(torch.zeros(2, 3, 16, 16))

    def forward(self, x):
        return F.relu(F.relu(self.norm(self.conv(x))) - 0.1)


class Ema(Base):
    """A network that keeps an averaged copy of a part of itself."""

    def __init__(self):
        super().__init__()
        self.block = Block()
        self.average = copy.deepcopy(self.block).requires_grad_(False)


@own(3)
class TeacherInside(Ema):
    def forward(self, x):
        x = F.relu(self.start(x))
        with torch.no_grad():
            target = self.average(x)
        y = self.block(x)
        return {"logits": self.finish(y), "loss": (y - target).square().mean()}


@own(3)
class EmaInside(Ema):
    def forward(self, x):
        if self.training:
            with torch.no_grad():
                for old, new in zip(self.average.parameters(), self.block.parameters()):
                    old.lerp_(new, 0.1)
        x = F.relu(self.start(x))
        return self.finish(self.block(x) + self.average(x).detach())


@own(2)
class WalksParameters(Base):
    """A forward that reads all its parameters (weight decay in the loss)."""

    def forward(self, x):
        x = F.relu(self.start(x))
        penalty = sum(p.square().sum() for p in self.parameters())
        return self.finish(F.relu(self.convs[0](x))), penalty


@own(2)
class WalksModules(Base):
    """A forward that walks its children."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU())

    def forward(self, x):
        x = self.start(x)
        for _, module in self.body.named_children():
            x = module(x)
            if isinstance(module, nn.ReLU):
                x = x * 0.5
        return self.finish(x)


@own(2)
class TypeDispatch(Base):
    """Does something else behind each kind of layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList([conv(), nn.ReLU(), conv(), nn.GELU()])

    def forward(self, x):
        x = self.start(x)
        for module in self.body:
            x = F.dropout(module(x), 0.1, self.training) if type(module) is nn.ReLU else module(x)
        return self.finish(x)


@own(3)
class UNet(Base):
    def forward(self, x):
        a = self.relu(self.start(x))
        b = self.relu(self.convs[0](F.max_pool2d(a, 2)))
        up = F.interpolate(b, size=a.shape[2:])
        return self.convs[2](self.relu(self.convs[1](up) + a))


@own(1)
class Upsampling(Base):
    def __init__(self):
        super().__init__()
        self.up, self.shuffle = conv(4, 16), nn.PixelShuffle(2)

    def forward(self, x):
        return self.finish(F.relu(self.shuffle(self.up(self.start(x)))))


@own(1)
class WithGru(Base):
    """Rows read by a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        x = F.relu(self.start(x)).mean(2).transpose(1, 2)
        return self.head(self.gru(x)[0][:, -1])


@own(1)
class WithAttention(Base):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = F.relu(self.start(x)).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


@own(1)
class Fourier(Base):
    def forward(self, x):
        x = torch.fft.irfft2(torch.fft.rfft2(self.start(x)), s=x.shape[2:])
        return self.finish(F.relu(x))


@own(2, inputs=lambda batch, size: (torch.randn(batch, 3, size, size), torch.randn(batch, 4)), example=True)
class TwoInputs(Base):
    def forward(self, image, extra):
        x = F.relu(self.start(image)) + extra[:, :, None, None]
        return self.finish(F.relu(self.convs[0](x)))


@own(
    2,
    inputs=lambda batch, size: ([torch.randn(batch, 3, size, size), torch.randn(batch, 3, size, size)],),
    example=True,
)
class ListOfImages(Base):
    def forward(self, views):
        return [self.finish(F.relu(self.convs[0](self.relu(self.start(view))))) for view in views]


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = conv(), nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(x))


@own(3)
class Experts(Base):
    """Every image goes to the expert of its largest score."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(Expert() for _ in range(2))
        self.router = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.start(x))
        choice = self.router(x.mean((2, 3))).argmax(1)
        out = torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            mine = choice == k
            if mine.any():
                out[mine] = expert(x[mine])
        return self.finish(out)


@own(2)
class SoftExperts(Base):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(Expert() for _ in range(2))
        self.router = nn.Linear(4, 2)

    def forward(self, x):
        x = self.start(x)
        weights = self.router(x.mean((2, 3))).softmax(-1)
        return self.finish(
            sum(w[:, None, None, None] * e(x) for w, e in zip(weights.unbind(1), self.experts))
        )


@own(2)
class HoldsParent(Base):
    """A child that knows its parent."""

    def __init__(self):
        super().__init__()
        self.child = Expert()
        self.child.parent = [self]

    def forward(self, x):
        return self.finish(F.relu(self.child(self.child.parent[0].start(x))))


@own(2)
class Functionalised(Base):
    def __init__(self):
        super().__init__()
        self.block = Expert()

    def forward(self, x):
        x = F.relu(self.start(x))
        weights = {name: p * 0.9 for name, p in self.block.named_parameters()}
        return self.finish(torch.func.functional_call(self.block, weights, (x,)))


@own(1)
class Vmapped(Base):
    def forward(self, x):
        x = self.start(x)
        return self.finish(torch.vmap(lambda image: F.relu(image) * 2)(x))


@own(2, slow=True)
class Conditional(Base):
    """`torch.cond` on a value."""

    def forward(self, x):
        x = F.relu(self.start(x))
        return self.finish(torch.cond(x.sum() > 0, lambda t: F.relu(t - 1), lambda t: t.neg(), (x,)))


@own(1)
class IgnoredByScript(Base):
    @torch.jit.ignore
    def act(self, x):
        return F.relu(x)

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


@own(1)
class NotCompiled(Base):
    @torch.compiler.disable
    def act(self, x):
        return F.relu(x)

    def forward(self, x):
        return self.finish(self.act(self.start(x)))


@own(2)
class Inference(Base):
    """Features under inference mode where not training."""

    def forward(self, x):
        if self.training:
            return self.finish(F.relu(self.start(x)))
        with torch.inference_mode():
            return self.finish(F.relu(self.start(x)))


@own(2)
class OwnBuilder(Base):
    """Layers registered by a builder under numbers."""

    def __init__(self):
        super().__init__()
        for i, layer in enumerate([conv(), nn.ReLU(), conv(), nn.LeakyReLU(0.1)]):
            self.add_module(f"layer{i}", layer)

    def forward(self, x):
        x = self.start(x)
        for i in range(4):
            x = getattr(self, f"layer{i}")(x)
        return self.finish(x)


@own(2)
class Double(Base):
    """Double precision."""

    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        x = F.relu(self.start(x.double()))
        return self.finish(F.relu(self.convs[0](x)))


@own(2)
class ChannelsLast(Base):
    def forward(self, x):
        x = F.relu(self.start(x.to(memory_format=torch.channels_last)))
        x = F.linear(x.permute(0, 2, 3, 1), self.head.weight[:4])
        return F.gelu(x).mean((1, 2))


@own(1)
class QuantAware(Base):
    def __init__(self):
        super().__init__()
        self.fake = torch.ao.quantization.FakeQuantize()

    def forward(self, x):
        return self.finish(F.relu(self.fake(self.start(x))))


@own(2)
class Printed(Base):
    """Prints and asserts what it sees."""

    def forward(self, x):
        assert x.ndim == 4, x.shape
        x = F.relu(self.start(x))
        print("shape", tuple(x.shape), end="\r")
        return self.finish(F.relu(self.convs[0](x)))
