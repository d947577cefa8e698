"""What every activation promises, whatever its family, options and layout."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reborn_nas.activations import complete, extra_cost, get_family
from reborn_nas.activations.folding import fold

from .cases import ALL, CHANNEL_AXIS, CHANNELS, FIRST, NCHW, RANDOM_WHILE_TRAINING, SAMPLE, SHAPES, Case, over


def test_the_cases_cover_the_paper_and_the_controls() -> None:
    names = {case.choice.name for case in ALL}
    pointwise = {
        "relu",
        "leaky_relu",
        "prelu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "frelu",
    }
    assert names >= pointwise | {"crelu", "reborn", "extended_conv", "positive_twin", "norm_relu"}
    assert sum(case.choice.name == "reborn" for case in ALL) == 3 * 3 * 2 * 2 * 6


@over(ALL)
def test_shape_and_channel_promise(case: Case) -> None:
    module, x = case.build(), case.input()
    y = module(x)
    factor = get_family(case.choice.name).channel_factor(**case.choice.options)
    assert module.channels == CHANNELS
    assert module.out_channels == CHANNELS * factor
    expected = list(x.shape)
    expected[CHANNEL_AXIS[case.layout]] *= factor
    assert list(y.shape) == expected
    assert y.dtype == x.dtype
    assert factor == (2 if case.choice.options.get("compression") == "none" else 1)


@over(ALL)
def test_a_train_step_changes_every_parameter_and_not_the_input(case: Case) -> None:
    module, x = case.build(), case.input().requires_grad_()
    before = x.detach().clone()
    y = module(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert torch.equal(x.detach(), before)
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
        assert torch.isfinite(parameter.grad).all(), name


@over([case for case in ALL if case.layout in ("nhwc", "ndhwc", "nc", "nlc")])
def test_every_layout_computes_what_channels_first_computes(case: Case) -> None:
    module = case.settled()
    twin = Case(case.choice, "ncdhw" if case.layout == "ndhwc" else "nchw").settled()
    assert list(twin.state_dict()) == list(module.state_dict())
    twin.load_state_dict(module.state_dict())
    x = case.input(torch.float64)
    if case.layout == "nc":
        expected = twin(x[:, :, None, None])[:, :, 0, 0]
    elif case.layout in ("nhwc", "ndhwc"):
        expected = twin(x.movedim(-1, 1)).movedim(1, -1)
    else:
        expected = twin(x.permute(0, 2, 1)[..., None])[..., 0].permute(0, 2, 1)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


@over(ALL)
def test_folding_keeps_the_function(case: Case) -> None:
    module, x = case.settled(), case.input(torch.float64)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    folded = fold(module)
    assert folded is not module
    assert (
        not any(isinstance(part, _BatchNorm) for part in folded.modules()) or case.choice.name == "norm_relu"
    )
    with torch.no_grad():
        error = (folded(x) - module(x)).abs().max()
        single, expected = fold(module.float())(x.float()), module.double()(x)
    assert float(error) <= 1e-10
    assert float((single - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert folded.channels == module.channels
    assert folded.out_channels == module.out_channels
    assert all(torch.equal(before[key], value) for key, value in case.settled().state_dict().items())


@over(FIRST)
def test_copies_pickles_and_state_dicts_compute_the_same(case: Case) -> None:
    module, x = case.settled(), case.input(torch.float64)
    expected = module(x)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = case.build().double().eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        assert torch.equal(copied(x), expected)
        pairs = zip(copied.parameters(), module.parameters())
        assert not any(new.data_ptr() == old.data_ptr() for new, old in pairs)


@over(FIRST)
def test_predicted_cost_is_what_the_module_holds(case: Case) -> None:
    shape = SHAPES[case.layout][1:]
    parameters, macs = extra_cost(case.choice, CHANNELS, shape)
    assert parameters == sum(parameter.numel() for parameter in case.build().parameters())
    convolutions = 0
    for part in case.build().modules():
        if isinstance(part, _ConvNd):
            convolutions += part.weight.numel() * math.prod(shape[1:])
    assert macs == convolutions


@over(NCHW)
def test_completing_is_idempotent_and_survives_the_label(case: Case) -> None:
    full = complete(case.choice)
    assert complete(full) == full == complete(full.label)
    assert set(full.options) == set(get_family(case.choice.name).options)
    assert all(full.options[key] == value for key, value in case.choice.options.items())


@over(
    [
        case
        for case in FIRST
        if case.choice.options.get("kernel_size", 3) == 3
        and (case.layout == "nchw" or case.choice.options.get("positive") != "original")
    ]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_trace_script_and_fx_compute_the_same(case: Case) -> None:
    for module in (case.settled(torch.float32), fold(case.settled(torch.float32))):
        x = case.input()
        expected = module(x)
        graph = torch.fx.symbolic_trace(module)
        for form in (
            graph,
            torch.jit.script(module),
            torch.jit.trace(module, x),
            pickle.loads(pickle.dumps(graph)),
        ):
            torch.testing.assert_close(form(x), expected, rtol=1e-5, atol=1e-6)
            other = case.input(seed=5)[:2]
            torch.testing.assert_close(form(other), module(other), rtol=1e-5, atol=1e-6)


@over(SAMPLE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_network_of_it_scripts_after_fx_and_trains_scripted(case: Case) -> None:
    module = case.build()
    scripted = torch.jit.script(torch.fx.symbolic_trace(module))
    x = case.input().requires_grad_()
    scripted(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is not None for parameter in module.parameters())


@over(SAMPLE)
def test_export_with_a_dynamic_batch_and_fullgraph_compile(case: Case) -> None:
    module, x = case.settled(torch.float32), case.input()
    program = torch.export.export(
        module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},)
    )
    other = torch.cat([x, case.input(seed=7)])
    torch.testing.assert_close(program.module()(other), module(other), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-5, atol=1e-6)


@over([*NCHW, *(case for case in SAMPLE if case.layout != "nchw")])
def test_autocast_and_channels_last_train(case: Case) -> None:
    module, x = case.build(), case.input()
    if case.layout == "nchw":
        module, x = (
            module.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    if case.choice.name == RANDOM_WHILE_TRAINING:
        return
    expected = case.build()(case.input())
    scale = float(expected.detach().abs().max())
    assert float((y.float() - expected).detach().abs().max()) < 0.1 * scale


@over(SAMPLE)
def test_the_same_seed_builds_the_same_weights(case: Case) -> None:
    first, second = case.build().state_dict(), case.build().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@over(FIRST)
def test_one_image_in_eval_mode_does_not_depend_on_its_neighbours(case: Case) -> None:
    module, x = case.settled(), case.input(torch.float64)
    torch.testing.assert_close(module(x)[:1], module(x[:1]), rtol=1e-12, atol=1e-12)
