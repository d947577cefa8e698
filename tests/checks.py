"""What the conformance sweep demands of one network; each check raises AssertionError with its reason."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reborn_nas.activations import family_names
from reborn_nas.architecture import ORIGINAL, Architecture, Choice
from reborn_nas.backbone.convert import apply, plan
from reborn_nas.backbone.cost import predict
from reborn_nas.backbone.find import discover
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.replace.planning import everywhere
from reborn_nas.backbone.sites.site import Discovery, Site
from reborn_nas.backbone.trace.inputs import arguments, moved
from reborn_nas.backbone.trace.record import trace
from reborn_nas.backbone.trace.replica import tensors_in
from reborn_nas.errors import RebornError
from tests.backbones import make, size_of
from tests.substitution import Function, substituted

LARGEST = 60_000_000  # parameters of a converted network that is trained a step
# families whose smallest member is larger than that: they train a step with as many sites as fit beside their own
NO_SMALL_MEMBER = ("vgg11", "vgg11_bn", "nasnetalarge", "pnasnet5large", "mobilenetv5_base")
FORMS = ("reborn(kernel_size=3,deconv=dense)", "reborn(kernel_size=1,deconv=depthwise)")
DOUBLED = "reborn(kernel_size=1,compression=none,deconv=depthwise,positive=original)"
PLANNED = (
    *(name for name in family_names() if name != "original"),
    FORMS[1],
    DOUBLED,
    "crelu(compression=none)",
)


@dataclass
class Report:
    """What one network passed: numbers of sites, and why the rest did not."""

    model: str
    sites: int = 0
    converted: int = 0
    widenable: int = 0
    why: list[str] = field(default_factory=list)
    discovery_seconds: float = 0.0
    proof_seconds: float = 0.0
    conversion_seconds: float = 0.0

    @property
    def refused(self) -> int:
        """Sites that carry no reborn block."""
        return self.sites - self.converted


def check(source: str) -> Report:
    """All checks of one network. A check that fails is named in `why`; nothing is raised."""
    report = Report(source)
    try:
        template = make(source)
        size = size_of(source, template)
        begin = time.process_time()
        found = discover(template, size)
        report.discovery_seconds = time.process_time() - begin
        begin = time.process_time()
        assert found.proof is not None
        report.proof_seconds = time.process_time() - begin
        report.sites = len(found.sites)
        for choice in PLANNED:
            _plan_everywhere(template, found, choice)
        report.why += _reasons(found)
        names = [site.name for site in found.sites if site.admits(FORMS[0])]
        form = next((form for form in FORMS if _parameters(template, found, form, names) <= LARGEST), None)
        own = sum(parameter.numel() for parameter in template.parameters())
        if form is not None:
            report.widenable = _on_cpu(source, size, found, form, names, report)
        elif own <= LARGEST or source.partition(":")[2] in NO_SMALL_MEMBER:
            _on_meta(template, found, names, size)
            some = _fitting(template, found, names, max(LARGEST, own * 11 // 10))
            report.widenable = _on_cpu(source, size, found, FORMS[1], some, report)
            report.why.append(f"trained a step with {len(some)} of {len(names)} sites converted, all on meta")
        else:
            _on_meta(template, found, names, size)
            report.widenable = _widened_on_meta(template, found)
            report.why.append(f"on meta only: {own // 10**6} M parameters")
        report.converted = len(names)
    except (AssertionError, RebornError, RuntimeError, TypeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [""]
        report.why.append(f"FAILED {type(error).__name__}: {lines[0][:300]}")
    return report


def _fitting(model: nn.Module, found: Discovery, names: list[str], limit: int) -> list[str]:
    """The narrowest of the sites, as many as `limit` parameters allow to convert together."""
    ordered = sorted(names, key=lambda name: _site(found, name).channels)
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high + 1) // 2
        fits = _parameters(model, found, FORMS[1], ordered[:middle]) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return ordered[:low]


def _on_cpu(
    source: str, size: tuple[int, int, int], whole: Discovery, form: str, names: list[str], report: Report
) -> int:
    """The checks with real numbers; how many sites can double."""
    torch.manual_seed(0)
    model, template = make(source, "cpu", num_classes=10), make(source, num_classes=10)
    small, found = smallest(template, size, whole)
    inputs = torch.randn(2, *small)
    begin = time.process_time()
    steps = plan(model, architecture(dict.fromkeys(names, form)), discovery=found)
    fresh = apply(model, steps, seed=1)
    report.conversion_seconds = time.process_time() - begin
    start = copy.deepcopy(fresh.state_dict())  # with its versions, which torchvision's MNASNet asks for
    training_step(model, fresh, inputs)
    fresh.load_state_dict(start)  # a step on random weights may leave a network that overflows
    fresh.zero_grad(set_to_none=True)
    del start
    one = inputs[:1]
    randomise(model, one)
    own = outputs(model, one)
    identity(model, found, one, own)
    in_flight(model, found, one, own)
    copies(model, template, steps, fresh, one)
    del fresh
    return widened(model, found, one, own)


def smallest(
    model: nn.Module, size: tuple[int, int, int], whole: Discovery
) -> tuple[tuple[int, int, int], Discovery]:
    """The smallest input that runs the same sites as the network's own size does."""
    names = [site.name for site in whole.sites]
    for side in (64, 96, 128, 160, size[1]):
        small = (size[0], side, side) if side < min(size[1:]) else size
        try:
            found = discover(model, small)
        except RebornError:
            continue
        if small == size or (found.train_trace is not None and [s.name for s in found.sites] == names):
            return small, found
    raise AssertionError("it does not run at its own size with ten classes")


