"""The site tables of well-known backbones, against the golden files and against torch.export as an oracle."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch

from reborn_nas.backbone.find import discover
from tests.backbones import make, size_of
from tests.golden.write_sites import SOURCES, path_of, table

ACTIVATIONS = {
    "relu",
    "hardtanh",
    "silu",
    "gelu",
    "hardswish",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "mish",
    "prelu",
}
EXPORTED = [
    "timm:resnet18",
    "timm:mobilenetv3_small_050",
    "torchvision:shufflenet_v2_x0_5",
    "timm:convnext_atto",
]
EXPORTED_SLOWLY = [
    *(
        "timm:efficientnet_b0",
        "timm:mobilevitv2_050",
        "timm:hrnet_w18_small",
        "timm:skresnet18",
        "timm:repvit_m1",
    ),
    *("torchvision:googlenet", "torchvision:densenet121", "timm:res2next50", "timm:efficientvit_b0"),
    *("timm:bat_resnext26ts", "timm:starnet_s050", "torchvision:regnet_y_400mf"),
]


@pytest.mark.parametrize("source", SOURCES)
def test_site_tables_are_golden(source: str) -> None:
    assert table(source) == path_of(source).read_text(encoding="utf-8")


def check_against_export(source: str) -> None:
    """Every activation that torch.export sees is one that discovery names, as a site or with a reason."""
    model = make(source).eval()
    size = size_of(source, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (torch.empty(2, *size, device="meta"),), strict=False)
    seen = Counter(
        name
        for node in program.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "overloadpacket")
        if (name := node.target.overloadpacket.__name__.rstrip("_")) in ACTIVATIONS
    )
    found = discover(model, size)
    ours = Counter(
        "hardtanh" if thing.activation == "relu6" else thing.activation
        for thing in [*(site for site in found.sites if not site.train_only), *found.others]
        if thing.activation in ACTIVATIONS | {"relu6"}
    )
    assert ours == seen


@pytest.mark.parametrize("source", EXPORTED)
def test_export_sees_the_same_activations(source: str) -> None:
    check_against_export(source)


@pytest.mark.slow
@pytest.mark.parametrize("source", EXPORTED_SLOWLY)
def test_export_sees_the_same_activations_in_more_backbones(source: str) -> None:
    check_against_export(source)
