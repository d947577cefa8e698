"""Conversion against substitution in flight, on the ways people write networks and on listed backbones."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.backbone import Plan, apply, build, build_converted, convert, discover, plan, resolve
from reborn_nas.backbone.replace.modules import Gained
from reborn_nas.errors import ConversionError, SiteError
from tests.backbone.substitution import slopes_of, substituted
from tests.backbone.zoo import SITES, OneRelu, Tuples

SIZE = (3, 16, 16)
QUICK = ("functional", "one relu", "loop", "uneven loop", "supers")


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else first(next(iter(output)))


def slopes(found: Any) -> dict[str, str]:
    return {site: f"leaky_relu(negative_slope={slope})" for site, slope in slopes_of(found).items()}


@pytest.fixture(params=sorted(SITES))
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return SITES[request.param][0]()


class TestWaysOfWriting:
    def test_counts_the_sites(self) -> None:
        found = {name: len(discover(make(), SIZE).sites) for name, (make, _) in SITES.items()}
        assert found == {name: number for name, (_, number) in SITES.items()}

    @pytest.mark.parametrize("training", [False, True])
    def test_equals_substitution_in_flight(self, network: nn.Module, training: bool) -> None:
        found = discover(network, SIZE)
        new = convert(network, slopes(found), SIZE).train(training)
        x = torch.randn(2, *SIZE)
        expected = substituted(copy.deepcopy(network).train(training), found, (x,))
        assert torch.equal(first(new(x)), first(expected))
        assert not torch.equal(first(new(x)), first(copy.deepcopy(network).train(training)(x)))

    def test_own_originals_are_bit_identical(self, network: nn.Module) -> None:
        found = discover(network, SIZE)
        new = convert(network, {s.name: s.activation for s in found.sites if s.activation == "relu"}, SIZE)
        x = torch.randn(2, *SIZE)
        assert torch.equal(new.eval()(x), network.eval()(x))
        assert list(new.state_dict()) == list(network.state_dict())

    def test_each_single_site(self, network: nn.Module) -> None:
        found = discover(network, SIZE)
        x = torch.randn(2, *SIZE)
        for site in found.sites:
            if site.train_only:
                continue
            other = "gelu" if site.activation == "silu" else "silu"  # differs for positive numbers too
            new = convert(network, {site.name: other}, SIZE).eval()
            assert not torch.equal(new(x), network.eval()(x)), site.name

    def test_copies_pickles_and_loads_its_state(self, network: nn.Module) -> None:
        new = convert(network, "reborn", SIZE).eval()
        x = torch.randn(2, *SIZE)
        expected = new(x)
        assert torch.equal(copy.deepcopy(new)(x), expected)
        if "<locals>" not in type(network).__qualname__:  # such a class cannot be pickled unconverted either
            assert torch.equal(pickle.loads(pickle.dumps(new))(x), expected)
        fresh = convert(network, "reborn", SIZE, seed=1).eval()
        assert not torch.equal(fresh(x), expected)
        fresh.load_state_dict(new.state_dict())
        assert torch.equal(fresh(x), expected)
        assert set(network.state_dict()) <= set(new.state_dict())

    @pytest.mark.parametrize(
        "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SITES]
    )
    def test_compiles_exports_and_traces(self, name: str) -> None:
        new = convert(SITES[name][0](), "reborn", SIZE).eval()
        x = torch.randn(2, *SIZE)
        expected = new(x)
        torch._dynamo.reset()
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(torch.compile(new, fullgraph=True, backend="eager")(x), expected, **close)
        torch.testing.assert_close(torch.export.export(new, (x,)).module()(x), expected, **close)
        torch.testing.assert_close(torch.jit.trace(new, x)(x), expected, **close)

    @pytest.mark.parametrize(
        "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SITES]
    )
    def test_scripts_where_the_original_could(self, name: str) -> None:
        model = SITES[name][0]().eval()
        x = torch.randn(2, *SIZE)
        try:
            right = torch.allclose(torch.jit.script(model)(x), model(x))  # TorchScript overlooks decorators
        except Exception:
            right = False
        if not right:
            pytest.skip("the original does not script either")
        if name == "uneven loop":
            pytest.skip(
                "its turns differ: the list of activations is walked by an iterator, which TorchScript lacks"
            )
        new = convert(model, "reborn", SIZE).eval()
        torch.testing.assert_close(torch.jit.script(new)(x), new(x), rtol=1e-4, atol=1e-5)

    def test_trains_every_parameter(self, network: nn.Module) -> None:
        new = convert(network, "reborn", SIZE).train()
        output = new(torch.randn(4, *SIZE))
        sum(o.square().mean() for o in (output if isinstance(output, tuple) else (output,))).backward()
        used = {name for name, p in network.train().named_parameters() if _has_gradient(network, name)}
        for name, parameter in new.named_parameters():
            if name in used or name not in dict(network.named_parameters()):
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name


def _has_gradient(network: nn.Module, name: str) -> bool:
    fresh = copy.deepcopy(network)
    output = fresh(torch.randn(4, *SIZE))
    sum(o.square().mean() for o in (output if isinstance(output, tuple) else (output,))).backward()
    return dict(fresh.named_parameters())[name].grad is not None


class TestSeveralInputs:
    def test_equals_substitution_in_flight(self) -> None:
        model = Tuples()
        inputs = (torch.randn(2, *SIZE), torch.randn(2, *SIZE))
        found = discover(model, example_inputs=inputs)
        assert len(found.sites) == 3
        new = convert(model, slopes(found), example_inputs=inputs).eval()
        expected = substituted(model.eval(), found, inputs)
        assert torch.equal(new(*inputs)[0], expected[0])
        assert torch.equal(new(*inputs)[1]["y"], expected[1]["y"])

    def test_input_sizes_by_input(self) -> None:
        assert len(discover(Tuples(), (SIZE, SIZE)).sites) == 3


LIGHT = [
    "resnet18",
    "mobilenetv3_small_050",
    "convnext_atto",
    "torchvision:resnet18",
    "torchvision:googlenet",
]
HEAVY = [
    "resnet34",
    "resnet50",
    "vgg11_bn",
    "mobilenetv2_050",
    "efficientnet_b0",
    "convnext_tiny",
    "densenet121",
    "regnetx_002",
    "torchvision:resnet34",
    "torchvision:resnet50",
    "torchvision:vgg11",
    "torchvision:densenet121",
    "torchvision:inception_v3",
    "res2net50_14w_8s",
    "dla46_c",
    "hrnet_w18_small",
    "legacy_seresnet18",
    "nf_resnet26",
    "dm_nfnet_f0",
    "mobilevitv2_050",
]


class TestBackbones:
    @pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(n, marks=pytest.mark.slow) for n in HEAVY)])
    def test_equals_substitution_in_flight(self, name: str) -> None:
        size = (3, 64, 64) if name in ("hrnet_w18_small", "mobilevitv2_050", "dm_nfnet_f0") else (3, 32, 32)
        model = build(resolve(name, input_size=size, num_classes=7), seed=0)
        found = discover(model, size)
        x = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
        new = convert(model, slopes(found), size, init="preserve")
        for training in (False, True):
            torch.manual_seed(2)
            expected = substituted(model.train(training), found, (x,))
            torch.manual_seed(2)
            assert torch.equal(first(new.train(training)(x)), first(expected))
            for buffer in ("running_mean", "running_var"):  # the two see the same batches
                for path, value in model.named_buffers():
                    if path.endswith(buffer):
                        assert torch.equal(value, new.get_buffer(path))
        same = convert(model, {s.name: s.activation for s in found.sites if s.activation == "relu"}, size)
        assert torch.equal(same.eval()(x), model.eval()(x))
        assert set(model.state_dict()) <= set(new.state_dict())


class TestNothingElseBreaks:
    @pytest.fixture
    def model(self) -> nn.Module:
        spec = resolve("torchvision:resnet18", input_size=(3, 32, 32), num_classes=5)
        return convert(build(spec, seed=0), "reborn(kernel_size=1)", (3, 32, 32), seed=1).eval()

    def test_scripts(self, model: nn.Module) -> None:
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(torch.jit.script(model)(x), model(x), rtol=1e-4, atol=1e-5)

    def test_checkpointing_changes_no_gradient(self, model: nn.Module) -> None:
        x = torch.randn(2, 3, 32, 32)
        block = model.layer1
        torch.manual_seed(0)
        features = model.maxpool(torch.relu(model.bn1(model.conv1(x)))).detach().requires_grad_()
        block(features).square().sum().backward()
        plain = {name: p.grad.clone() for name, p in block.named_parameters()}
        block.zero_grad()
        checkpoint(block, features, use_reentrant=False).square().sum().backward()
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(parameter.grad, plain[name])

    @pytest.mark.parametrize("name", ["resnet18", "densenet121"])
    def test_checkpointing_inside_changes_no_gradient(self, name: str) -> None:
        spec = resolve(name, input_size=(3, 32, 32), num_classes=5)
        model = convert(build(spec, seed=0), "reborn(deconv=depthwise)", (3, 32, 32), init="preserve").eval()
        x = torch.randn(2, 3, 32, 32)
        model(x).square().sum().backward()
        plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        for module in model.modules():
            for flag in ("grad_checkpointing", "memory_efficient"):
                if hasattr(module, flag):
                    setattr(module, flag, True)
        model(x).square().sum().backward()
        assert {n for n, p in model.named_parameters() if p.grad is not None} == set(plain)
        for n, parameter in model.named_parameters():
            if n in plain:
                torch.testing.assert_close(parameter.grad, plain[n])

    def test_functional_call_autocast_channels_last_and_hooks(self, model: nn.Module) -> None:
        x = torch.randn(2, 3, 32, 32)
        expected = model(x)
        state = dict(model.state_dict())
        torch.testing.assert_close(torch.func.functional_call(model, state, (x,)), expected)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        moved = last(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
        assert isinstance(model.layer1[0], type(model.layer2[0]).__mro__[1])
        assert repr(type(model.layer1[0])) == "<class 'torchvision.models.resnet.BasicBlock'>"

    def test_the_entire_model_can_be_saved(self, model: nn.Module) -> None:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        x = torch.randn(1, 3, 32, 32)
        assert torch.equal(torch.load(buffer, weights_only=False)(x), model(x))

    def test_converts_a_converted_network_again(self) -> None:
        spec = resolve("torchvision:resnet18", input_size=(3, 32, 32), num_classes=5)
        choices = {"relu": "reborn", "layer1.0.relu@1": "crelu"}
        model = convert(build(spec, seed=0), Architecture(spec, choices), (3, 32, 32), seed=1).eval()
        left = discover(model, (3, 32, 32)).sites
        assert len(left) == 17  # a block is a site; what lies inside it is none
        assert [site.activation for site in left if site.activation != "relu"] == ["reborn", "crelu"]
        x = torch.randn(2, 3, 32, 32)
        others = {site.name: "relu" for site in left if site.activation == "relu"}
        again = convert(model, others, (3, 32, 32)).eval()
        assert torch.equal(again(x), model(x))
        assert torch.equal(pickle.loads(pickle.dumps(again))(x), model(x))
        back = convert(model, "relu", (3, 32, 32)).eval()
        assert torch.equal(back(x), build(spec, seed=0).eval()(x))

    def test_a_doubled_block_is_no_site_and_says_why(self) -> None:
        name, model = "layer1.0.act1", timm.create_model("resnet18", num_classes=5)
        new = convert(model, {name: "crelu(compression=none)"}, (3, 32, 32))
        found = discover(new, (3, 32, 32))
        assert name not in {site.name for site in found.sites}
        assert "widened its readers" in next(other.reason for other in found.others if other.name == name)

    def test_timm_reads_the_widened_widths(self) -> None:
        model = timm.create_model("efficientnet_b0", num_classes=5)
        new = convert(model, "crelu(compression=none)", (3, 64, 64))
        image = torch.randn(2, 3, 64, 64)
        pairs = zip(new.feature_info, new.forward_intermediates(image, intermediates_only=True))
        assert all(row["num_chs"] == feature.shape[1] for row, feature in pairs)
        assert new.num_features == 2 * model.num_features
        new.reset_classifier(3)
        assert new(image).shape == (2, 3)

    def test_takes_the_place_and_mode_of_the_network(self) -> None:
        new = convert(OneRelu().double().eval(), "reborn", SIZE)
        assert {p.dtype for p in new.parameters()} == {torch.float64}
        assert not any(module.training for module in new.modules())
        assert new(torch.randn(1, *SIZE, dtype=torch.float64)).dtype == torch.float64


class TestPlan:
    def test_round_trips_and_does_not_change_the_model(self) -> None:
        model = OneRelu()
        before = copy.deepcopy(model.state_dict())
        steps = plan(model, Architecture("x", {"relu@1": "crelu", "relu@2": "reborn"}), SIZE)
        again = Plan.from_json(steps.to_json())
        assert again == steps
        assert again.digest == steps.digest
        assert plan(model, Architecture("x", {"relu@1": "crelu"}), SIZE).digest != steps.digest
        a, b = apply(model, steps, seed=3).eval(), apply(model, again, seed=3).eval()
        x = torch.randn(2, *SIZE)
        assert torch.equal(a(x), b(x))
        assert type(model) is OneRelu
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    def test_names_every_fault_at_once(self) -> None:
        wrong = Architecture(
            "x",
            {
                "relu@7": "relu",
                "relu@0": "rulu",
                "relu@2": "reborn(kernel_size=2)",
                "relu@1": "crelu(compression=none)",
            },
        )
        with pytest.raises(SiteError) as caught:
            plan(OneRelu(), wrong, SIZE)
        message = str(caught.value)
        for words in (
            "4 sites",
            "relu@7",
            "did you mean relu@",
            "rulu",
            "kernel_size must be one of",
            "doubles 8 channels",
        ):
            assert words in message, words

    def test_refuses_what_is_no_plan(self) -> None:
        for text in ("nonsense", "[]", '{"version": 99}', '{"version": 1}'):
            with pytest.raises(ConversionError):
                Plan.from_json(text)

    def test_refuses_another_network(self) -> None:
        steps = plan(OneRelu(), Architecture("x", {"relu@1": "reborn"}), SIZE)
        with pytest.raises(ConversionError, match="no module 'relu'"):
            apply(nn.Sequential(nn.Conv2d(3, 8, 3)), steps)

    def test_a_seed_fixes_each_site_by_itself(self) -> None:
        spec = resolve("resnet18", input_size=(3, 32, 32), num_classes=5)
        one = build_converted(spec, Architecture(spec, {"act1": "reborn"}), seed=4)
        two = build_converted(spec, Architecture(spec, {"act1": "reborn", "layer1.0.act1": "crelu"}), seed=4)
        state = two.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())

    def test_doubling_keeps_the_function(self) -> None:
        spec = resolve("torchvision:googlenet", input_size=(3, 32, 32), num_classes=5)
        model = build(spec, seed=0).eval()
        new = convert(model, "crelu(compression=none)", (3, 32, 32), init="preserve").eval()
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(new(x), model(x), rtol=1e-5, atol=1e-5)
        assert sum(p.numel() for p in new.parameters()) > 1.5 * sum(p.numel() for p in model.parameters())

    def test_takes_an_architecture_a_choice_a_label_or_a_map(self) -> None:
        model = OneRelu()
        count = [
            sum(type(m).__name__ == "Reborn" for m in convert(model, what, SIZE).modules())
            for what in (
                Architecture(BackboneSpec("x"), {"relu@0": "reborn"}),
                Choice("reborn"),
                "reborn",
                {"relu@0": "reborn", "relu@1": Choice("reborn")},
            )
        ]
        assert count == [1, 3, 3, 2]
        with pytest.raises(SiteError, match="no activation site"):
            convert(nn.Conv2d(3, 3, 1), "reborn", SIZE)


def test_the_gain_of_an_activation_without_weights_is_measured_where_there_are_numbers() -> None:
    """A plan is tried out on the meta device; gains of norm-free networks come from a computation."""
    with torch.device("meta"):
        model = timm.create_model("dm_nfnet_f0")
    slope = 0.2
    new = convert(model, f"leaky_relu(negative_slope={slope})", (3, 64, 64))
    (gain,) = {module.gamma for module in new.modules() if isinstance(module, Gained)}
    x = torch.randn(10**6, generator=torch.Generator().manual_seed(0))
    assert abs(gain - 1 / float(torch.where(x > 0, x, slope * x).std())) < 0.01


def test_preserve_names_the_sites_that_start_at_another_function() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
    ).eval()
    x = torch.randn(2, 3, 12, 12)
    with pytest.warns(UserWarning, match=r"1 of 2 sites .* 1 \(prelu → reborn\(.*positive=original\) does"):
        other = convert(model, "reborn", (3, 12, 12), init="preserve").eval()
    assert not torch.allclose(other(x), model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = convert(model, "reborn(positive=original)", (3, 12, 12), init="preserve").eval()
        convert(model, "reborn", (3, 12, 12))
    torch.testing.assert_close(same(x), model(x))