def architecture(choices: Mapping[str, Choice | str]) -> Architecture:
    """An architecture of some backbone; its name does not matter here."""
    return Architecture("timm:any", choices)


def called(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors that the network returns in its present mode, in order; `inputs` as `example_inputs` are."""
    args, kwargs = arguments(moved(inputs, "cpu"))
    return list(tensors_in(model(*args, **kwargs)))


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors that the network returns in eval mode."""
    model.eval()
    with torch.no_grad():
        return called(model, inputs)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Bit for bit."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


def distance(first: list[Tensor], second: list[Tensor]) -> float:
    """Largest difference, relative to the largest value."""
    assert len(first) == len(second), "another number of outputs"
    assert all(a.shape == b.shape for a, b in zip(first, second)), "outputs of another shape"
    pairs = [(a.double(), b.double()) for a, b in zip(first, second) if a.numel()]
    return max(float((a - b).abs().max() / (a.abs().max() + 1e-30)) for a, b in pairs)


def randomise(model: nn.Module, inputs: Any) -> None:
    """Weights under which no branch is silent: a zero-initialised scale would hide a wrong one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() <= 1 or parameter.numel() == max(parameter.shape):
                scale = not name.endswith("bias") and "beta" not in name
                low, high = (0.5, 1.0) if scale else (-0.1, 0.1)
                parameter.uniform_(low, high, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
        for _ in range(6):
            found = outputs(model, inputs)
            if all(bool((tensor.double().abs() < 1e12).all()) for tensor in found):
                return
            for name, parameter in model.named_parameters():
                if parameter.dim() <= 1 and not name.endswith("bias"):
                    parameter.mul_(0.5)


def training_step(model: nn.Module, new: nn.Module, inputs: Any) -> None:
    """One step of `new` leaves a finite gradient on every parameter that `model` itself trains, and on all new ones."""
    silent = _step(new, inputs)
    if silent:
        before = _step(copy.deepcopy(model), inputs)
        assert silent <= before, f"no gradient reaches {', '.join(sorted(silent - before)[:3])}"


def _step(model: nn.Module, inputs: Any) -> set[str]:
    """Names of the parameters without a gradient after one step; all others must be finite."""
    model.train()
    loss = torch.stack([tensor.float().square().mean() for tensor in called(model, inputs)]).sum()
    loss.backward()
    assert bool(loss.isfinite()), "the loss of a training step is not finite"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite"
    torch.optim.SGD(model.parameters(), lr=1e-6, foreach=False).step()
    return {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


def own_choice(model: nn.Module, site: Site) -> Choice:
    """What stands at a site already, said as a choice where the registry can say it."""
    module = None if site.path is None else model.get_submodule(site.path)
    if site.activation == "leaky_relu" and module is not None and hasattr(module, "negative_slope"):
        return Choice("leaky_relu", negative_slope=float(module.negative_slope))
    exact = site.activation in ("relu", "silu", "hardswish", "mish", "selu")
    return Choice(site.activation) if exact else ORIGINAL


def identity(model: nn.Module, found: Discovery, inputs: Any, own: list[Tensor]) -> None:
    """Every site converted to what it has already: the `own` numbers of the untouched model, bit for bit."""
    choices = {site.name: own_choice(model, site) for site in found.sites if site.fault is None}
    new = apply(model, plan(model, architecture(choices), discovery=found))
    assert same(own, outputs(new, inputs)), "converted to its own activations it differs"


def slopes(found: Discovery) -> dict[str, float]:
    """Another slope for each site, so that two sites mixed up show."""
    return {site.name: round(0.05 + 0.6 * i / len(found.sites), 5) for i, site in enumerate(found.sites)}


def in_flight(model: nn.Module, found: Discovery, inputs: Any, own: list[Tensor]) -> None:
    """Each site with a Leaky ReLU of another slope: the same numbers as substituting them in the untouched model."""
    chosen = {name: slope for name, slope in slopes(found).items() if _site(found, name).admits("leaky_relu")}
    choices = {name: Choice("leaky_relu", negative_slope=slope) for name, slope in chosen.items()}
    # a fresh start would also set the gains of networks without normalisation anew
    new = apply(model, plan(model, architecture(choices), discovery=found, init="preserve"))
    functions = {name: _leaky(slope, _gain(model, _site(found, name))) for name, slope in chosen.items()}
    with substituted(model.eval(), found, functions):
        expected = outputs(model, inputs)
    assert same(expected, outputs(new, inputs)), "it differs from a substitution in flight"
    if chosen:
        assert not same(expected, own), "the substitution changes nothing"


def _leaky(slope: float, gain: float | None) -> Function:
    """A Leaky ReLU, with the gain that the site's module keeps behind its activation."""
    if gain is None:
        return lambda x: F.leaky_relu(x, slope)
    return lambda x: F.leaky_relu(x, slope).mul(gain)


def _gain(model: nn.Module, site: Site) -> float | None:
    if site.activation != "other:GammaAct" or site.path is None:
        return None
    return float(model.get_submodule(site.path).gamma)


def _site(found: Discovery, name: str) -> Site:
    return next(site for site in found.sites if site.name == name)


def copies(model: nn.Module, template: nn.Module, steps: Plan, new: nn.Module, inputs: Any) -> None:
    """Of `new`, which `steps` made: keys are kept; deep copy and state-dict round trip compute the same.

    Args:
        template: the same network on the meta device; converted by the plan read from JSON it has the same tensors.
    """
    replaced = {placement.replaces for placement in steps.placements}
    lost = {key for key in model.state_dict() if key.rpartition(".")[0] not in replaced} - set(
        new.state_dict()
    )
    assert not lost, f"the converted network lacks {', '.join(sorted(lost)[:3])}"
    new.load_state_dict(model.state_dict(), strict=False)  # weights under which the outputs are finite
    expected = outputs(new, inputs)
    assert all(bool(tensor.isfinite().all()) for tensor in expected), "converted, its outputs are not finite"
    other, state = copy.deepcopy(new), new.state_dict()
    assert same(expected, outputs(other, inputs)), "its deep copy differs"
    twin = apply(template, Plan.from_json(steps.to_json())).state_dict()
    assert [(key, value.shape) for key, value in state.items()] == [
        (key, value.shape) for key, value in twin.items()
    ], "built anew it has other tensors"
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert not torch.equal(next(iter(state.values())), next(iter(other.state_dict().values())))
    other.load_state_dict(state)
    assert same(expected, outputs(other, inputs)), "its state-dict round trip differs"


def widened(model: nn.Module, found: Discovery, inputs: Any, own: list[Tensor]) -> int:
    """How many sites can double their channels: each is doubled in some network that computes what it did before."""
    left = [site.name for site in found.sites if site.admits(DOUBLED)]
    proven = 0
    while left:
        names = _together(found, left)
        choices = dict.fromkeys(names, DOUBLED)
        new = apply(model, plan(model, architecture(choices), discovery=found, init="preserve"), seed=4)
        error = distance(own, outputs(new, inputs))
        assert error <= 1e-5, (
            f"doubled, the function changes by {error:.1e} ({names[0]} and {len(names) - 1} more)"
        )
        assert sum(p.numel() for p in new.parameters()) > sum(p.numel() for p in model.parameters())
        proven += len(names)
        left = [name for name in left if name not in names]
    return proven


def _together(found: Discovery, names: list[str]) -> list[str]:
    """As many of `names`, from the first on, as can be doubled at once."""
    wanted = set(names)
    kept = Discovery(
        tuple(site for site in found.sites if site.name in wanted),
        found.others,
        found.eval_trace,
        found.train_trace,
    )
    return list(everywhere(kept, DOUBLED))


def _plan_everywhere(model: nn.Module, found: Discovery, choice: str) -> None:
    if any(site.admits(choice) for site in found.sites):
        plan(model, architecture(everywhere(found, choice)), discovery=found)


def _parameters(model: nn.Module, found: Discovery, form: str, names: list[str]) -> int:
    return predict(model, architecture(dict.fromkeys(names, form)), discovery=found).params


def _on_meta(model: nn.Module, found: Discovery, names: list[str], size: tuple[int, int, int]) -> None:
    """The converted network on the meta device runs in both modes with outputs of the same shapes."""
    steps = plan(model, architecture(dict.fromkeys(names, FORMS[1])), discovery=found)
    new = apply(model, steps)
    for before in (found.eval_trace, found.train_trace):
        if before is not None:
            after = trace(new, torch.empty(2, *size, device="meta"), training=before.training)
            shapes = [[run.values[value].shape for value in run.outputs] for run in (before, after)]
            assert shapes[0] == shapes[1], "converted, its outputs have other shapes"


def _widened_on_meta(model: nn.Module, found: Discovery) -> int:
    left = [site.name for site in found.sites if site.admits(DOUBLED)]
    count = len(left)
    while left:
        names = _together(found, left)
        apply(model, plan(model, architecture(dict.fromkeys(names, DOUBLED)), discovery=found))
        left = [name for name in left if name not in names]
    return count


def _reasons(found: Discovery) -> list[str]:
    """Why sites refuse a reborn block, each reason with the number of its sites; or that there is no site."""
    if not found.sites:
        kinds = sorted({other.activation for other in found.others})
        return [f"no sites: {', '.join(kinds) or 'no activation'}"]
    reasons = Counter(reason for site in found.sites if (reason := site.refusal(FORMS[0])) is not None)
    return [f"{count} sites: {reason}" for reason, count in reasons.most_common(3)]
