"""Sparing blocks: the same numbers, fewer bytes kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reborn_nas.activations import Reborn, build_activation, spare_memory
from reborn_nas.activations.sparing import cheap_to_redo
from tests.benchmarks.memory import Meter

LABELS = [
    "reborn",
    "reborn(kernel_size=1)",
    "reborn(compression=3x3)",
    "reborn(compression=none)",
    "reborn(deconv=depthwise)",
    "reborn(positive=original)",
    "positive_twin",
    "crelu",
    "crelu(compression=none)",
]


def step(block: nn.Module, x: Tensor, precision: str) -> list[Tensor]:
    """Output, gradients and running statistics of one step."""
    block.train().zero_grad()
    own = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        y = block(own)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    gradients = torch.autograd.grad(y, [own, *block.parameters()], weights)
    return [y.detach(), *gradients, *(b.clone() for b in block.buffers())]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sparing_block_gives_the_same_bits(label: str, layout: str, precision: str) -> None:
    found = []
    for spare in (False, True):
        torch.manual_seed(0)
        block = build_activation(label, 6, layout=layout, original=nn.SiLU())
        assert spare_memory(block, spare) == 1
        x = torch.randn((3, 6, 5, 7) if layout == "nchw" else (3, 5, 7, 6))
        found.append(step(block, x.bfloat16() if precision == "bf16" else x, precision))
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def kept(block: nn.Module, channels: int, spare: bool) -> float:
    """Maps, of the input's size, that live on after a forward pass, beside input and output."""
    spare_memory(block, spare)
    x = torch.randn(16, channels, 32, 32, device="meta", requires_grad=True)
    y = block.to("meta").train()(x)
    with Meter() as meter:
        del y
        before = meter.live
        y = block(x)
    return (meter.live - before - y.nbytes) / x.nbytes


@pytest.mark.parametrize(
    ("block", "channels", "plain", "sparing"),
    [
        (Reborn(64), 64, 4, 0),  # relu(x), min(x, 0), Φ(·), BN(·); x is the caller's
        (Reborn(128), 128, 4, 1),  # Φ(·) is dear to make again
        (
            Reborn(64, compression="none"),
            64,
            3,
            0,
        ),  # the concatenation is the output; relu(x), min(x, 0), Φ(·)
        (
            build_activation("positive_twin", 128),
            128,
            3,
            2,
        ),  # relu(x) serves both paths and is kept, Φ(·) is dear
        (build_activation("crelu", 64), 64, 2, 0),
    ],
)
def test_what_a_block_keeps(block: nn.Module, channels: int, plain: int, sparing: int) -> None:
    # a little more: statistics and weights of 2·C·C elements
    assert plain <= kept(block, channels, False) < plain + 0.1
    assert sparing <= kept(block, channels, True) < sparing + 0.1


def test_what_is_cheap_to_redo() -> None:
    assert cheap_to_redo(Reborn(64).deconv.weight)
    assert not cheap_to_redo(Reborn(128).deconv.weight)
    assert cheap_to_redo(Reborn(512, kernel_size=1).deconv.weight)
    assert cheap_to_redo(Reborn(512, deconv="depthwise", kernel_size=5).deconv.weight)


def test_eval_mode_tracing_and_copies_are_as_without() -> None:
    block = build_activation("reborn", 4)
    spare_memory(block)
    x = torch.randn(2, 4, 6, 6)
    expected = block.eval()(x)
    assert torch.equal(torch.fx.symbolic_trace(block)(x), expected)
    torch.testing.assert_close(torch.jit.trace(block, x)(x), expected)
    torch.testing.assert_close(torch.jit.script(block)(x), expected)


def test_a_changed_weight_is_noticed_before_the_backward_pass() -> None:
    block = build_activation("reborn", 4)
    spare_memory(block)
    y = block(torch.randn(2, 4, 6, 6, requires_grad=True))
    with torch.no_grad():
        block.deconv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
