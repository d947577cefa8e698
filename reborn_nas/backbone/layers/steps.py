"""Widening as data, which a plan stores as JSON: the channels of a wider value, and the tensors that grow.

A doubled activation turns C channels into 2C. What follows may concatenate, flatten or double again, so each widened
value has a `ChannelMap`: for each of its channels, the channel of the *original* value from which it comes, and whether
it is that channel itself or an extra one. Maps are run-length encoded, so that a map of 100,000 flattened columns is
two tuples, also in JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from reborn_nas.errors import ConversionError

Run = tuple[int, int, bool]


@dataclass(frozen=True)
class ChannelMap:
    """The channels of a widened value, as runs (start, length, extra) over the original channels.

    Every original channel is in exactly one run that is not extra, so the original value is a selection of the widened
    one. `doubled` of C channels is ((0, C, False), (0, C, True)).

    Args:
        size: number of channels of the original value.
        runs: in the order of the widened value; adjacent consecutive runs are merged.
    """

    size: int
    runs: tuple[Run, ...]

    @classmethod
    def identity(cls, size: int) -> ChannelMap:
        """The map of a value that is not widened."""
        return cls(size, ((0, size, False),))

    @classmethod
    def of(cls, size: int, runs: Iterable[Sequence[int | bool]]) -> ChannelMap:
        """A map with adjacent runs merged, so that equal maps compare equal."""
        joined: list[Run] = []
        for start, length, extra in runs:
            if joined and joined[-1][2] == bool(extra) and joined[-1][0] + joined[-1][1] == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length, bool(extra))
            elif length:
                joined.append((start, length, bool(extra)))
        return cls(size, tuple(joined))

    @cached_property
    def width(self) -> int:
        """The number of channels of the widened value."""
        return sum(length for _, length, _ in self.runs)

    def doubled(self) -> ChannelMap:
        """The map after an activation with the result cat([a(x), b(x)]): all channels again, as extra ones."""
        return ChannelMap.of(
            self.size, [*self.runs, *((start, length, True) for start, length, _ in self.runs)]
        )

    def merged(self, outer: int, inner: int) -> ChannelMap:
        """The map after a flatten of (outer, C, inner) to one dimension."""
        runs = [
            ((block * self.size + start) * inner, length * inner, extra)
            for block in range(outer)
            for start, length, extra in self.runs
        ]
        return ChannelMap.of(outer * self.size * inner, runs)

    def part(self, start: int, size: int) -> ChannelMap:
        """The map of the channels that come from `size` original ones from `start` on, in the order of this map."""
        runs: list[Run] = []
        for first, length, extra in self.runs:
            low, high = max(first, start), min(first + length, start + size)
            if low < high:
                runs.append((low - start, high - low, extra))
        return ChannelMap.of(size, runs)

    @staticmethod
    def concatenated(maps: Sequence[ChannelMap]) -> ChannelMap:
        """The map of a concatenation along the channels."""
        runs: list[Run] = []
        offset = 0
        for part in maps:
            runs += [(start + offset, length, extra) for start, length, extra in part.runs]
            offset += part.size
        return ChannelMap.of(offset, runs)

    def entries(self) -> list[tuple[int, bool]]:
        """(original channel, extra) of every channel of the widened value."""
        return [(start + i, extra) for start, length, extra in self.runs for i in range(length)]

    def sources(self) -> list[int]:
        """The original channel of each channel of the widened value."""
        return [start + i for start, length, _ in self.runs for i in range(length)]

    def kept(self) -> list[int]:
        """The index of each original channel in the widened value."""
        places = [0] * self.size
        for place, (channel, extra) in enumerate(self.entries()):
            if not extra:
                places[channel] = place
        return places

    def grouped(self, groups: int) -> list[list[int]]:
        """For each of `groups` equal groups of original channels, the indices of its channels in the widened value.

        All lists are equally long, as a grouped convolution requires: a group with fewer channels than another repeats
        its first one.
        """
        per_group = self.size // groups
        if all(run[:2] == (0, self.size) for run in self.runs):
            starts = range(0, self.width, self.size)
            inner = range(per_group)
            return [[s + g * per_group + i for s in starts for i in inner] for g in range(groups)]
        places: list[list[int]] = [[] for _ in range(groups)]
        for place, channel in enumerate(self.sources()):
            places[channel // per_group].append(place)
        widest = max(len(group) for group in places)
        return [group + group[:1] * (widest - len(group)) for group in places]

    def to_list(self) -> list[list[int]]:
        """JSON values; `from_list` restores the map."""
        return [[self.size], *([start, length, int(extra)] for start, length, extra in self.runs)]

    @classmethod
    def from_list(cls, data: Sequence[Sequence[int]]) -> ChannelMap:
        """The inverse of `to_list`."""
        return cls(int(data[0][0]), tuple((int(run[0]), int(run[1]), bool(run[2])) for run in data[1:]))


Growth = Literal["columns", "copies", "fresh", ""]
"""How the tensors of a step grow: by free weights for the extra channels; by copies of the values for their original
channels; by the neutral initialisation of a norm; or not at all."""


@dataclass(frozen=True)
class Action:
    """The effect of a widening step.

    Args:
        grows: how its tensors grow.
        widths: attributes of the module that hold the changed width.
        reads: whether weights read the extra channels.
        uses: what must not be used differently elsewhere: the step's tensors, or the operation of the layer.
        excludes: an action that cannot be combined with it on one module.
    """

    grows: Growth = ""
    widths: tuple[str, ...] = ()
    reads: bool = False
    uses: Literal["tensors", "layer", ""] = "tensors"
    excludes: str = ""


ACTIONS: dict[str, Action] = {
    "consume": Action("columns", ("in_channels", "in_features"), reads=True, excludes="depthwise"),
    "repeat": Action("copies", ("out_channels", "out_features")),
    "norm": Action("fresh", ("num_features",), excludes="cut"),
    "copy": Action("copies", ("num_parameters",)),
    "depthwise": Action("copies", ("in_channels", "out_channels", "groups")),
}
"""Name → action: general ones, and those that registered layers add (`registry.register`)."""


@dataclass(frozen=True)
class WidenStep:
    """A module, or one parameter of it, that is widened.

    Args:
        action: a name of `ACTIONS`.
            `consume`: a convolution or linear layer reads more input channels with free weights.
            `repeat`: a layer that computes a factor (a gate) repeats each channel's output for the extra channels.
            `norm`: a per-channel norm gets new parameters and statistics for the extra channels.
            `copy`: a per-channel parameter (layer scale, PReLU's slope) is copied to the extra channels.
            `depthwise`: a depthwise convolution in the computation of a factor gets copies of its filters.
            Further actions are described by the layers of the registry.
        module: path of the module that holds the tensors.
        tensors: their names in the module.
        dim: the dimension of the tensors that grows.
        groups: groups of the convolution.
        channels: the channel map of the module's input.
    """

    action: str
    module: str
    tensors: tuple[str, ...]
    dim: int
    groups: int
    channels: ChannelMap

    @property
    def keys(self) -> tuple[tuple[str, str, int], ...]:
        """Keys of the tensors that grow: module, tensor, dimension."""
        return tuple((self.module, tensor, self.dim) for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` restores the step."""
        return {
            "action": self.action,
            "module": self.module,
            "tensors": list(self.tensors),
            "dim": self.dim,
            "groups": self.groups,
            "channels": self.channels.to_list(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WidenStep:
        """The inverse of `to_dict`. Raises ConversionError for an unknown action."""
        if data["action"] not in ACTIONS:
            raise ConversionError(
                f"a widening step is one of {', '.join(ACTIONS)}, not {data['action']!r}; a layer of your own must be "
                "registered before its plan is read"
            )
        return cls(
            data["action"],
            str(data["module"]),
            tuple(data["tensors"]),
            int(data["dim"]),
            int(data["groups"]),
            ChannelMap.from_list(data["channels"]),
        )


@dataclass(frozen=True)
class Widening:
    """All changes, apart from the activations themselves, for some sites to double their channels.

    Args:
        steps: at most one step per tensor and dimension.
        channels: site name → number of channels at that site's activation, for sites that get more than they had; a new
            activation at such a site must have that many.
    """

    steps: tuple[WidenStep, ...]
    channels: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` restores the widening."""
        return {"steps": [step.to_dict() for step in self.steps], "channels": dict(self.channels)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Widening:
        """The inverse of `to_dict`. Raises ConversionError for anything else."""
        try:
            steps = tuple(WidenStep.from_dict(step) for step in data["steps"])
            return cls(steps, {str(site): int(n) for site, n in data["channels"].items()})
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConversionError):
                raise
            raise ConversionError(
                f"a plan's widening is damaged ({type(error).__name__}: {error}); make a new plan"
            ) from error


@dataclass(frozen=True)
class Refusal:
    """The reason why a doubled value cannot be carried to widened consumers.

    Args:
        reason: text that names the operation and the module.
        operation: name of the operation.
        module: path of the module that runs it.
    """

    reason: str
    operation: str
    module: str
