"""Signals (B, C, L) and volumes (B, C, D, H, W): the blocks with that dimension's own layers, computed by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations import Reborn, build_activation, extra_cost, fold, spare_memory
from reborn_nas.activations.phases import both_phases, is_dense

LAYERS: dict[str, tuple[type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    "ncl": (nn.ConvTranspose1d, nn.BatchNorm1d, nn.Conv1d),
    "ncdhw": (nn.ConvTranspose3d, nn.BatchNorm3d, nn.Conv3d),
}
SIZES = {"ncl": (9,), "ncdhw": (3, 4, 5)}
RANK = {"ncl": 1, "ncdhw": 3}
BOTH = pytest.mark.parametrize("layout", LAYERS)


def one_channel(layout: str, kernel: Tensor, mix: tuple[float, float]) -> Reborn:
    """A block of one channel whose norm does nothing in eval mode."""
    block = build_activation("reborn", 1, layout=layout)
    assert isinstance(block, Reborn)
    with torch.no_grad():
        block.deconv.weight.copy_(kernel.reshape(block.deconv.weight.shape))
        block.compress.weight.copy_(torch.tensor(mix).reshape(block.compress.weight.shape))
        block.norm.running_var.fill_(1 - block.norm.eps)
    return block.eval()


def test_a_signal_by_hand() -> None:
    block = one_channel("ncl", torch.tensor([1.0, 10.0, 100.0]), (2.0, 0.5))
    x = torch.tensor([[[1.0, -2.0, 3.0, -4.0]]])
    # min(x, 0) = 0 −2 0 −4; each value stamps 1 10 100 around itself:
    #   −2 at 1 → −2 −20 −200 at 0 1 2;  −4 at 3 → −4 −40 at 2 3;  together −2 −20 −204 −40
    # 2·relu(x) + ½·that: 2 − 1, 0 − 10, 6 − 102, 0 − 20
    expected = torch.tensor([[[1.0, -10.0, -96.0, -20.0]]])
    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(fold(block)(x), expected)


def test_a_volume_by_hand() -> None:
    kernel = torch.arange(27.0).reshape(3, 3, 3)
    block = one_channel("ncdhw", kernel, (1.0, 3.0))
    x = torch.zeros(1, 1, 3, 3, 3)
    x[0, 0, 1, 1, 1] = -2.0  # stamps −2 times the kernel onto the entire cube, three of which are taken
    torch.testing.assert_close(block(x)[0, 0], -6.0 * kernel)
    x[0, 0, 1, 1, 1], x[0, 0, 0, 2, 1] = 0.0, 5.0  # a positive value passes unchanged
    torch.testing.assert_close(block(x), x)


@BOTH
@pytest.mark.parametrize("name", ["reborn", "positive_twin"])
def test_the_layers_are_those_of_the_dimension(layout: str, name: str) -> None:
    block = build_activation(name, 4, layout=layout, kernel_size=5)
    assert [type(part) for part in (block.deconv, block.norm, block.compress)] == list(LAYERS[layout])
    assert block.deconv.kernel_size == (5,) * RANK[layout]
    for other in ("extended_conv", "norm_relu", "frelu", "crelu"):
        kinds = {type(part) for part in build_activation(other, 4, layout=layout).modules()}
        assert not kinds & {nn.Conv2d, nn.BatchNorm2d}
        assert kinds & set(LAYERS[layout])


@pytest.mark.parametrize(
    ("label", "layout", "parameters", "macs"),
    [
        # deconvolution C²·kᵈ, norm 2C, compression 2C²; C = 6, 9 samples or 60 voxels
        ("reborn(kernel_size=3)", "ncl", 36 * 3 + 12 + 72, 9 * (36 * 3 + 72)),
        ("reborn(kernel_size=5,deconv=depthwise)", "ncl", 6 * 5 + 12 + 72, 9 * (6 * 5 + 72)),
        ("reborn(kernel_size=3)", "ncdhw", 36 * 27 + 12 + 72, 60 * (36 * 27 + 72)),
        ("reborn(kernel_size=1,compression=3x3)", "ncdhw", 36 + 12 + 72 * 27, 60 * (36 + 72 * 27)),
        ("crelu", "ncl", 72, 9 * 72),
        ("extended_conv", "ncdhw", 36 * 27, 60 * 36 * 27),
        ("norm_relu", "ncdhw", 12, 0),
        ("frelu", "ncl", 6 * 3 + 12, 9 * 6 * 3),
    ],
)
def test_parameters_and_macs_by_hand(label: str, layout: str, parameters: int, macs: int) -> None:
    assert extra_cost(label, 6, (6, *SIZES[layout])) == (parameters, macs)
    block = build_activation(label, 6, layout=layout)
    assert sum(parameter.numel() for parameter in block.parameters()) == parameters


@BOTH
def test_xavier_draws_from_the_fans_of_the_dimension(layout: str) -> None:
    torch.manual_seed(0)
    block: Any = build_activation("reborn", 64, layout=layout, kernel_size=3)
    taps = 3 ** RANK[layout]
    for weight, fans in ((block.deconv.weight, (64 + 64) * taps), (block.compress.weight, 128 + 64)):
        bound = math.sqrt(6 / fans)
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound
        assert abs(float(weight.detach().std()) / (bound / math.sqrt(3)) - 1) < 0.03


@BOTH
@pytest.mark.parametrize("label", ["reborn", "positive_twin", "crelu", "extended_conv", "prelu"])
def test_preserve_starts_as_relu_to_the_bit(layout: str, label: str) -> None:
    block = build_activation(label, 6, layout=layout, init="preserve")
    x = torch.randn(3, 6, *SIZES[layout])
    assert torch.equal(block(x), F.relu(x))


@BOTH
@pytest.mark.parametrize("compression", ["1x1", "3x3", "none"])
@pytest.mark.parametrize("deconv", ["dense", "depthwise"])
def test_the_folded_form_holds_no_norm_and_computes_the_same(
    layout: str, compression: str, deconv: str
) -> None:
    torch.manual_seed(1)
    block: Any = build_activation("reborn", 6, layout=layout, compression=compression, deconv=deconv).double()
    x = torch.randn(5, 6, *SIZES[layout], dtype=torch.float64)
    with torch.no_grad():
        block.norm.weight.uniform_(-1.5, 1.5)
        block.norm.bias.normal_()
        block(x)  # moves the running statistics
        folded = fold(block.eval())
        assert {type(part) for part in folded.modules()} & set(LAYERS[layout]) == {LAYERS[layout][2]}
        torch.testing.assert_close(folded(x), block(x), rtol=0, atol=1e-12)


@BOTH
def test_a_network_of_the_dimension_folds_its_norms(layout: str) -> None:
    _, norm, conv = LAYERS[layout]
    torch.manual_seed(1)
    model: Any = nn.Sequential(
        conv(3, 4, 3, bias=False),  # type: ignore[call-arg]
        norm(4),  # type: ignore[call-arg]
        build_activation("reborn", 4, layout=layout),
        conv(4, 2, 1),  # type: ignore[call-arg]
        norm(2),  # type: ignore[call-arg]
        nn.ReLU(),
    ).double()
    x = torch.randn(4, 3, *[6] * RANK[layout], dtype=torch.float64)
    model(x)
    folded = fold(model.eval())
    assert not any(isinstance(part, norm) for part in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-12)


@BOTH
def test_the_kernels_take_maps_of_every_dimension(layout: str) -> None:
    """On a GPU the fused kernels only use memory order; here pointwise operations are used."""
    x = torch.randn(2, 6, *SIZES[layout])
    assert is_dense(x)
    assert is_dense(x.movedim(1, -1))
    positive, negative = both_phases(x, False)
    assert torch.equal(positive, x.clamp(min=0))
    assert torch.equal(negative, x.clamp(max=0))


@BOTH
@pytest.mark.parametrize("name", ["reborn", "crelu", "positive_twin"])
def test_sparing_memory_changes_no_gradient(layout: str, name: str) -> None:
    torch.manual_seed(2)
    block = build_activation(name, 6, layout=layout)
    gradients = []
    for spare in (False, True):
        twin = copy.deepcopy(block)
        assert spare_memory(twin, spare) == 1
        x = torch.randn(3, 6, *SIZES[layout], generator=torch.Generator().manual_seed(3)).requires_grad_()
        twin(x).square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in twin.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*gradients))


def test_volumes_train_and_fold_with_channels_last_in_memory() -> None:
    torch.manual_seed(4)
    block = build_activation("reborn", 6, layout="ncdhw").to(memory_format=torch.channels_last_3d)
    x = torch.randn(3, 6, 3, 4, 5).to(memory_format=torch.channels_last_3d)
    plain = build_activation("reborn", 6, layout="ncdhw")
    plain.load_state_dict(block.state_dict())
    torch.testing.assert_close(block(x), plain(x.contiguous()), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = block.eval()(x)
        torch.testing.assert_close(fold(block)(x), expected, rtol=1e-5, atol=1e-6)
