"""What is measured: backbones, what stands at their sites, made-up images, and Eq. 2 as it is written."""

from __future__ import annotations

import copy
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reborn_nas as rn
from reborn_nas.activations import CReLU, Reborn, spare_memory
from reborn_nas.backbone import build, resolve
from reborn_nas.data import Augmentation, ImageSet, plan_parts
from reborn_nas.data.images import assemble

SIZE = (3, 32, 32)
BACKBONES = ("resnet34", "resnet18", "convnet13", "convnet8")
FORMS = {
    "ReLU": "",
    "CReLU": "crelu",
    "reborn k=1": "reborn(kernel_size=1)",
    "reborn k=3": "reborn(kernel_size=3)",
    "reborn k=5": "reborn(kernel_size=5)",
    "reborn depthwise": "reborn(deconv=depthwise)",
    "reborn k=3, sparing": "reborn(kernel_size=3)",
}
"""What stands at every site; sparing blocks make maps again in the backward pass (`spare_memory`)."""
MIXES = tuple(f"mix {number}" for number in range(8))
MIXED = (
    "relu",
    "leaky_relu",
    "silu",
    "crelu",
    "reborn(kernel_size=1)",
    "reborn(kernel_size=3)",
    "reborn(kernel_size=5)",
)


def parent(backbone: str, classes: int = 100) -> nn.Module:
    """The backbone with ReLU and a stem for 32×32 pixels, initialised by seed 0."""
    torch.manual_seed(0)
    return build(resolve(backbone, input_size=SIZE, num_classes=classes), device="cpu")


def network(backbone: str, form: str, classes: int = 100) -> nn.Module:
    """The backbone in one of the `FORMS`, or as "mix N": fixed random choices, the same in every run."""
    model = parent(backbone, classes)
    if form in FORMS and not FORMS[form]:
        return model
    sites = rn.find_sites(model, input_size=SIZE)
    if form in FORMS:
        chosen = {site.name: FORMS[form] for site in sites}
    else:
        draws = random.Random(f"{backbone} {form}")
        chosen = {site.name: draws.choice(MIXED) for site in sites}
    choices = {name: rn.Choice.parse(label) for name, label in chosen.items()}
    converted = rn.convert(model, choices, input_size=SIZE, seed=0)
    spare_memory(converted, form.endswith("sparing"))
    return converted


def thirty() -> list[str]:
    """A fixed list of 30 trainings: 20 different mixes, and ReLU and all reborn five times each, taking turns."""
    rounds = [["ReLU", *(f"mix {4 * turn + k}" for k in range(4)), "reborn k=3"] for turn in range(5)]
    return [form for turn in rounds for form in turn]


def pictures(count: int, classes: int = 100) -> ImageSet:
    """Random images of at most `classes` classes; nothing here depends on what they show."""
    classes = max(1, min(classes, count // 8))  # every part of a set needs every class
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *SIZE), generator=draws, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    names = [str(k) for k in range(classes)]
    parts = plan_parts(labels, names, name="noise", train=torch.arange(count))
    return assemble("noise", lambda kept: pixels[kept], labels, names, parts, Augmentation(4, True))


class LiteralReborn(nn.Module):
    """Eq. 2 word by word: two ReLUs, a transposed convolution, BatchNorm, a concatenation, the compression."""

    def __init__(self, block: Reborn) -> None:
        super().__init__()
        self.deconv, self.norm, self.compress = block.deconv, block.norm, block.compress
        self.negative = block.negative

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H, W)."""
        phase = -F.relu(-x) if self.negative else F.relu(x)
        both = torch.cat([F.relu(x), self.norm(self.deconv(phase))], dim=1)
        return both if self.compress is None else self.compress(both)


class LiteralCReLU(nn.Module):
    """Both phases concatenated, then compressed."""

    def __init__(self, block: CReLU) -> None:
        super().__init__()
        self.compress = block.compress

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H, W)."""
        both = torch.cat([F.relu(x), F.relu(-x)], dim=1)
        return both if self.compress is None else self.compress(both)


def literal(model: nn.Module) -> nn.Module:
    """A copy of `model` whose blocks are as the paper writes them; the same parameters, the same function."""
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Reborn) and child.layout == "nchw":
                setattr(module, name, LiteralReborn(child))
            elif isinstance(child, CReLU) and child.layout == "nchw":
                setattr(module, name, LiteralCReLU(child))
    return twin


def macs(model: nn.Module) -> int:
    """Multiply-accumulates of one image's forward pass, counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    twin = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.empty(1, *SIZE, device="meta"))
    return counter.get_total_flops() // 2
