"""timm's `reparameterize_model` on networks with doubled channels: what it cannot fuse keeps its branches."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model

from reborn_nas.backbone.convert import convert
from tests.checks import DOUBLED, distance, outputs, randomise


@pytest.mark.parametrize("name", ["mobileone_s0", "lcnetv2_small", "efficientvit_m0"])
def test_reparameterized_it_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    model = timm.create_model(name, num_classes=7, **({"img_size": 64} if "vit" in name else {})).eval()
    randomise(model, x)
    wide = convert(model, DOUBLED, (3, 64, 64), seed=1).eval()
    want = outputs(wide, x)
    for again in (wide, copy.deepcopy(wide), pickle.loads(pickle.dumps(wide))):
        fused = reparameterize_model(again)
        assert distance(want, outputs(fused, x)) <= 1e-5
    assert len(list(fused.modules())) < len(list(wide.modules()))  # the plain blocks are fused still
