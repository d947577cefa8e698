"""Sites: names, kinds, layouts, stages, blocks and what each admits; checked by hand on small networks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.architecture import Choice
from reborn_nas.backbone.convert import convert
from reborn_nas.backbone.find import discover, find_sites, non_sites
from reborn_nas.backbone.sites.site import Site, site_values
from reborn_nas.errors import ConversionError, SiteError
from tests.backbone import networks


def names(sites: tuple[Site, ...]) -> list[str]:
    return [site.name for site in sites]


def test_functional_calls_are_numbered_by_their_place_in_the_source() -> None:
    sites = find_sites(networks.Functional(), (3, 16, 16))
    assert names(sites) == ["relu@0", "relu@1", "relu@2", "clamp@0", "relu@3"]
    assert [site.index for site in sites] == [0, 1, 2, 3, 4]
    assert {site.kind for site in sites} == {"functional"}
    assert {site.activation for site in sites} == {"relu"}
    assert [site.shape for site in sites] == [(8, 16, 16)] * 3 + [(12, 7, 7), (12,)]
    assert [site.channels for site in sites] == [8, 8, 8, 12, 12]
    assert [site.layout for site in sites] == ["nchw"] * 4 + ["nc"]
    assert [site.stage for site in sites] == [0, 0, 0, 1, 2]
    assert [site.inplace for site in sites] == [False, False, False, True, False]
    assert (sites[0].owner, sites[0].path, sites[0].attribute) == ("", None, None)


def test_an_unexecuted_call_keeps_its_number() -> None:
    class Branches(nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            self.first = first

        def forward(self, x: Tensor) -> Tensor:
            if self.first:
                x = F.relu(x)
            return F.relu(x * 2)

    assert names(find_sites(Branches(True), (3, 8, 8))) == ["relu@0", "relu@1"]
    assert names(find_sites(Branches(False), (3, 8, 8))) == ["relu@1"]


def test_a_module_called_several_times_is_several_sites() -> None:
    sites = find_sites(networks.Shared(), (3, 16, 16))
    assert names(sites) == ["relu@0", "relu@1", "relu@2"]
    assert {(site.kind, site.path, site.attribute, site.owner) for site in sites} == {
        ("shared", "relu", "relu", "")
    }
    assert [site.layout for site in sites] == ["nchw", "nchw", "nc"]
    assert all(site.inplace for site in sites)
    assert not any(site.in_loop for site in sites)
    assert len({site.span for site in sites}) == 3


def test_a_module_registered_at_several_places_is_a_site_at_each() -> None:
    sites = find_sites(networks.Aliased(), (3, 8, 8))
    assert [(site.name, site.kind, site.owner) for site in sites] == [
        *(("body.1", "module", "body"), ("body.3", "module", "body"), ("last", "module", ""))
    ]


def test_a_loop_that_shares_one_call_gives_sites_of_one_span() -> None:
    sites = find_sites(networks.Looped(), (3, 8, 8))
    assert names(sites) == ["act@0", "act@1", "act@2", "by_name.a", "by_name.b"]
    loop = sites[:3]
    assert len({site.span for site in loop}) == 1
    assert [site.iteration for site in loop] == [0, 1, 2]
    assert [site.in_loop for site in sites] == [True, True, True, False, False]
    assert [site.kind for site in sites] == ["shared"] * 3 + ["module"] * 2


def test_a_block_run_twice_holds_one_site() -> None:
    sites = find_sites(networks.Recurrent(), (3, 8, 8))
    assert [(site.name, site.kind, site.in_loop) for site in sites] == [("block.1", "module", False)]
    run = discover(networks.Recurrent(), (3, 8, 8)).eval_trace
    assert len(site_values(run, sites[0])) == 2


def test_one_call_that_sees_two_widths_admits_nothing() -> None:
    class TwoWidths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.head(x), self.head(x[:, :2])], 1)

    (site,) = find_sites(TwoWidths(), (3, 8, 8))
    assert site.choices == ()
    assert "2 and 3 channels" in (site.refusal("reborn") or "")
    assert site.admits("original")


def test_inputs_outputs_layouts_and_auxiliary_heads() -> None:
    inputs = (torch.randn(2, 3, 16, 16), torch.randn(2, 1, 16, 16))
    sites = find_sites(networks.ManyEnds(), example_inputs=inputs)
    assert [(site.name, site.activation, site.layout, site.train_only) for site in sites] == [
        ("act", "other:Square", "nchw", False),
        ("gelu@0", "gelu", "nlc", False),
        ("silu@0", "silu", "nhwc", False),
        ("aux_act", "relu", "nchw", True),
    ]
    assert [site.channels for site in sites] == [8, 8, 8, 8]
    by_size = find_sites(networks.ManyEnds(), ((3, 16, 16), (1, 16, 16)))
    assert names(by_size) == names(sites)


def test_gates_are_left_out_and_efficient_attention_is_not() -> None:
    assert names(find_sites(networks.Gated(), (3, 16, 16))) == ["act", "relu@0"]


@pytest.mark.parametrize(
    ("module", "activation"),
    [
        (nn.ReLU(), "relu"),
        (nn.ReLU6(), "relu6"),
        (nn.Hardtanh(0.0, 6.0), "relu6"),
        (nn.Threshold(0.0, 0.0), "relu"),
        (nn.LeakyReLU(0.2), "leaky_relu"),
        (nn.PReLU(3), "prelu"),
        (nn.RReLU(), "rrelu"),
        (nn.ELU(), "elu"),
        (nn.SELU(), "selu"),
        (nn.CELU(), "celu"),
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.Mish(), "mish"),
        (nn.Hardswish(), "hardswish"),
        (nn.Softplus(), "softplus"),
        (timm.layers.activations.Swish(), "silu"),
        (timm.layers.activations.HardMish(), "other:HardMish"),
        (timm.layers.activations.QuickGELU(), "other:QuickGELU"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_activation_modules_are_recognised(module: nn.Module, activation: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), module, nn.Conv2d(3, 3, 1))
    assert [(site.name, site.activation, site.kind) for site in find_sites(model, (3, 8, 8))] == [
        ("1", activation, "module")
    ]


@pytest.mark.parametrize(
    "module", [nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.Hardsigmoid(), nn.GLU(1), nn.Hardtanh()]
)
def test_squashing_modules_are_no_sites(module: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), module)
    assert find_sites(model, (3, 8, 8)) == ()


def test_choices_and_refusals_follow_the_layout() -> None:
    sites = find_sites(networks.ManyEnds(), ((3, 16, 16), (1, 16, 16)))
    own, tokens, last = sites[:3]
    assert own.admits(Choice("reborn", kernel_size=3, compression="1x1"))
    assert "reborn" in own.choices
    assert "reborn" not in tokens.choices
    assert "silu" in tokens.choices
    assert "tokens" in (tokens.refusal("reborn") or "")
    assert "reborn" in tokens.refusals
    assert last.admits("reborn")
    assert own.refusal("original") is None
    assert "rebron" in (own.refusal("rebron") or "")
    assert "kernel_size" in (own.refusal("reborn(kernel_size=2)") or "")


def test_doubling_is_admitted_where_the_consumers_can_be_widened() -> None:
    widenable = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert find_sites(widenable, (3, 8, 8))[0].admits("crelu(compression=none)")

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + F.relu(self.conv(x))

    (site,) = find_sites(Residual(), (3, 8, 8))
    assert "doubles 3 channels" in (site.refusal("crelu(compression=none)") or "")
    assert site.admits("crelu")
    assert "crelu(compression=none)" in site.refusals


def test_sites_are_frozen_values_that_survive_pickling() -> None:
    sites = find_sites(networks.Shared(), (3, 16, 16))
    again = pickle.loads(pickle.dumps(sites))
    assert again == sites
    assert copy.deepcopy(sites) == sites
    assert [site.refusals for site in again] == [site.refusals for site in sites]
    assert len({hash(site) for site in sites}) == 3
    with pytest.raises(AttributeError):
        sites[0].name = "x"  # type: ignore[misc]


def test_a_discovery_of_a_class_within_a_function_survives_pickling() -> None:
    class Local(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    found = discover(Local(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)), (3, 8, 8))
    again = pickle.loads(pickle.dumps(found))
    assert again.sites == found.sites
    assert found.eval_trace.classes[""] is Local
    assert again.eval_trace.classes == {"0": nn.Conv2d, "1": nn.ReLU, "2": nn.Conv2d}


def test_blocks() -> None:
    found = {site.name: site.block for site in find_sites(timm.create_model("resnet18"), (3, 64, 64))}
    assert found["act1"] == "act1"
    assert found["layer3.1.act2"] == "layer3.1"
    found = {site.name: site.block for site in find_sites(timm.create_model("convnext_atto"), (3, 64, 64))}
    assert set(found.values()) == {
        f"stages.{i}.blocks.{j}" for i, n in enumerate((2, 2, 6, 2)) for j in range(n)
    }
    found = {site.name: site.block for site in find_sites(torchvision.models.mobilenet_v2(), (3, 64, 64))}
    assert found["features.0.2"] == "features.0"
    assert found["features.3.conv.0.2"] == "features.3"


def test_evonorm_and_thresholded_norms_are_listed_as_non_sites() -> None:
    for layer, word in ((timm.layers.EvoNorm2dS0, "EvoNorm"), (timm.layers.FilterResponseNormTlu2d, "FRN")):
        model = nn.Sequential(nn.Conv2d(3, 32, 1), layer(32), nn.Conv2d(32, 3, 1))
        assert find_sites(model, (3, 8, 8)) == ()
        assert any(other.name == "1" and word in other.reason for other in non_sites(model, (3, 8, 8)))


def test_sizes_other_than_square_rgb() -> None:
    model = timm.create_model("resnet18", in_chans=5)
    sites = find_sites(model, (5, 48, 80))
    assert sites[0].shape == (64, 24, 40)
    assert find_sites(timm.create_model("resnet18"))[0].shape == (64, 112, 112)


def counts(sites: tuple[Site, ...]) -> tuple[int, int]:
    return len(sites), sum(not site.train_only for site in sites)


@pytest.mark.parametrize(
    ("name", "size", "in_all", "in_eval"),
    [("googlenet", 224, 61, 57), ("inception_v3", 299, 96, 94), ("resnet34", 224, 33, 33)],
)
def test_torchvision_counts(name: str, size: int, in_all: int, in_eval: int) -> None:
    arguments: dict[str, Any] = {} if name == "resnet34" else {"init_weights": False}
    model = torchvision.models.get_model(name, **arguments)
    sites = find_sites(model, (3, size, size))
    assert counts(sites) == (in_all, in_eval)
    if name == "resnet34":
        assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == 17


def clipped(x: Tensor) -> Tensor:
    return F.relu(x if len(x) > 1 else -x) + 1


class Helped(nn.Module):
    """Its activation runs inside a free function that does more, and that fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return clipped(x)


