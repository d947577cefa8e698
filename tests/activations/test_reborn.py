"""The reborn block against a second implementation of the paper's Eq. 2, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations import Reborn, build_activation
from reborn_nas.activations.reborn import as_convolution, deconvolve
from reborn_nas.errors import SiteError

KERNELS = pytest.mark.parametrize("kernel_size", [1, 3, 5])
COMPRESSIONS = pytest.mark.parametrize("compression", ["1x1", "3x3", "none"])
DECONVS = pytest.mark.parametrize("deconv", ["dense", "depthwise"])
SIZES = pytest.mark.parametrize("size", [(7, 6), (4, 4), (1, 1), (9,), (1,), (3, 4, 2), (1, 1, 1)])
LAYOUTS = {1: "ncl", 2: "nchw", 3: "ncdhw"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scattered(x: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """Φ as its definition has it: each value of x stamps the scaled kernel onto the output; then p is cropped off."""
    batch, channels, *size = x.shape
    k, p = weight.shape[-1], weight.shape[-1] // 2
    out = np.zeros((batch, channels, *(extent + k - 1 for extent in size)))
    for c in range(channels):
        for place in np.ndindex(*size):
            stamp = tuple(slice(i, i + k) for i in place)
            for b in range(batch):
                if groups == 1:
                    out[(b, slice(None), *stamp)] += x[(b, c, *place)] * weight[c]
                else:
                    out[(b, c, *stamp)] += x[(b, c, *place)] * weight[c, 0]
    return out[(slice(None), slice(None), *(slice(p, p + extent) for extent in size))]


def equation_two(block: Reborn, x: np.ndarray, training: bool, eps: float = 1e-5) -> np.ndarray:
    """Γ(Ψ(σ(X), κ(Φ(−σ(−X)))), 2) in numpy."""
    value = {key: tensor.detach().numpy() for key, tensor in block.state_dict().items()}
    x1 = np.maximum(x, 0)
    x2 = scattered(-np.maximum(-x, 0), value["deconv.weight"], block.groups)
    axes = (0, *range(2, x.ndim))
    mean, var = value["norm.running_mean"], value["norm.running_var"]
    if training:
        mean, var = x2.mean(axes), x2.var(axes)
    broadcast = (None, slice(None), *[None] * (x.ndim - 2))
    x2 = (x2 - mean[broadcast]) / np.sqrt(var[broadcast] + eps)
    x2 = x2 * value["norm.weight"][broadcast] + value["norm.bias"][broadcast]
    both = np.concatenate([x1, x2], axis=1)
    if "compress.weight" not in value:
        return both
    gamma = value["compress.weight"]
    r, size = gamma.shape[-1] // 2, x.shape[2:]
    padded = np.pad(both, ((0, 0), (0, 0), *[(r, r)] * len(size)))
    out = np.zeros_like(x)
    for offset in np.ndindex(*gamma.shape[2:]):
        window = tuple(slice(i, i + extent) for i, extent in zip(offset, size))
        at = (slice(None), slice(None))
        out += np.einsum("oc,bc...->bo...", gamma[(*at, *offset)], padded[(*at, *window)])
    return out


def block(channels: int = 5, **options: object) -> Reborn:
    torch.manual_seed(4)
    made = build_activation("reborn", channels, **options).double()
    assert isinstance(made, Reborn)
    made.norm.weight.data.copy_(normal(channels, seed=5))
    made.norm.bias.data.copy_(normal(channels, seed=6))
    made.norm.running_mean.copy_(normal(channels, seed=7))
    made.norm.running_var.copy_(normal(channels, seed=8).square() + 0.1)
    return made


@KERNELS
@COMPRESSIONS
@DECONVS
@SIZES
@pytest.mark.parametrize("training", [True, False])
def test_equals_equation_two(
    kernel_size: int, compression: str, deconv: str, size: tuple[int, ...], training: bool
) -> None:
    made = block(kernel_size=kernel_size, compression=compression, deconv=deconv, layout=LAYOUTS[len(size)])
    x = normal(3, 5, *size, seed=9)
    expected = equation_two(made, x.numpy(), training)
    y = made.train(training)(x).detach().numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


@KERNELS
@COMPRESSIONS
@DECONVS
def test_gradients_equal_those_of_the_literal_equation(
    kernel_size: int, compression: str, deconv: str
) -> None:
    made = block(kernel_size=kernel_size, compression=compression, deconv=deconv)
    x = normal(3, 5, 6, 6, seed=10)
    x[:, :, :2] = 0.0  # a black border: the equation's σ has no gradient at 0 on either path
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()

    def literal(x: Tensor) -> Tensor:
        groups = 5 if deconv == "depthwise" else 1
        weight, norm = made.deconv.weight, made.norm
        reborn = F.conv_transpose2d(-F.relu(-x), weight, padding=kernel_size // 2, groups=groups)
        reborn = F.batch_norm(reborn, None, None, norm.weight, norm.bias, training=True)
        both = torch.cat([F.relu(x), reborn], 1)
        if made.compress is None:
            return both
        return F.conv2d(both, made.compress.weight, padding=made.compress.weight.shape[-1] // 2)

    wanted = normal(3, made.out_channels, 6, 6, seed=11)
    parameters = list(made.parameters())
    got = torch.autograd.grad((made(ours) * wanted).sum(), [ours, *parameters])
    expected = torch.autograd.grad((literal(theirs) * wanted).sum(), [theirs, *parameters])
    for one, other in zip(got, expected):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert float(got[0][:, :, :2].abs().max()) == 0.0


@KERNELS
@DECONVS
@SIZES
def test_both_forms_of_the_deconvolution_agree(kernel_size: int, deconv: str, size: tuple[int, ...]) -> None:
    groups = 4 if deconv == "depthwise" else 1
    rank = len(size)
    x = normal(2, 4, *size).requires_grad_()
    weight = normal(4, 4 // groups, *[kernel_size] * rank, seed=1).requires_grad_()
    stamp = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    slide = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    transposed = stamp(x, weight, padding=kernel_size // 2, groups=groups)
    plain = slide(x, as_convolution(weight, groups), padding=kernel_size // 2, groups=groups)
    torch.testing.assert_close(plain, transposed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(deconvolve(x, weight, groups), transposed, rtol=1e-12, atol=1e-12)
    wanted = normal(*transposed.shape, seed=2)
    expected = torch.autograd.grad((transposed * wanted).sum(), [x, weight])
    for one, other in zip(torch.autograd.grad((plain * wanted).sum(), [x, weight]), expected):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@KERNELS
@COMPRESSIONS
@DECONVS
def test_the_gpu_form_agrees_with_the_cpu_form(kernel_size: int, compression: str, deconv: str) -> None:
    made = block(kernel_size=kernel_size, compression=compression, deconv=deconv)
    x = normal(3, 5, 7, 6, seed=9)
    expected = made(x)
    made.norm.reset_running_stats()
    torch.testing.assert_close(made.cuda()(x.cuda()).cpu(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("label", ["reborn", "positive_twin"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nc"])
@KERNELS
@DECONVS
@pytest.mark.parametrize("compression", ["1x1", "3x3"])
@pytest.mark.parametrize("training", [True, False])
def test_the_preserving_start_is_the_parent_to_the_bit(
    label: str, layout: str, kernel_size: int, deconv: str, compression: str, training: bool
) -> None:
    shape = {"nchw": (4, 16, 9, 9), "nhwc": (4, 9, 9, 16), "nc": (8, 16)}[layout]
    x = normal(*shape).float()
    options = {"kernel_size": kernel_size, "deconv": deconv, "compression": compression}
    made = build_activation(label, 16, layout=layout, init="preserve", **options).train(training)
    assert torch.equal(made(x), F.relu(x))
    silu = build_activation(
        label, 16, layout=layout, init="preserve", original=nn.SiLU(), positive="original", **options
    ).train(training)
    assert torch.equal(silu(x), F.silu(x))


@pytest.mark.parametrize("label", ["crelu", "extended_conv", "prelu"])
def test_other_families_that_can_preserve_do(label: str) -> None:
    x = normal(4, 16, 9, 9).float()
    assert torch.equal(build_activation(label, 16, init="preserve")(x), F.relu(x))
    assert not torch.equal(build_activation(label, 16)(x), F.relu(x))


def test_the_negative_path_opens_after_one_step_of_the_preserving_start() -> None:
    torch.manual_seed(0)
    made = Reborn(8, init="preserve")
    step = torch.optim.SGD(made.parameters(), lr=0.1)
    x, wanted = normal(4, 8, 6, 6).float(), normal(4, 8, 6, 6, seed=1).float()
    ((made(x) - wanted) ** 2).sum().backward()
    assert made.compress is not None
    assert float(made.compress.weight.grad[:, 8:].abs().min()) > 0  # W⁻ has a gradient at once
    assert float(made.deconv.weight.grad.abs().max()) == 0.0
    step.step()
    step.zero_grad()
    ((made(x) - wanted) ** 2).sum().backward()
    assert float(made.deconv.weight.grad.abs().min()) > 0


def test_infinities_do_not_become_nan_in_the_phases() -> None:
    x = torch.tensor([[[[float("inf"), -1.0], [2.0, -3.0]]]])
    y = build_activation("reborn", 1, kernel_size=1, compression="none").eval()(x)
    assert y[0, 0].tolist() == [[float("inf"), 0.0], [2.0, 0.0]]
    assert torch.isfinite(y[0, 1]).all()


def test_the_twin_is_the_block_fed_with_relu() -> None:
    """relu(x) everywhere: on −relu(x) the block's own negative path sees what the twin's would see, negated."""
    torch.manual_seed(0)
    twin = build_activation("positive_twin", 4, compression="none").double().eval()
    torch.manual_seed(0)
    reborn = build_activation("reborn", 4, compression="none").double().eval()
    x = normal(2, 4, 6, 6)
    torch.testing.assert_close(twin(x)[:, 4:], -reborn(-F.relu(x))[:, 4:], rtol=1e-12, atol=1e-12)
    assert torch.equal(twin(x)[:, :4], F.relu(x))
    assert [(key, value.shape) for key, value in twin.state_dict().items()] == [
        (key, value.shape) for key, value in reborn.state_dict().items()
    ]


def test_parameters_keep_plain_names_and_shapes() -> None:
    shapes = {key: tuple(value.shape) for key, value in Reborn(8, kernel_size=5).named_parameters()}
    assert shapes == {
        "deconv.weight": (8, 8, 5, 5),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "compress.weight": (8, 16, 1, 1),
    }
    assert tuple(Reborn(8, compression="3x3").compress.weight.shape) == (8, 16, 3, 3)
    assert tuple(Reborn(8, deconv="depthwise").deconv.weight.shape) == (8, 1, 3, 3)
    assert Reborn(8, compression="none").compress is None


def test_xavier_bounds_the_weights() -> None:
    torch.manual_seed(0)
    made = Reborn(32, kernel_size=3)
    for weight, fans in ((made.deconv.weight, 32 * 9 * 2), (made.compress.weight, 32 + 64)):
        bound = (6 / fans) ** 0.5
        assert 0.97 * bound < float(weight.detach().abs().max()) <= bound
        assert abs(float(weight.detach().mean())) < 0.05 * bound


def test_an_original_that_works_in_place_is_copied_and_tamed() -> None:
    original = nn.Sequential(nn.SiLU(inplace=True))
    made = build_activation("reborn", 4, positive="original", original=original)
    x = normal(2, 4, 5, 5).float()
    before = x.clone()
    made(x)
    assert torch.equal(x, before)
    assert original[0].inplace is True


@pytest.mark.parametrize(
    ("options", "word"), [({"kernel_size": 4}, "odd"), ({"compression": "2x2"}, "1x1, 3x3, none")]
)
def test_the_class_itself_refuses_what_no_block_can_be(options: dict[str, object], word: str) -> None:
    with pytest.raises(SiteError, match=word):
        Reborn(4, **options)


def test_saves_less_for_the_backward_than_the_literal_equation() -> None:
    made = Reborn(16)
    x = normal(4, 16, 16, 16).float().requires_grad_()

    def held(run: object) -> int:
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = run(x)
        del kept
        return sum(seen.values())

    def literal(x: Tensor) -> Tensor:
        return made.compress(torch.cat([F.relu(x), made.norm(made.deconv(-F.relu(-x)))], 1))

    assert held(made) < 0.85 * held(literal)
