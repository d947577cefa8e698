"""The oracle: activations substituted in flight in an untouched network, call by call.

The converted network is run first and tells, for each activation call in its order, the slope that it applied (each
site has another one). The untouched network is then run with the same calls answered by the same slopes, in place
where they were: outputs and gradients must be equal. Calls are also labelled in the untouched network by where they
stand (owner, source position, the layer before), and one label must have one slope in every run: this finds sites that
swapped places. Nothing of the conversion is used but its public functions.
"""

from __future__ import annotations

import copy
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

import reborn_nas as rn
from reborn_nas.architecture import BackboneSpec
from reborn_nas.backbone import Discovery, discover
from reborn_nas.errors import RebornError, SiteError
from tests.backbone.own_networks.register import Own

ACTIVATIONS = frozenset(
    (
        *(
            "relu",
            "relu6",
            "leaky_relu",
            "rrelu",
            "prelu",
            "elu",
            "selu",
            "celu",
            "gelu",
            "silu",
            "mish",
            "hardswish",
        ),
        *(
            "hardtanh",
            "softplus",
            "clamp",
            "clamp_min",
            "threshold",
            "sigmoid",
            "tanh",
            "hardsigmoid",
            "maximum",
        ),
    )
)
TORCH = str(Path(torch.__file__).parent)
DOUBLING = "crelu(compression=none)"
CHOICES = ("reborn", "relu", DOUBLING)
Label = tuple[Any, ...]
_PLACE = re.compile(r"\w+\.py:\d+|<(string|eval_with_key)\S*>[.\d]*:\d+|module '|the network itself")
_WAY_OUT = re.compile(
    r"[;:] (access|use|write|give|call|convert|define|pass|choose|keep|make|stay|exclude the site or)\b"
)


@dataclass
class Verdict:
    """What became of one network.

    Args:
        outcome: "right" (every site of the hand count), "partly", "refused", or "wrong".
        converted: how many sites were converted.
        listed: how many activations were listed, as sites or as none.
        reasons: why the others were refused; or what is wrong.
    """

    outcome: str
    converted: int = 0
    listed: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def vague(self) -> list[str]:
        """Reasons that do not name the place or a way out."""
        return [reason for reason in self.reasons if not (_PLACE.search(reason) and _WAY_OUT.search(reason))]


@dataclass
class Call:
    """One activation call: its function's name, its slope where it is one of ours, and where it stands."""

    name: str
    slope: float | None
    label: Label | None


