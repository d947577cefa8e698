"""Every family × option combination × layout, and inputs for them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from reborn_nas.activations import build_activation, family_names, get_family
from reborn_nas.architecture import Choice

CHANNELS = 6
SHAPES = {
    "ncl": (4, 6, 9),
    "nchw": (4, 6, 5, 7),
    "nhwc": (4, 5, 7, 6),
    "ncdhw": (4, 6, 3, 4, 5),
    "ndhwc": (4, 3, 4, 5, 6),
    "nc": (9, 6),
    "nlc": (3, 8, 6),
}
CHANNEL_AXIS = {layout: -1 if layout in ("nhwc", "ndhwc", "nlc") else 1 for layout in SHAPES}
RANDOM_WHILE_TRAINING = "rrelu"


@dataclass(frozen=True)
class Case:
    choice: Choice
    layout: str = "nchw"

    def build(self, **arguments: object) -> nn.Module:
        torch.manual_seed(1)
        return build_activation(self.choice, CHANNELS, layout=self.layout, original=nn.SiLU(), **arguments)

    def input(self, dtype: torch.dtype = torch.float32, seed: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(SHAPES[self.layout], generator=generator, dtype=torch.float64).to(dtype)

    def settled(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """In eval mode, with running statistics and affine weights that are not those of a fresh BatchNorm."""
        module = self.build().to(dtype)
        generator = torch.Generator().manual_seed(3)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                for values, low, high in (
                    (part.weight.data, -1.5, 1.5),
                    (part.bias.data, -1.0, 1.0),
                    (part.running_mean, -1.0, 1.0),
                    (part.running_var, 0.3, 3.0),
                ):
                    values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
        return module.eval()


def combinations() -> list[Choice]:
    found = []
    for name in family_names():
        options = get_family(name).options
        values = [option.values or (option.default, 0.2) for option in options.values()]
        found += [
            Choice(name, **dict(zip(options, combination))) for combination in itertools.product(*values)
        ]
    return found


CHOICES = combinations()
NCHW = [Case(choice) for choice in CHOICES]
FIRST = NCHW + [Case(choice, layout) for choice in CHOICES for layout in ("ncl", "ncdhw")]
ALL = [
    Case(choice, layout)
    for choice in CHOICES
    for layout in sorted(get_family(choice.name).layouts(**choice.options))
]
SAMPLE = [
    Case(choice, layout)
    for choice in {choice.name: choice for choice in reversed(CHOICES)}.values()
    for layout in ("nchw", "ncl", "ncdhw")
    if layout == "nchw" or choice.name in ("reborn", "crelu", "frelu")
] + [
    Case(Choice.parse(label), layout)
    for label, layout in (
        ("reborn(kernel_size=3,compression=none,deconv=depthwise,positive=original)", "nhwc"),
        ("reborn(kernel_size=5,compression=3x3,deconv=dense,positive=relu)", "nc"),
        ("positive_twin(kernel_size=3,compression=1x1,deconv=depthwise,positive=original)", "nhwc"),
        ("crelu(compression=none)", "nhwc"),
        ("prelu", "nlc"),
    )
]


def over(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: f"{case.choice.label}-{case.layout}")
