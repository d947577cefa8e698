"""The fused phases: kernels in Triton's interpreter against the point-wise operations, and the step of autograd."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reborn_nas.activations import build_activation, phases
from reborn_nas.activations.phases import both_phases, fused_phases, is_dense

INTERPRETED = """
import warnings

import torch
from torch.nn import functional as F
from reborn_nas.activations import kernels, phases

phases._fusible = lambda x: phases.is_dense(x)  # the interpreter takes tensors of the CPU
special = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-30, -1e-30, 3.0])
for mirrored in (False, True):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for shape, form in (
            ((3, 5, 7, 9), torch.channels_last),
            ((3, 5, 2, 3, 4), torch.channels_last_3d),
            ((3, 5, 2, 3, 4), None),
            ((4, 6, 9), None),
            ((1025,), None),
            ((2, 4, 8, 8), None),
            ((0, 3), None),
        ):
            x = torch.randn(shape).to(dtype)
            if x.numel() > 8:
                x.flatten()[:8] = special.to(dtype)
            if form is not None:
                x = x.contiguous(memory_format=form)
            x.requires_grad_()
            expected = F.relu(x), F.relu(-x) if mirrored else F.hardtanh(x, float("-inf"), 0.0)
            got = phases.fused_phases(x, mirrored)
            weights = [torch.randn(shape).to(dtype) for _ in range(2)]  # contiguous also where x is not
            torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
            assert all(g.stride() == x.stride() for g in got)
            wanted, = torch.autograd.grad(expected, x, weights)
            found, = torch.autograd.grad(got, x, weights)
            # hardtanh's gradient at −inf is 0, that of −relu(−x) is 1; at NaN it depends on the size
            finite = x.isfinite()
            torch.testing.assert_close(found[finite], wanted[finite], rtol=0, atol=0, equal_nan=True)
            assert found.stride() == x.stride()
x = torch.randn(4, 6, 5, 5, requires_grad=True)
torch.testing.assert_close(torch.autograd.grad(phases.fused_phases(x, False)[1].sum(), x)[0], (x < 0).float())
for dtype in phases.KINDS:
    for channels_last in (False, True):
        assert phases.kernels_work("cpu", dtype, channels_last)
right = kernels.split, kernels.join
wrong = {
    "the phases differ": (lambda x, mirrored: (F.relu(x), F.relu(x)), kernels.join),
    "the gradients differ": (kernels.split, lambda x, positive, negative, mirrored: positive),
}
for fault, (kernels.split, kernels.join) in wrong.items():
    phases.kernels_work.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not phases.kernels_work("cpu", torch.bfloat16, True)
    assert f"on cpu in torch.bfloat16 ({fault})" in str(caught[0].message)
print("agreed")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
def test_the_kernels_agree_with_the_reference_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "agreed", done.stderr[-3000:]


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_fused_step_is_the_pointwise_operations(mirrored: bool) -> None:
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    x[0, 0] = 0.0
    x.requires_grad_()
    weights = [torch.randn_like(x) for _ in range(2)]
    got, expected = fused_phases(x, mirrored), both_phases(x, mirrored)
    assert all(torch.equal(one, other) for one, other in zip(got, expected))
    assert torch.equal(*(torch.autograd.grad(pair, x, weights)[0] for pair in (got, expected)))


def test_phases_by_hand() -> None:
    x = torch.tensor([2.0, -3.0, 0.0], requires_grad=True)
    for mirrored, negative, slope in ((False, [0.0, -3.0, 0.0], 7.0), (True, [0.0, 3.0, 0.0], -7.0)):
        positive, other = fused_phases(x, mirrored)
        assert positive.tolist() == [2.0, 0.0, 0.0]
        assert other.tolist() == negative
        (gradient,) = torch.autograd.grad((5 * positive + 7 * other).sum(), x)
        assert gradient.tolist() == [5.0, slope, 0.0]


def test_who_may_be_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the CPU; a kernel that does not work on a device is reported once and never used there."""
    assert not phases._fusible(torch.zeros(2))
    assert not phases._fusible(torch.zeros(2, device="meta"))
    phases.kernels_work.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not phases.kernels_work("cuda:7")
    monkeypatch.undo()
    phases.kernels_work.cache_clear()
    with pytest.warns(UserWarning, match="plain operations take their place"):
        assert not phases.kernels_work("cpu")  # no Triton driver takes a CPU
    phases.kernels_work.cache_clear()


def test_dense_maps() -> None:
    x = torch.zeros(2, 3, 4, 5)
    assert is_dense(x)
    assert is_dense(x.contiguous(memory_format=torch.channels_last))
    assert is_dense(x.permute(2, 0, 3, 1))
    assert is_dense(torch.zeros(2, 1, 4, 5)[:, :, :, :])
    assert not is_dense(x[:, 1:])
    assert not is_dense(x[..., :-1])
    assert not is_dense(x[:, :1].expand(2, 3, 4, 5))


@pytest.mark.gpu
@pytest.mark.parametrize("label", ["reborn", "crelu", "reborn(compression=none)"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_with_the_kernels_trains_as_without(
    label: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block = build_activation(label, 16).to("cuda", dtype).to(memory_format=torch.channels_last)
    x = torch.randn(4, 16, 12, 12, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)

    def gradients() -> tuple[Tensor, ...]:
        own = x.clone().requires_grad_()
        return torch.autograd.grad(block(own).float().square().sum(), [own, *block.parameters()])

    assert phases.kernels_work("cuda:0")
    fused = gradients()
    monkeypatch.setattr(phases, "_fusible", lambda x: False)
    for one, other in zip(fused, gradients()):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
def test_the_kernels_can_be_captured() -> None:
    x = torch.randn(8, 16, 10, 10, device="cuda")
    both_phases(x, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        positive, negative = both_phases(x, False)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(positive, F.relu(x))
    assert torch.equal(negative, x.clamp(max=0))
