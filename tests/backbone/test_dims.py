"""Where operations put dimensions: torch itself is asked, with sizes that are all different."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reborn_nas as rn
from reborn_nas.backbone.sites.axes import channel_axes
from reborn_nas.backbone.trace.dims import moved
from reborn_nas.backbone.trace.graph import Trace
from reborn_nas.backbone.trace.record import trace

MOVES: dict[str, Callable[[Tensor], Any]] = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute, a tuple": lambda x: torch.permute(x, (3, -2, 1, 0)),
    "permute, by name": lambda x: x.permute(dims=(1, 0, 3, 2)),
    "transpose": lambda x: x.transpose(1, -1),
    "transpose, by name": lambda x: x.transpose(dim0=1, dim1=2),
    "swapaxes": lambda x: torch.swapaxes(x, axis0=0, axis1=1),
    "mT": lambda x: x.mT,
    "unsqueeze": lambda x: x.unsqueeze(-2),
    "unsqueeze before": lambda x: x.unsqueeze(1),
    "select": lambda x: x.select(2, 0),
    "unbind": lambda x: x.unbind(-1),
    "stack": lambda x: torch.stack([x, x], 2),
    "stack by itself": lambda x: torch.stack([x, x]),
    "expand": lambda x: x.expand(9, -1, -1, -1, -1),
    "unflatten": lambda x: x.unflatten(-1, (2, 6)),
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean((0, -1)),
    "norm": lambda x: torch.norm(x, 2, 1),
    "max": lambda x: x.max(2),
    "amax, kept": lambda x: x.amax(1, keepdim=True),
    "prod": lambda x: x.prod(dim=0),
    "split": lambda x: x.split(2, 1),
    "flip": lambda x: x.flip(1, 3),
    "index": lambda x: x[:, 0, None, ..., :4],
    "an index in front": lambda x: x[0],
    "an index at the end": lambda x: x[..., 0],
    "a list behind": lambda x: x[:, :, [0, 1]],
    "a list that drops a dimension": lambda x: x[:, :, [0, 1], [0, 1]],
}


class Move(nn.Module):
    """One operation."""

    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(x)


def recorded(run: Callable[[Tensor], Any], shape: tuple[int, ...]) -> Trace:
    return trace(Move(run), torch.empty(shape, device="meta"), training=False)


@pytest.mark.parametrize("name", MOVES)
def test_each_dimension_is_found_again_by_its_size(name: str) -> None:
    before = (5, 7, 11, 12)
    run = recorded(MOVES[name], before)
    op = run.ops[-1]
    after = run.values[op.outputs[0]].shape
    for dim, size in enumerate(before):
        found = moved(op, before, after, dim)
        if size in after:
            assert found == after.index(size)
        elif found is not None:  # it got another size, at the place it had
            assert len(after) >= len(before)


@pytest.mark.parametrize(
    ("run", "before", "expected"),
    [
        (lambda x: x.flatten(1), (5, 7, 11, 12), [0, 1, 1, 1]),
        (lambda x: x.reshape(5, 77, 12), (5, 7, 11, 12), [0, 1, 1, 2]),
        (lambda x: x.view(5, 7, 3, 4, 11), (5, 7, 12, 11), [0, 1, 3, 4]),
        (lambda x: x.reshape(7, 5), (5, 7), [1, 1]),
        (lambda x: x.squeeze(), (5, 1, 7, 1), [0, None, 1, None]),
        (lambda x: x.squeeze(1), (5, 1, 7, 1), [0, None, 1, 2]),
        (lambda x: x.squeeze(2), (5, 1, 7, 1), [0, 1, 2, 3]),
        (lambda x: x.T, (5, 7), [1, 0]),
        (lambda x: x.sum(), (5, 7), [None, None]),
    ],
)
def test_places_by_hand(
    run: Callable[[Tensor], Any], before: tuple[int, ...], expected: list[int | None]
) -> None:
    done = recorded(run, before)
    op = done.ops[-1]
    after = done.values[op.outputs[0]].shape
    assert [moved(op, before, after, dim) for dim in range(len(before))] == expected


@pytest.mark.parametrize(
    "last", [lambda x: x.mT, lambda x: x.select(1, 0).unsqueeze(1), lambda x: x.squeeze()]
)
def test_sites_and_widened_channels_agree(last: Callable[[Tensor], Tensor]) -> None:
    """The dimension that a site's channels have is where widened channels come through."""
    run = recorded(lambda x: last(F.avg_pool2d(x, 1).flatten(2).unsqueeze(1)), (5, 7, 2, 3))
    op = run.ops[-1]
    axes = channel_axes(run)
    source, made = op.inputs[0], op.outputs[0]
    assert axes[made] == moved(op, run.values[source].shape, run.values[made].shape, axes[source])


class Flipped(nn.Module):
    """A flip of the channels, named after another dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).flip(3, 1))


def test_a_flip_of_the_channels_behind_another_is_seen() -> None:
    site = rn.find_sites(Flipped(), input_size=(3, 4, 4))[0]
    assert "a flip of the channels" in str(site.refusal("crelu(compression=none)"))
