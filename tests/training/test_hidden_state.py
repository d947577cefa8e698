# ruff: noqa: NPY002 - third-party layers draw from NumPy's global generator
"""Networks that a captured graph cannot repeat are trained eagerly, as if no graph had been tried, with the reason."""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reborn_nas.training import evaluation, loop
from reborn_nas.training.step.graph import relative_differences
from reborn_nas.training.step.hidden_state import HiddenState
from reborn_nas.training.step.step import TrainingStep
from tests.training.test_recorded import Recording, run
from tests.training.toys import small_net

CALLS = [0]


class Slots:
    """Counts in a slot."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Caller:
    """Counts its calls."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> int:
        self.n += 1
        return self.n


class Quirk(nn.Module):
    """A layer whose `kind` is the name of its forward."""

    seen = 0

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind, self.calls, self.table, self.log = kind, 0, {"calls": 0}, [0]
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.plain = torch.ones(channels, 1, 1)
        self.last: torch.Tensor | None = None
        self.dice, self.counter = random.Random(1), itertools.count()
        self.slots, self.caller = Slots(), Caller()
        self.own = torch.Generator().manual_seed(2)
        self.grown = np.random.default_rng(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = getattr(self, self.kind)(x)
        return out

    # what a graph repeats

    def dropout(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.2, self.training)

    def drop_path(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand(len(x), 1, 1, 1) > 0.2) if self.training else x

    def average_in_place(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.scale.mul_(0.9).add_(0.1 * x.detach().abs().mean((0, 2, 3), keepdim=True)[0])
        return x * self.scale

    def plain_in_place(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.plain += 0.05
        return x * self.plain

    # what it does not

    def layer_drop(self, x: torch.Tensor) -> torch.Tensor:
        return x if not self.training or random.random() < 0.6 else 0.5 * x

    def numpy_noise(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(1 + 0.1 * np.random.rand()) if self.training else x

    def own_dice(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.1 * self.dice.random())

    def own_numpy(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(1 + 0.1 * self.grown.random())

    def own_generator(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.1 * torch.rand(1, generator=self.own))

    def count_calls(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * (1 + 0.01 * self.calls)

    def count_in_a_dict(self, x: torch.Tensor) -> torch.Tensor:
        self.table["calls"] += 1
        return x * (1 + 0.01 * self.table["calls"])

    def count_in_a_list(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(1)
        return x * (1 + 0.01 * len(self.log))

    def count_in_a_slot(self, x: torch.Tensor) -> torch.Tensor:
        self.slots.n += 1
        return x * (1 + 0.01 * self.slots.n)

    def count_in_a_callable(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.01 * self.caller())

    def count_by_iterator(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.01 * next(self.counter))

    def count_in_the_class(self, x: torch.Tensor) -> torch.Tensor:
        Quirk.seen += 1
        return x * (1 + 0.01 * Quirk.seen)

    def rebound_buffer(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * x.detach().abs().mean((0, 2, 3), keepdim=True)[0]
        return x * self.scale

    def rebound_attribute(self, x: torch.Tensor) -> torch.Tensor:
        self.plain = 0.99 * self.plain
        return x * self.plain

    def previous_map(self, x: torch.Tensor) -> torch.Tensor:
        before, self.last = self.last, x.detach()
        return x if before is None or before.shape != x.shape else x + 0.1 * before

    def branch_on_values(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.detach().mean()) > 0.4 else 1.1 * x


FAITHFUL = ("dropout", "drop_path", "average_in_place", "plain_in_place")
UNFAITHFUL = {
    "layer_drop": "a step draws random numbers from Python's random module",
    "numpy_noise": "a step draws random numbers from numpy.random",
    "own_dice": "a step changes the Python attribute '3.dice'",
    "own_numpy": "a step changes the Python attribute '3.grown'",
    "own_generator": "a step changes the Python attribute '3.own'",
    "count_calls": "a step changes the Python attribute '3.calls'",
    "count_in_a_dict": "a step changes the Python attribute '3.table'",
    "count_in_a_list": "a step changes the Python attribute '3.log'",
    "count_in_a_slot": "a step changes the Python attribute '3.slots'",
    "count_in_a_callable": "a step changes the Python attribute '3.caller'",
    "count_by_iterator": "a step changes the Python attribute '3.counter'",
    "count_in_the_class": "a step changes the Python attribute 'class Quirk.seen'",
    "rebound_buffer": "a step replaces the tensor '3.scale'",
    "rebound_attribute": "a step changes the Python attribute '3.plain'",
    "previous_map": "a step changes the Python attribute '3.last'",
    "branch_on_values": "operation not permitted when stream is capturing",
}


def network(*kinds: str) -> nn.Module:
    """Three convolutions with a quirk behind each of the first ones."""
    Quirk.seen = 0
    parts = list(small_net(classes=4))
    for k, kind in enumerate(kinds):
        parts.insert(3 * (k + 1) + k, Quirk(kind, (8, 16, 16)[k]))
    return nn.Sequential(*parts)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TrainingStep", partial(TrainingStep, tensor_rate=True))
    monkeypatch.setattr(evaluation, "BATCH", 8)


@pytest.mark.parametrize("kind", FAITHFUL)
def test_what_lies_in_memory_is_replayed(kind: str) -> None:
    _, expected = run(network(kind), None, "fp32")
    replayed, got = run(network(kind), Recording(), "fp32")
    assert replayed.form == "cuda-graph"
    assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", UNFAITHFUL)
def test_what_does_not_is_trained_eagerly_as_if_nothing_had_been_tried(kind: str) -> None:
    eager, expected = run(network(kind), None, "fp32")
    refused, got = run(network(kind), Recording(), "fp32")
    assert refused.form.startswith("eager (no CUDA graph: ")
    assert UNFAITHFUL[kind] in refused.form
    assert torch.equal(got, expected)
    assert [row["train_loss"] for row in refused.curve] == [row["train_loss"] for row in eager.curve]


def test_a_counter_that_no_module_holds_is_found_by_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: Quirk, x: torch.Tensor) -> torch.Tensor:
        CALLS[0] += 1
        return x * (1 + 0.05 * CALLS[0])

    monkeypatch.setattr(Quirk, "count_globally", count, raising=False)
    result, _ = run(network("count_globally"), Recording(), "fp32")
    assert "3 replayed steps differ from 3 eager ones by " in result.form


def test_a_network_that_only_judges_unfaithfully_is_judged_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Quirk, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return x
        self.calls += 1
        return x * (1 + self.calls % 5)

    monkeypatch.setattr(Quirk, "count_in_eval_mode", forward, raising=False)
    eager, _ = run(network("count_in_eval_mode"), None, "fp32")
    result, _ = run(network("count_in_eval_mode"), Recording(), "fp32")
    assert result.form.startswith("cuda-graph (judged eagerly: a step changes the Python attribute '3.calls'")
    assert [row["validation_loss"] for row in result.curve] == [row["validation_loss"] for row in eager.curve]


def test_what_others_hold_too_stays_the_same_object() -> None:
    """The caller's counter, a list in two places, objects inside of others; and a second time."""
    model = nn.Sequential(Quirk("relu", 4), Quirk("relu", 4))
    first, second = model
    shared, counter, order = [1, {"n": 2}], Caller(), collections.OrderedDict(a=1, b=2)
    first.shared, second.shared, first.table = shared, [shared], {"counter": counter, "order": order}
    state = HiddenState(model, torch.device("cpu"))
    for _ in range(2):
        counter(), next(first.counter), first.dice.random(), setattr(second.slots, "n", 9)
        shared[1]["n"], shared[0] = 7, 8
        shared.append(3)
        order.move_to_end("a")
        first.fresh, first.table = 1, {}
        assert state.changes()
        state.restore()
        assert state.changes() == []
        assert first.shared is shared is second.shared[0]
        assert shared == [1, {"n": 2}]
        assert first.table["counter"] is counter
        assert (counter.n, list(order), next(first.counter), second.slots.n) == (0, ["a", "b"], 0, 0)
        assert not hasattr(first, "fresh")
        first.counter = itertools.count()


def test_host_generators_are_the_callers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = run(network("layer_drop", "numpy_noise"), Recording(), "fp32")[1]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(6)  # the training has its own seed
    assert torch.equal(run(network("layer_drop", "numpy_noise"), Recording(), "fp32")[1], first)


def test_torchs_cpu_generator_belongs_to_the_host_of_a_gpu() -> None:
    model = nn.Linear(1, 1)
    state = HiddenState(model, torch.device("cuda"))
    expected = torch.rand(3)
    assert state.changes() == ["a step draws random numbers from torch's CPU generator"]
    state.restore()
    assert torch.equal(torch.rand(3), expected)


def test_differences_are_shares_of_the_change() -> None:
    """By hand: (.5 − .4) / .5 plus the hundredth of the mean change of the kind, (.5 + 1.5) / 2 / 100."""
    start = {"weight a": torch.zeros(2), "weight b": torch.zeros(3), "buffer n": torch.tensor(3)}
    expected = {
        "weight a": torch.full((2,), 0.5),
        "weight b": torch.full((3,), 1.5),
        "buffer n": torch.tensor(4),
    }
    got = {"weight a": torch.full((2,), 0.4), "weight b": torch.full((3,), 1.5), "buffer n": torch.tensor(5)}
    found = relative_differences(start, expected, got)
    assert found["weight a"] == pytest.approx(0.1 / 0.51, rel=1e-5)
    assert found["weight b"] == 0.0
    assert found["buffer n"] == float("inf")


def _random_kinds(seed: int) -> tuple[str, ...]:
    draw = random.Random(seed)
    return tuple(draw.choice([*(6 * FAITHFUL), *UNFAITHFUL]) for _ in range(draw.choice([2, 3])))


def _compare(seed: int) -> bool:
    """Whether the network of `seed` was replayed; it trains as eager steps do either way."""
    kinds = _random_kinds(seed)
    eager, expected = run(network(*kinds), None, "fp32")
    result, got = run(network(*kinds), Recording(), "fp32")
    assert torch.equal(got, expected), kinds
    replayed = result.form == "cuda-graph"
    assert replayed == (set(kinds) <= set(FAITHFUL)), (kinds, result.form)
    assert replayed or result.form.startswith("eager (no CUDA graph: "), kinds
    losses: Callable[[Any], list[float]] = lambda one: [row["train_loss"] for row in one.curve]  # noqa: E731
    assert losses(result) == losses(eager), kinds
    return replayed


def test_random_networks_train_as_eager_ones() -> None:
    assert {_compare(seed) for seed in range(8)} == {True, False}


@pytest.mark.slow
def test_two_hundred_random_networks_train_as_eager_ones() -> None:
    replayed = sum(_compare(seed) for seed in range(8, 200))
    assert 20 <= replayed <= 172