class Watch(TorchFunctionMode):
    """Notes the activation calls of a run; answers the k-th with a leaky ReLU of slope `answers[k]`, where given."""

    def __init__(self, model: nn.Module, answers: Sequence[Call] | None = None) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.answers = answers
        self.paths = {id(m): path for path, m in model.named_modules()}
        self.stack: list[tuple[int, str]] = []
        self.runs = 0
        self.last: dict[
            int, tuple[str, int]
        ] = {}  # call of an owner → the last layer with weights, and its turn
        self.turns: dict[Any, int] = {}
        self.ran: set[str] = set()
        self.alive: set[int] = set()  # calls whose result got a gradient

    def enter(self, module: nn.Module, given: Any) -> None:
        self.runs += 1
        path = self.paths.get(id(module), type(module).__name__)
        self.stack.append((self.runs, path))
        self.ran.add(path)

    def leave(self, module: nn.Module, given: Any, made: Any) -> None:
        _, path = self.stack.pop()
        if module._parameters and self.stack:
            owner = self.stack[-1][0]
            key = (owner, "layer", path)
            self.turns[key] = self.turns.get(key, 0) + 1
            self.last[owner] = (path, self.turns[key])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        full = getattr(func, "__name__", "")
        name = full.strip("_")
        if name not in ACTIVATIONS or not isinstance(
            given := args[0] if args else kwargs.get("input"), Tensor
        ):
            return func(*args, **kwargs)
        number = len(self.calls)
        slope = None
        if name == "leaky_relu":
            slope = float(args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01))
        self.calls.append(Call(name, slope, self.label(sys._getframe(1))))
        if self.answers is None or number >= len(self.answers):
            made = func(*args, **kwargs)
            if isinstance(made, Tensor) and made.requires_grad:
                made.register_hook(lambda grad: self.alive.add(number))
            return made
        wanted = self.answers[number]
        if wanted.slope is None or (wanted.slope == slope):
            return func(*args, **kwargs)
        inplace = full.endswith("_") or bool(kwargs.get("inplace")) or (len(args) > 1 and args[-1] is True)
        with torch._C.DisableTorchFunction():
            made = F.leaky_relu(given.clone(), wanted.slope)
            return given.copy_(made) if inplace else made

    def label(self, frame: FrameType | None) -> Label:
        """Where the call stands: owner, source position, the layer run before it, and the turn since."""
        while frame is not None and (
            frame.f_code.co_filename.startswith((TORCH, __file__)) or "contextlib" in frame.f_code.co_filename
        ):
            frame = frame.f_back
        owner, path = self.stack[-1] if self.stack else (0, "")
        if frame is None:
            return (path,)
        place = (frame.f_code.co_filename, list(frame.f_code.co_positions())[frame.f_lasti // 2])
        around = self.stack[-2][0] if len(self.stack) > 1 else 0
        layer = self.last.get(owner) or self.last.get(around)
        key = (owner if layer is None or owner in self.last else around, path, place, layer)
        self.turns[key] = self.turns.get(key, 0) + 1
        return (path, place, layer, self.turns[key])

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch what runs within."""
        first = hooks.register_module_forward_pre_hook(self.enter)
        second = hooks.register_module_forward_hook(self.leave, always_call=True)
        try:
            with self:
                yield
        finally:
            first.remove()
            second.remove()


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a nested value, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in tensors(item)]
    if isinstance(value, list | tuple):
        return [t for item in value for t in tensors(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [t for name in value.__dataclass_fields__ for t in tensors(getattr(value, name))]
    return []


def seed(number: int) -> None:
    """Every generator that a forward may draw from."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 the networks draw from it


def fresh(maker: Any) -> nn.Module:
    """The network with its norms and scales away from their start, the same one each time."""
    seed(0)
    model: nn.Module = maker()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:
                low = 0.7 if name.endswith(("weight", "var", "scale", "gamma")) else -0.2
                tensor.uniform_(low, low + 0.5, generator=generator)
    return model


class Result:
    """One run: outputs, gradients by parameter, activation calls."""

    def __init__(
        self,
        model: nn.Module,
        own: Own,
        batch: int,
        size: int,
        number: int,
        *,
        answers: Any = None,
        grad: bool,
        direct: bool = True,
    ) -> None:
        self.model, self.error = model, None
        seed(100 + number)
        given = own.inputs(batch, size)
        watch = Watch(model, answers)
        seed(number)
        plainly = patch("torch.utils.checkpoint.checkpoint", _direct) if direct else nullcontext()
        with watch.on(), plainly, torch.set_grad_enabled(grad):
            output = model(*copy.deepcopy(given))
        self.calls = watch.calls
        self.outputs = [t.detach().clone() for t in tensors(output)]
        self.grads: dict[str, Tensor] = {}
        if grad:
            generator = torch.Generator().manual_seed(3)
            loss = sum(
                (
                    (t * torch.randn(t.shape, generator=generator)).sum()
                    for t in tensors(output)
                    if t.requires_grad
                ),
                torch.zeros(()),
            )
            if loss.requires_grad:
                loss.backward()
            self.grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        self.ran = watch.ran
        self.all_alive = len(watch.alive) == len(watch.calls)
        self.buffers = {name: b.detach().clone() for name, b in model.named_buffers()}


def _direct(function: Any, *args: Any, use_reentrant: bool = True, **kwargs: Any) -> Any:
    """A checkpointed part run at once: what is answered in flight would not be answered in its recomputation."""
    return function(*args, **kwargs)


class Wrong(Exception):
    """Silently wrong, or broken behind an acceptance."""


def judge(own: Own, choices: Sequence[str] = CHOICES) -> Verdict:
    """Convert the network and compare it with the oracle; then train it one step with each of `choices`."""
    try:
        return _judge(own, choices)
    except Wrong as wrong:
        return Verdict("wrong", reasons=[str(wrong)])
    except RebornError as error:
        return Verdict("refused", reasons=[str(error)])
    except Exception as error:
        kind = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
        return Verdict("wrong", reasons=[f"not a RebornError but {kind}"])


def _given(own: Own) -> dict[str, Any]:
    seed(5)
    if own.example:
        return {"example_inputs": own.inputs(own.batches[0], own.sizes[0])}
    return {"input_size": tuple(own.inputs(1, own.sizes[0])[0].shape[1:])}


def _judge(own: Own, more: Sequence[str]) -> Verdict:
    model, given = fresh(own.make), _given(own)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = discover(model, **given)
    sites = found.sites
    listed = len(sites) + len(found.others)
    slopes = {site.name: round(0.05 + 0.013 * (site.index + 1), 4) for site in sites}
    choices = {name: f"leaky_relu(negative_slope={slope})" for name, slope in slopes.items()}
    admitted = [site.name for site in sites if site.admits(choices[site.name])]
    if own.sites is not None and len(admitted) > own.sites:
        raise Wrong(f"{len(admitted)} sites where there are {own.sites}: {admitted}")
    reasons = []
    for site in sites:
        if site.name in admitted:
            continue
        try:
            converted(model, found, {site.name: choices[site.name]})
        except RebornError as error:
            reasons.append(str(error))
        else:
            raise Wrong(f"{site.name} is not admitted, but converts")
    if not admitted:
        if not sites:
            with pytest.raises(SiteError) as refusal:
                rn.convert(model, "relu", **given)
            reasons = [str(refusal.value)]
        return Verdict("refused", 0, listed, reasons)
    try:
        new = rn.convert(model, {name: choices[name] for name in admitted}, **given)
    except RebornError as error:
        raise Wrong(f"admitted, then refused: {error}") from error
    after = model.state_dict()
    if list(before) != list(after) or not all(torch.equal(before[k], after[k]) for k in before):
        raise Wrong("planning changed the network's own tensors")
    if own.twin_of is not None:
        own = replace(own, twin=own.twin_of([site for site in sites if site.name in admitted]))
    runs = compare(own, new, {slopes[name] for name in admitted})
    trained(own, model, found, more)
    outcome = "right" if len(admitted) == (len(sites) if own.sites is None else own.sites) else "partly"
    if runs < len(admitted):
        raise Wrong(f"{len(admitted)} sites were converted, and {runs} of them ever ran")
    return Verdict(outcome, len(admitted), listed, reasons)


def compare(own: Own, new: nn.Module, slopes: set[float]) -> int:
    """Run the converted network against the oracle in several ways; how many of the slopes ran."""
    of_label: dict[Label, float | None] = {}
    seen: set[float] = set()
    plans = [
        (False, own.batches[0], own.sizes[0], 0),
        (True, own.batches[0], own.sizes[0], 1),
        *((True, batch, own.sizes[-1], 2 + k) for k, batch in enumerate(own.batches[1:])),
        (False, own.batches[1], own.sizes[-1], 6),
        (True, own.batches[1], own.sizes[0], 7),
    ]
    for number, (training, batch, size, seed_) in enumerate(plans):
        where = f"{'train' if training else 'eval'} mode, batch {batch}, size {size}"
        grad = training or number == 0
        plain = fresh(own.twin or own.make).train(training)
        can_learn = grad
        try:
            Result(plain, own, batch, size, seed_, grad=grad)
        except RuntimeError:
            can_learn = False  # the network as written does not train
            Result(fresh(own.twin or own.make).train(training), own, batch, size, seed_, grad=False)
        try:
            got = Result(copy.deepcopy(new).train(training), own, batch, size, seed_, grad=can_learn)
        except Exception as error:
            raise Wrong(f"{where}: {type(error).__name__}: {str(error).splitlines()[:1]}") from error
        answers = [Call(c.name, c.slope if c.slope in slopes else None, None) for c in got.calls]
        reference = fresh(own.twin or own.make).train(training)
        want = Result(reference, own, batch, size, seed_, answers=answers, grad=can_learn)
        _equal(want, got, answers, where, bool(own.twin))
        for call, answer in zip(want.calls, answers):
            assert call.label is not None
            if of_label.setdefault(call.label, answer.slope) != answer.slope:
                raise Wrong(f"{where}: one place has two sites, {of_label[call.label]} and {answer.slope}")
        seen |= {answer.slope for answer in answers if answer.slope is not None}
    return len(seen)


def _equal(want: Result, got: Result, answers: Sequence[Call], where: str, twin: bool) -> None:
    names = [call.name for call in want.calls]
    other = [names[k] if a.slope is not None and k < len(names) else a.name for k, a in enumerate(answers)]
    if names != other and not (twin and len(names) == len(other)):
        raise Wrong(f"{where}: the calls are {[a.name for a in answers]} for {names}")
    if len(want.outputs) != len(got.outputs):
        raise Wrong(f"{where}: {len(got.outputs)} outputs for {len(want.outputs)}")
    for a, b in zip(want.outputs, got.outputs):
        if a.shape != b.shape or not torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
            off = (
                f"off by {float((a - b).abs().max()):.2g}"
                if a.shape == b.shape
                else f"{b.shape} for {a.shape}"
            )
            raise Wrong(f"{where}: outputs differ, {off}")
    kept = dict(got.model.named_parameters())
    for name, grad in want.grads.items():
        if name not in kept:
            owner = want.model.get_submodule(name.rpartition(".")[0])
            if not isinstance(owner, nn.PReLU):
                raise Wrong(f"{where}: parameter {name} is gone")
            continue
        if name not in got.grads:
            raise Wrong(f"{where}: {name} has no gradient")
        torch_close = torch.allclose(
            grad, got.grads[name], rtol=1e-4, atol=1e-5 * float(grad.abs().max()) + 1e-9
        )
        if not torch_close:
            raise Wrong(
                f"{where}: gradient of {name} is off by {float((grad - got.grads[name]).abs().max()):.2g}"
            )
    dead = [
        name for name in kept
        if kept[name].requires_grad and want.grads and name not in got.grads and name not in want.grads
        and name not in dict(want.model.named_parameters())
    ]  # fmt: skip
    if dead:
        raise Wrong(f"{where}: new parameters without gradient: {dead}")
    dead = [
        n for n, p in want.model.named_parameters() if n in kept and n not in want.grads and n in got.grads
    ]
    if dead:
        raise Wrong(f"{where}: {dead} learn, and did not")
    for name, buffer in want.buffers.items():
        mine = got.buffers.get(name)
        if mine is not None and not torch.allclose(buffer, mine, rtol=0, atol=0, equal_nan=True):
            raise Wrong(f"{where}: buffer {name} differs")


def converted(model: nn.Module, found: Discovery, choices: Mapping[str, str], **more: Any) -> nn.Module:
    """What `convert` gives, without tracing and proving the network once more."""
    architecture = rn.Architecture(BackboneSpec("timm:unnamed"), choices)
    return rn.apply(model, rn.plan(model, architecture, discovery=found, **more), seed=0)


def trained(own: Own, model: nn.Module, found: Discovery, choices: Sequence[str]) -> None:
    """Other choices: each admitted one must convert, run in both modes, train, and preserve where it promises to."""
    for label in choices:
        admitted = [site for site in found.sites if site.admits(label)]
        for chosen in [[site] for site in admitted] if label == DOUBLING else [admitted]:
            if not chosen:
                continue
            where = f"{label} at {', '.join(site.name for site in chosen)}"
            try:
                new = converted(model, found, {site.name: label for site in chosen}, init="preserve")
            except RebornError as error:
                raise Wrong(f"{where}: admitted, then refused: {error}") from error
            keeps = label not in ("relu", "prelu") and all(site.activation == "relu" for site in chosen)
            _one_step(own, new, where, keeps)


def _reads_all(own: Own, batch: int, size: int) -> bool:
    """Whether the network uses what its activations give, those too that are expressions."""
    if own.twin is None:
        return True
    return Result(fresh(own.twin).train(), own, batch, size, 9, grad=True, direct=False).all_alive


def _one_step(own: Own, new: nn.Module, where: str, keeps: bool) -> None:
    for training in (False, True):
        batch, size = own.batches[-1], own.sizes[-1]
        plain = fresh(own.make).train(training)
        try:
            want = Result(plain, own, batch, size, 9, grad=True, direct=False)
        except RuntimeError:
            return
        try:
            got = Result(copy.deepcopy(new).train(training), own, batch, size, 9, grad=True, direct=False)
        except Exception as error:
            mode = "train" if training else "eval"
            raise Wrong(
                f"{where}: {mode} mode: {type(error).__name__}: {str(error).splitlines()[:1]}"
            ) from error
        known = dict(plain.named_parameters())
        fresh_ones = [n for n, p in got.model.named_parameters() if n not in known and p.requires_grad]
        dead = [n for n in fresh_ones if n not in got.grads and n.rpartition(".")[0] in got.ran]
        if dead and training and want.all_alive and _reads_all(own, batch, size):
            raise Wrong(f"{where}: {dead[0]} has no gradient")
        if keeps and not training:
            for a, b in zip(want.outputs, got.outputs):
                if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
                    raise Wrong(f"{where}: init='preserve' changes the function")