def test_a_call_that_cannot_be_rewritten_is_refused_with_class_line_and_remedy() -> None:
    (site,) = find_sites(Helped(), (3, 8, 8))
    assert site.choices == ()
    for word in ("Helped", "test_sites.py:", "clipped", "forward itself"):
        assert word in (site.refusal("silu") or "")
    namespace: dict[str, Any] = {"nn": nn, "F": F}
    exec(
        "class Typed(nn.Module):\n    def forward(self, x):\n        return F.relu(x if len(x) > 1 else -x)\n",
        namespace,
    )
    (site,) = find_sites(namespace["Typed"](), (3, 8, 8))
    assert site.name == "relu@0"
    assert "Typed" in (site.refusal("silu") or "")
    assert "define the class in a file" in (site.refusal("silu") or "")


class Kept(nn.Module):
    """Activations kept as a function, in a plain list and as a lambda, none of them registered."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.function = F.gelu
        self.plain = [nn.ReLU(), nn.SiLU()]
        self.written = lambda x: F.elu(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.conv(x))
        x = self.plain[0](self.conv(x))
        x = self.plain[1](self.conv(x))
        return self.written(self.conv(x))


def test_activations_that_are_not_registered() -> None:
    sites = find_sites(Kept(), (3, 8, 8))
    assert names(sites) == ["gelu@0", "relu@0", "silu@0", "elu@0"]
    assert [site.fault for site in sites] == [None] * 4


def test_a_lambda_or_comprehension_in_the_forward_itself_is_part_of_it() -> None:
    class Inline(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            parts = [F.relu(part) for part in (x, -x)]
            twice = lambda y: F.silu(y) * 2  # noqa: E731
            return twice(torch.cat(parts, 1))

    sites = find_sites(Inline(), (3, 8, 8))
    assert [(site.name, site.in_loop) for site in sites] == [
        *(("relu@0", True), ("relu@1", True), ("silu@0", False))
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_size": "3x8x8"}, "input_size is .*'3x8x8'"),
        ({"input_size": 7}, "input_size is .*not 7"),
        ({"input_size": ()}, "input_size is"),
        ({"input_size": (3, -1, 5)}, "positive whole numbers"),
        ({"input_size": (3, 2.5, 4)}, "positive whole numbers"),
        ({"input_size": ((3, 8, 8), (1, 0, 8))}, "positive whole numbers"),
        ({"input_size": (3, 8)}, r"\(2, 3, 8\).*give input_size or example_inputs"),
        ({"example_inputs": "image"}, "example_inputs is .*'image'"),
        ({"example_inputs": 3}, "example_inputs is .*not 3"),
    ],
)
def test_inputs_that_are_none_are_refused_in_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        find_sites(networks.Shared(), **arguments)


def test_what_is_no_network_is_refused_in_words() -> None:
    for given in ("resnet18", None, nn.Conv2d):
        with pytest.raises(ConversionError, match=r"a network is an nn\.Module"):
            find_sites(given, (3, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="'relu@0': a choice is a Choice or its label"):
        convert(networks.Shared(), {"relu@0": 7}, (3, 8, 8))  # type: ignore[dict-item]


class Elsewhere(nn.Module):
    """Its forward is not a Python method, as in a compiled extension: its innermost Python frame is the tracer's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    @property
    def forward(self) -> Any:
        net = self

        def run(x: Tensor) -> Tensor:
            return net.act(net.conv(net.act(net.conv(x))))  # type: ignore[no-any-return]

        return run


def test_a_forward_that_no_method_runs_has_no_place_in_the_source() -> None:
    faults = [site.fault for site in discover(Elsewhere(), (3, 8, 8)).sites]
    assert len(faults) == 2
    for fault in faults:
        assert fault is not None
        assert "the call's place in the source of Elsewhere is unknown; define the class in a file" in fault


def test_a_forward_of_the_instance_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    net.forward = lambda x: net[1](net[0](net[1](net[0](x))))  # type: ignore[method-assign]
    faults = [site.fault for site in discover(net, (3, 8, 8)).sites]
    assert len(faults) == 2
    assert all(fault is not None and "define it in the class" in fault for fault in faults)
