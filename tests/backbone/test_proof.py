"""The proof of a conversion: what would come out as another network is refused, what can be put right is."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import (
    Plan,
    apply,
    build,
    build_converted,
    convert,
    discover,
    plan,
    proof_record,
    resolve,
)
from reborn_nas.backbone.proof.prove import prove
from reborn_nas.errors import SiteError

SIZE = (3, 16, 16)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3 if n == 0 else 8, 8, 3, padding=1) for n in range(4)])
        self.c1, self.c2 = self.convs[0], nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.elu = nn.ReLU(), nn.ELU()
        self.acts = nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})
        self.fc = nn.Linear(8, 5)

    def pool(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Kinds(Net):
    def forward(self, x: Tensor) -> Tensor:
        for conv, name in zip(self.convs, ["relu", "relu", "tanh", "relu"]):
            x = self.acts[name](conv(x))
        return self.pool(x)


class Chosen(Net):
    def forward(self, x: Tensor) -> Tensor:
        for number, conv in enumerate(self.convs):
            act = self.relu if number else self.elu
            x = act(conv(x))
        return self.pool(x)


class ByName(Net):
    def forward(self, x: Tensor) -> Tensor:
        for conv, name in zip(self.convs, ["relu", "elu", "relu", "relu"]):
            x = getattr(self, name)(conv(x))
        return self.pool(x)


class Identity(Net):
    def forward(self, x: Tensor) -> Tensor:
        for number, conv in enumerate(self.convs):
            act = self.relu if number != 1 else (lambda value: value)
            x = act(conv(x))
        return self.pool(x)


class LastIsSigmoid(Net):
    def forward(self, x: Tensor) -> Tensor:
        for number, conv in enumerate(self.convs):
            x = (F.relu if number < 3 else torch.sigmoid)(conv(x))
        return self.pool(x)


class Images(Net):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for conv, image in zip(self.convs, x):
            rows.append(F.relu(conv(image[None, :3])).mean((2, 3)))
        out: Tensor = self.fc(torch.cat(rows))
        return out

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3) for _ in range(4)])


class Sizes(Net):
    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs[: x.shape[-1] // 8]:
            x = F.relu(conv(x))
        return self.pool(x)


class Skips(Net):
    def forward(self, x: Tensor) -> Tensor:
        for number, conv in enumerate(self.convs):
            if number and self.training and random.random() < 0.5:
                continue
            x = F.relu(conv(x))
        return self.pool(x)


class Shuffles(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        for number in random.sample(range(1, 4), 3) if self.training else range(1, 4):
            x = F.relu(self.convs[number](x))
        return self.pool(x)


class Slice(Net):
    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(x)
        F.relu_(a[:, :4])
        return self.pool(self.c2(a))


class Chunk(Net):
    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(x)
        left, right = a.chunk(2, 1)
        left = left.relu_()
        return self.pool(self.c2(a)) + self.pool(torch.cat([left, right], 1))


class Flat(Net):
    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(x)
        b = F.relu(a.view(len(a), -1), inplace=True)
        return self.pool(self.c2(a)) + self.fc(b[:, :8])


class Data(Net):
    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(x)
        b = a.data.relu_()
        return self.pool(self.c2(a)) + self.pool(b)


class WalksParameters(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.c1(x))
        return self.pool(x) + sum(parameter.mean() for parameter in self.parameters())


REFUSED: dict[type[Net], str] = {
    Kinds: "this one call runs relu and tanh in turn",
    Chosen: "this one call runs elu and relu in turn",
    ByName: "this one call runs relu and elu in turn",
    Identity: "site 'relu@1' would run where the network runs module 'convs.2'",
    LastIsSigmoid: "this one call runs relu and sigmoid in turn",
    Images: "cat would run where the network runs unsqueeze",
    Sizes: "mean would run where the network runs module 'convs.2'",
    Skips: "the loop around it runs it",
    Shuffles: "runs different operations each time",
    Flat: "channels in one batch and on",
    WalksParameters: "mean would also read 'relu.weight', which the activation brings",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: str(make.__name__))
def test_another_network_would_come_out(make: type[Net]) -> None:
    """Refused alike by `admits` and by `convert`, with the class, the file and what differs."""
    model = make()
    sites = [site for site in discover(model, SIZE).sites if site.name != "elu"]
    assert sites
    for site in sites:
        assert not site.admits("relu"), site.name
        assert site.choices == ()
        with pytest.raises(SiteError, match=r"test_proof\.py:\d+") as error:
            convert(model, {site.name: "reborn"}, SIZE)
        assert make.__name__ in str(error.value)
        assert REFUSED[make] in str(error.value)


class EachImage(Net):
    """As many turns as there are images; one layer makes what all of them act on, so they are one site."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for image in x:
            rows.append(F.relu(self.c1(image[None])).mean((2, 3)))
        out: Tensor = self.fc(torch.cat(rows))
        return out


