"""Costs: by hand, against torch's own counter of FLOPs, and predictions against built networks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import (
    Cost,
    apply,
    build,
    build_converted,
    cost,
    count,
    discover,
    plan,
    predict,
    resolve,
)
from reborn_nas.backbone.cost import added
from reborn_nas.backbone.replace.planning import everywhere
from tests.backbone.zoo import Twice

CHOICES = [
    "relu",
    "prelu",
    "frelu",
    "extended_conv",
    "crelu",
    "reborn",
    "reborn(kernel_size=5,compression=3x3,deconv=depthwise)",
    "reborn(positive=original)",
    "crelu(compression=none)",
    "reborn(compression=none)",
]


def test_counts_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 8·3·9 + 8 parameters, 216 MACs a pixel
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 4, 3, stride=2, padding=1, groups=4, bias=False),  # 4·2·9 parameters
        nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False),  # 4·2·4
        nn.Flatten(),
        nn.Linear(2 * 8 * 8, 5),  # 645
    )
    cost = count(model, (3, 8, 8))
    assert cost.params == 224 + 72 + 32 + 645
    assert cost.macs == 64 * 216 + 16 * 72 + 16 * 32 + 640
    # results of the two convolutions, the transposed one and the linear layer; ReLU is in place, flatten a view
    assert cost.activation_bytes == 4 * (8 * 64 + 4 * 16 + 2 * 64 + 5)


def test_attention_by_hand() -> None:
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = x.flatten(2).transpose(1, 2)  # (B, 16, 6)
            y = torch.nn.functional.scaled_dot_product_attention(q, q, q)
            return torch.einsum("bij,bkj->bik", y, q) @ q

    assert count(Attend(), (6, 4, 4)).macs == 4 * 16 * 16 * 6


def test_costs_add() -> None:
    assert Cost(3, 2, 1) + Cost(1, 1, 1) - Cost(4, 3, 2) == Cost(0, 0, 0)


def _checked(name: str, label: str) -> None:
    spec = resolve(name, input_size=(3, 32, 32), num_classes=5)
    template = build(spec, device="meta")
    found = discover(template, spec.input_size)
    architecture = Architecture(spec, everywhere(found, label))
    new = build_converted(spec, architecture, seed=0).eval()
    predicted = predict(template, architecture, discovery=found)
    assert predicted == count(new, spec.input_size)
    assert predicted.params == sum(p.numel() for p in new.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        new(torch.zeros(1, *spec.input_size))  # type: ignore[misc]
    assert predicted.macs == flops.get_total_flops() // 2


@pytest.mark.parametrize("label", CHOICES)
def test_predicts_what_is_counted(label: str) -> None:
    _checked("torchvision:resnet18", label)


@pytest.mark.slow
@pytest.mark.parametrize("label", CHOICES)
@pytest.mark.parametrize(
    "name",
    [
        "resnet34",
        "convnext_tiny",
        "mobilenetv3_small_050",
        "densenet121",
        "torchvision:googlenet",
        "nf_resnet26",
    ],
)
def test_predicts_what_is_counted_on_more(name: str, label: str) -> None:
    _checked(name, label)


def test_a_mixed_architecture() -> None:
    spec = resolve("resnet18", input_size=(1, 28, 20), num_classes=5)
    template = build(spec, device="meta")
    choices = {"act1": "crelu", "layer1.0.act1": "reborn(compression=none)", "layer2.1.act2": "frelu"}
    architecture = Architecture(spec, choices)
    predicted = predict(template, architecture, spec.input_size)
    new = apply(build(spec), plan(template, architecture, spec.input_size))
    assert predicted == count(new, spec.input_size)


@pytest.mark.parametrize(("label", "copies"), [("reborn(kernel_size=5)", 0), ("crelu(compression=none)", 1)])
def test_predicts_without_tracing_again_and_builds_only_what_is_doubled(
    label: str, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = resolve("resnet34", input_size=(3, 32, 32), num_classes=5)
    template = build(spec, device="meta")
    found = discover(template, spec.input_size)
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        original = getattr(cost, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **named)

        return call

    for name in ("discover", "replicate", "trace_double"):
        monkeypatch.setattr(cost, name, counted(name))
    predict(template, Architecture(spec, everywhere(found, label)), discovery=found)
    assert calls == Counter(replicate=copies, trace_double=copies)


def test_a_block_that_runs_twice_works_twice() -> None:
    model = Twice()
    architecture = Architecture("x", {"block.1": "reborn"})
    new = apply(model, plan(model, architecture, (3, 16, 16)))
    predicted = predict(model, architecture, (3, 16, 16))
    assert predicted == count(new, (3, 16, 16))
    deconv_and_compression = 16 * 16 * (8 * 8 * 9 + 16 * 8)
    assert predicted.macs - count(model, (3, 16, 16)).macs == 2 * deconv_and_compression


def test_channels_last_sites_cost_what_the_same_map_costs() -> None:
    assert added("reborn", 6, (5, 4, 6), "nhwc") == added("reborn", 6, (6, 5, 4), "nchw")
    assert added("reborn(kernel_size=1)", 6, (6, 5, 4), "nchw") == (36 + 12 + 72, 20 * (36 + 72))
    assert added("reborn", 6, (6,), "nc")[1] == added("reborn", 6, (6, 1, 1), "nchw")[1]