class Recurrent(Net):
    """As many turns as the image is large, at random fewer in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        for _ in range(x.shape[-1] // 8):
            if self.training and random.random() < 0.5:
                continue
            x = self.relu(self.c2(x))
        return self.pool(x)


@pytest.mark.parametrize("make", [EachImage, Recurrent])
def test_turns_behind_one_layer_are_one_site(make: type[Net]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    (site,) = discover(model, SIZE).sites
    new = convert(model, {site.name: "leaky_relu(negative_slope=0.3)"}, SIZE).eval()
    for batch, size in ((1, 16), (4, 16), (5, 40)):
        x = torch.randn(batch, 3, size, size)
        if make is EachImage:
            expected = model.fc(slopes(model.c1(x), 0.3).mean((2, 3)))
        else:
            y = model.c1(x)
            for _ in range(size // 8):
                y = slopes(model.c2(y), 0.3)
            expected = model.pool(y)
        torch.testing.assert_close(new(x), expected)


class Reused(Net):
    """The input of the activation is overwritten after it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        r = self.c2(F.relu(x))
        x += r
        return self.pool(x)


class Assigned(Net):
    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(x)
        a[:, :4] = F.relu(a[:, :4])
        return self.pool(self.c2(a))


class Behind(Net):
    """The output of the activation is overwritten; Hardswish does not save it, its replacement may."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.c1(x))
        return self.pool(self.c2(F.dropout(x, 0.5, self.training, inplace=True)))


class Halves(Net):
    """Half of a map is activated in place, and the entire map is not read again."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(x)
        left, right = a[:, :4], a[:, 4:]
        left = left.relu_()
        return self.pool(self.c2(torch.cat([left, right], 1)))


def slopes(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def half_sloped(a: Tensor) -> Tensor:
    """The activation of the tests on the first four channels only."""
    return torch.cat([slopes(a[:, :4], 0.3), a[:, 4:]], 1)


RIGHT: dict[type[Net], tuple[str, str, Callable[[Net, Tensor], Tensor]]] = {
    Reused: ("relu@0", "input", lambda m, x: m.pool(m.c1(x) + m.c2(slopes(m.c1(x), 0.3)))),
    Assigned: (
        "relu@0",
        "input",
        lambda m, x: m.pool(m.c2(half_sloped(m.c1(x)))),
    ),
    Behind: ("hardswish@0", "output", lambda m, x: m.pool(m.c2(slopes(m.c1(x), 0.3)))),
    Halves: (
        "relu@0",
        "",
        lambda m, x: m.pool(m.c2(half_sloped(m.c1(x)))),
    ),
    Slice: ("relu@0", "written", lambda m, x: m.pool(m.c2(half_sloped(m.c1(x))))),
    Chunk: (
        "relu@0",
        "written",
        lambda m, x: m.pool(m.c2(half_sloped(m.c1(x)))) + m.pool(half_sloped(m.c1(x))),
    ),
    Data: (
        "relu@0",
        "written",
        lambda m, x: m.pool(m.c2(slopes(m.c1(x), 0.3))) + m.pool(slopes(m.c1(x), 0.3)),
    ),
}


@pytest.mark.parametrize("make", RIGHT, ids=lambda make: str(make.__name__))
def test_what_is_overwritten_is_copied_or_written_back(make: type[Net]) -> None:
    torch.manual_seed(0)
    model = make()
    name, clone, expected = RIGHT[make]
    found = discover(model, SIZE)
    assert found.proof.clones.get(name, "") == clone
    steps = plan(model, Architecture("x", {name: "leaky_relu(negative_slope=0.3)"}), discovery=found)
    steps = Plan.from_json(steps.to_json())
    assert [placement.clone for placement in steps.placements] == [clone]
    new = apply(model, steps)
    x = torch.randn(2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(new.eval()(x), expected(model, x))
    if make is Chunk:  # autograd refuses it, before conversion and after
        with pytest.raises(RuntimeError, match="view and is being modified inplace"):
            model(x)
        return
    for choice in ("relu", "reborn", "gelu"):
        other = convert(model, {name: choice}, SIZE).train()
        other(x).sum().backward()
        assert all(parameter.grad is not None for parameter in (other.c1.weight, other.c2.weight))


def test_a_graph_module_is_refused_where_copies_would_run_the_old_forward() -> None:
    class Plain(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.relu(self.c2(F.relu(self.c1(x)))))

    graph = fx.symbolic_trace(Plain())
    found = discover(graph, SIZE)
    admitted = [site.name for site in found.sites if site.admits("gelu")]
    assert admitted == ["relu"]
    (refused,) = (site for site in found.sites if site.name not in admitted)
    assert "source is not in a file; convert the network before torch.fx" in str(refused.fault)
    new = convert(graph, "leaky_relu(negative_slope=0.3)", SIZE)
    x = torch.randn(2, *SIZE)
    for twin in (new, copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        y = F.relu(graph.get_submodule("convs.0")(x))
        y = slopes(graph.get_submodule("c2")(y), 0.3)
        torch.testing.assert_close(twin.eval()(x), graph.get_submodule("fc")(y.mean((2, 3))))


class TestHooks:
    def test_of_a_replaced_module_act_on_what_stands_there_now(self) -> None:
        class Hooked(Net):
            def __init__(self) -> None:
                super().__init__()
                self.relu.register_forward_hook(lambda module, given, made: made * 2)
                self.relu.register_forward_pre_hook(lambda module, given: (given[0] - 1,))

            def forward(self, x: Tensor) -> Tensor:
                return self.pool(self.relu(self.c1(x)))

        model = Hooked()
        new = convert(model, {"relu": "leaky_relu(negative_slope=0.3)"}, SIZE)
        x = torch.randn(2, *SIZE)
        torch.testing.assert_close(new(x), model.pool(slopes(model.c1(x) - 1, 0.3) * 2))

    def test_that_keep_what_they_see_keep_nothing_of_the_proof(self) -> None:
        seen: list[Tensor] = []
        model = Reused()
        model.c2.register_forward_hook(lambda module, given, made: seen.append(made))
        convert(model, "gelu", SIZE)
        assert seen == []


class TestShared:
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.PReLU(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.act(self.c2(self.act(self.c1(x)))))

    def test_no_dead_parameter_is_left(self) -> None:
        model = self.Twice()
        new = convert(model, "gelu", SIZE)
        assert not any("act" in name for name, _ in new.named_parameters())
        new(torch.randn(2, *SIZE)).sum().backward()
        unused = {name for name, parameter in new.named_parameters() if parameter.grad is None}
        assert not any(name.startswith(("c2", "fc", "convs.0")) for name in unused)

    def test_one_site_keeps_it(self) -> None:
        new = convert(self.Twice(), {"act@0": "gelu"}, SIZE)
        assert "act.weight" in dict(new.named_parameters())


class TestOneMode:
    class Modal(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.c1(x)
            y = F.relu(y) if self.training else F.relu6(y)
            return self.pool(self.c2(y))

    def test_doubling_what_runs_in_one_mode_is_refused(self) -> None:
        model = self.Modal()
        sites = {site.name: site for site in discover(model, SIZE).sites}
        for name, mode in (("relu@0", "eval"), ("relu6@0", "train")):
            assert sites[name].admits("gelu")
            reason = sites[name].refusal("crelu(compression=none)")
            assert reason is not None
            assert f"'c2', which in {mode} mode read channels that are not doubled" in reason
            with pytest.raises(SiteError, match=f"in {mode} mode"):
                convert(model, {name: "crelu(compression=none)"}, SIZE)


class TestWidths:
    """What `apply` makes of a plan is all that `convert` makes."""

    def test_apply_owns_the_widths(self) -> None:
        model = timm.create_model("mobilenetv1_100", num_classes=10)
        found = discover(model, (3, 64, 64))
        widenable = {
            s.name: "crelu(compression=none)" for s in found.sites if s.admits("crelu(compression=none)")
        }
        arch = Architecture("mobilenetv1_100", widenable)
        steps = Plan.from_json(plan(model, arch, discovery=found).to_json())
        new: Any = apply(model, steps)
        assert new.num_features == model.num_features * 2
        whole: Any = convert(model, arch, (3, 64, 64))
        assert whole.num_features == new.num_features
        assert whole.feature_info == new.feature_info
        new.reset_classifier(7)
        assert new(torch.randn(2, 3, 64, 64)).shape == (2, 7)
        assert model.num_features * 2 == new.num_features

    def test_so_does_a_network_built_from_its_plan(self) -> None:
        spec = "mobilenetv1_100"
        model = timm.create_model(spec, num_classes=10)
        found = discover(model, (3, 64, 64))
        last = [s for s in found.sites if s.admits("crelu(compression=none)")][-1]
        new: Any = build_converted(spec, Architecture(spec, {last.name: "crelu(compression=none)"}), seed=0)
        assert new.num_features == 2 * model.num_features  # type: ignore[operator]


class TestPlan:
    def test_it_carries_the_proof(self) -> None:
        model = Reused()
        found = discover(model, SIZE)
        steps = plan(model, Architecture("x", {"relu@0": "gelu"}), discovery=found)
        assert steps.proof == found.proof.digest
        assert len(steps.proof) == 12
        again = pickle.loads(pickle.dumps(found))
        assert again.proof == found.proof  # a worker does not prove again

    def test_one_from_before_the_proof_still_loads(self) -> None:
        model = Reused()
        data = plan(model, Architecture("x", {"relu@0": "gelu"}), SIZE).to_dict()
        for key in ("proof", "spare", "widths"):
            data.pop(key, None)
        for placement in data["placements"]:
            placement.pop("clone", None)
        steps = Plan.from_dict(data)
        assert steps.proof == ""
        assert steps.to_dict() == data
        assert apply(model, steps).eval()(torch.randn(2, *SIZE)).shape == (2, 5)


class TestOwnLayers:
    """A layer is recognised by its type, when a conversion is planned and when it is carried out."""

    class Conv2d(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    class Built(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(8, 8, 3, padding=1, groups=4)

    @pytest.mark.parametrize("own", [True, False])
    def test_a_grouped_one_behind_a_site(self, own: bool) -> None:
        class Grouped(Net):
            def forward(self, x: Tensor) -> Tensor:
                return self.pool(self.c2(F.relu(self.c1(x))))

        model = Grouped()
        model.c2 = TestOwnLayers.Conv2d(8, 8, 3, padding=1, groups=4) if own else TestOwnLayers.Built()
        (site,) = discover(model, SIZE).sites
        assert site.admits("crelu(compression=none)") is not own
        if own:
            with pytest.raises(SiteError, match="4 groups whose forward is not PyTorch's own"):
                convert(model, {site.name: "crelu(compression=none)"}, SIZE)
        else:
            new = convert(model, {site.name: "crelu(compression=none)"}, SIZE, init="preserve")
            x = torch.randn(2, *SIZE)
            torch.testing.assert_close(new(x), model(x))


class TestCheckpointed:
    class Shortcut(Net):
        """An activation in place beside a shortcut, run again in the backward pass of a training."""

        def block(self, x: Tensor) -> Tensor:
            return self.c2(F.relu_(x)) + x

        def forward(self, x: Tensor) -> Tensor:
            x = self.c1(x)
            x = checkpoint(self.block, x, use_reentrant=False) if self.training else self.block(x)
            return self.pool(x)

    def test_nothing_is_written_back_that_is_run_again(self) -> None:
        (site,) = discover(self.Shortcut(), SIZE).sites
        assert "run again on what was written" in (site.refusal("relu") or "")


class TestSizeDecides:
    class Sized(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.c1(x))
            if x.shape[-1] > 20:
                y = self.convs[1](y)
            return self.pool(self.c2(y))

    def test_doubling_needs_all_readers(self) -> None:
        (site,) = discover(self.Sized(), SIZE).sites
        assert site.admits("reborn")
        reason = site.refusal("crelu(compression=none)")
        assert reason is not None
        assert "depends on the size or the number of images" in reason

    class Tossed(Net):
        """Every second run, on average, has an activation more."""

        heads = True

        def forward(self, x: Tensor) -> Tensor:
            y = self.c1(x)
            if (torch.rand(()) < 0.5) == self.heads:
                y = F.relu(y)
            return self.pool(self.c2(y))

    class Tails(Tossed):
        heads = False

    def test_so_does_chance(self) -> None:
        """One of the two has its activation in the run that is traced."""
        (site,) = [site for make in (self.Tossed, self.Tails) for site in discover(make(), SIZE).sites]
        assert site.admits("reborn")
        assert "or on chance" in (site.refusal("crelu(compression=none)") or "")


FILE = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x):
        y = self.act(self.conv(x))
        return y * HALF if len(x) > 100 else y


def network(num_classes=4):
    return Own()
"""


def own(path: Path, source: str) -> nn.Module:
    path.write_text(source)
    return build(resolve(f"{path}:network", input_size=SIZE), device="meta")


def test_a_proof_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is valid for the same source in any folder; anything else is proved again."""
    source = FILE.replace("HALF", "0.5")
    model = own(tmp_path / "net.py", source)
    record = json.loads(json.dumps(proof_record(model, found := discover(model, SIZE))))
    calls: list[nn.Module] = []
    monkeypatch.setattr(
        "reborn_nas.backbone.find.prove", lambda *given: (calls.append(given[0]), prove(*given))[1]
    )
    (tmp_path / "elsewhere").mkdir()
    again = discover(own(tmp_path / "elsewhere" / "net.py", source), SIZE, proofs=record)
    assert again.proof == found.proof
    assert again.proof.proved == ("act",)
    assert not calls
    changed = own(tmp_path / "net.py", FILE.replace("HALF", "0.6"))  # in a branch that no trace takes
    others = [(changed, SIZE), (model, (3, 24, 24))]
    for number, (other, size) in enumerate(others, start=1):
        assert discover(other, size, proofs=record).proof.proved == ("act",)
        assert len(calls) == number
    broken = {key: {"faults": 3} for key in record}
    assert discover(model, SIZE, proofs=broken).proof == found.proof
    assert len(calls) == len(others) + 1
    monkeypatch.setattr("reborn_nas.backbone.proof.record.version", lambda library: "9.9")
    assert discover(model, SIZE, proofs=record).proof == found.proof
    assert len(calls) == len(others) + 2


class FrozenThenHalved(Net):
    """A map that gets no gradient, and torch lets halves of it be changed in place only as long as it gets none."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            a = self.c1(x)
        left, right = F.relu(a).chunk(2, 1)
        left.mul_(2)
        return self.pool(F.relu(self.c2(torch.cat([left, right], 1))))


def test_a_gradient_where_none_may_be() -> None:
    """An activation that learns would make the network fail in backward, though the network itself trains."""
    model = FrozenThenHalved()
    model(torch.rand(2, *SIZE)).sum().backward()
    first, second = discover(model, SIZE).sites
    assert not first.admits("prelu")
    assert "gets no gradient" in str(first.refusal("prelu"))
    new = convert(model, {second.name: "prelu"}, SIZE)
    new(torch.rand(2, *SIZE)).sum().backward()


class Leaves(Net):
    """A map that leaves torch and comes back."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.c2(self.way(F.relu(self.c1(x))))))


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.detach().numpy()))


def through_a_list(x: Tensor) -> Tensor:
    return torch.tensor(x.tolist())


@pytest.mark.parametrize("way", [through_numpy, through_a_list])
def test_what_comes_after_a_round_trip_is_listed(way: Callable[[Tensor], Tensor]) -> None:
    found = discover(Leaves(way), SIZE)
    assert [site.name for site in found.sites] == ["relu@0"]
    (other,) = found.others
    assert other.shape == (8, 16, 16)
    assert "numpy" in other.reason
    assert "test_proof.py:" in other.reason


def test_a_fused_kernel_calls_no_activation() -> None:
    """In eval mode without gradients torch computes an encoder layer in one step, by the name of its activation."""
    encoder = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(2), encoder)
    first, second = discover(model, SIZE).sites
    assert first.admits("prelu")
    assert "fused" in str(second.refusal("leaky_relu"))


class Folded(Net):
    """The images of a batch side by side, as channels of one."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.c1(x), 0.2)
        y = F.leaky_relu(x.reshape(1, -1, *x.shape[2:]), 0.2).reshape(x.shape)
        return self.pool(F.leaky_relu(y, 0.2))


class Deviation(Net):
    """A statistic of the batch as one more channel, as in StyleGAN's discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.c2 = nn.Conv2d(9, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.c1(x), 0.2)
        groups = 4 if len(x) % 4 == 0 else len(x)
        spread = x.reshape(groups, -1, *x.shape[1:]).std(0, unbiased=False).mean((1, 2, 3))
        spread = spread.reshape(-1, 1, 1, 1).repeat(groups, 1, *x.shape[2:])
        return self.pool(F.leaky_relu(self.c2(torch.cat([x, spread], 1)), 0.2))


def test_images_that_meet_in_one_map() -> None:
    first, second, third = discover(Folded(), SIZE).sites
    assert first.admits("prelu")
    assert third.admits("prelu")
    assert "16 channels in one batch and on 24 in another" in str(second.refusal("prelu"))
    assert all(site.admits("reborn") for site in discover(Deviation(), SIZE).sites)


class Entry(nn.Module):
    """A block of the common xception: one in-place ReLU at several places, the first one replaced, `x += skip`."""

    def __init__(self, into: int, out: int, *, first: bool) -> None:
        super().__init__()
        self.skip = nn.Conv2d(into, out, 1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        parts: list[nn.Module] = []
        for number in range(2):
            parts += [self.relu, nn.Conv2d(out if number else into, out, 3, padding=1), nn.BatchNorm2d(out)]
        if first:
            parts = parts[1:]
        else:
            parts[0] = nn.ReLU(inplace=False)
        self.rep = nn.Sequential(*parts, nn.MaxPool2d(3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rep(x)
        y += self.skip(x)
        return y


class Xception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(Entry(4, 8, first=True), Entry(8, 8, first=False))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        x = self.relu(self.blocks(x))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def test_what_is_admitted_is_converted() -> None:
    torch.manual_seed(0)
    model = Xception()
    sites = discover(model, SIZE).sites
    assert len(sites) == 6
    assert all(site.admits("leaky_relu") for site in sites)
    same = convert(model, "leaky_relu(negative_slope=0)", SIZE)
    other = convert(model, "leaky_relu(negative_slope=0.5)", SIZE)
    assert sum(type(module) is nn.LeakyReLU for module in other.modules()) == 6
    x = torch.randn(2, *SIZE)
    torch.testing.assert_close(same.eval()(x), model.eval()(x))
    assert not torch.allclose(other.eval()(x), model(x))
    convert(model, "reborn", SIZE).train()(x).sum().backward()


def test_torchvisions_dropout_may_overwrite_what_a_relu_saves() -> None:
    model = torchvision.models.mobilenet_v3_small(num_classes=3)
    new = convert(model, {"classifier.1": "relu"}, (3, 32, 32)).train()
    new(torch.rand(4, 3, 32, 32)).sum().backward()
    weight = new.get_submodule("features.0.0").get_parameter("weight")
    assert weight.grad is not None
