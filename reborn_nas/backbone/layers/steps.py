"""Widening as pure data, which a plan stores as JSON: which channels a wider value has, and which tensors grow.

A doubled activation turns C channels into 2C. What follows may concatenate, flatten or double again, so each
widened value carries a `ChannelMap`: for every channel that it has now, which channel of the *original* value it comes
from, and whether it is that very channel or an extra one beside it. Maps are kept as runs, so that one of 100,000
flattened columns stays two tuples long and travels in JSON.
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

    Every original channel is in exactly one run that is not extra, so the original value is a selection of
    the widened one. `doubled` of C channels is ((0, C, False), (0, C, True)).

    Args:
        size: channels of the original value.
        runs: in the order of the widened value; adjacent runs that continue each other are one.
    """

    size: int
    runs: tuple[Run, ...]

    @classmethod
    def identity(cls, size: int) -> ChannelMap:
        """The map of a value that was not widened."""
        return cls(size, ((0, size, False),))

    @classmethod
    def of(cls, size: int, runs: Iterable[Sequence[int | bool]]) -> ChannelMap:
        """The map with adjacent runs joined, so that equal maps compare equal."""
        joined: list[Run] = []
        for start, length, extra in runs:
            if joined and joined[-1][2] == bool(extra) and joined[-1][0] + joined[-1][1] == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length, bool(extra))
            elif length:
                joined.append((start, length, bool(extra)))
        return cls(size, tuple(joined))

    @cached_property
    def width(self) -> int:
        """Channels of the widened value."""
        return sum(length for _, length, _ in self.runs)

    def doubled(self) -> ChannelMap:
        """The map behind an activation that gives cat([a(x), b(x)]): all channels once more, as extra ones."""
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
        """The map of the channels that come from `size` original ones from `start` on, in their order here."""
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
        """The original channel that each channel of the widened value comes from."""
        return [start + i for start, length, _ in self.runs for i in range(length)]

    def kept(self) -> list[int]:
        """The place of each original channel in the widened value."""
        places = [0] * self.size
        for place, (channel, extra) in enumerate(self.entries()):
            if not extra:
                places[channel] = place
        return places

    def grouped(self, groups: int) -> list[list[int]]:
        """For each of `groups` equal groups of original channels, the places of its channels in the widened value.

        All are equally long, as a grouped convolution wants them: a group with fewer channels than another reads
        its first one again.
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
"""How the tensors of a step grow: by free weights that read the extra channels; by what each extra channel's original
has; by the neutral start of a norm; or not at all."""


@dataclass(frozen=True)
class Action:
    """The effect of a widening step, by its name in a plan.

    Args:
        grows: how its tensors grow.
        widths: attributes of the module that hold the width which changes.
        reads: whether weights read the extra channels.
        uses: what must not serve elsewhere in another way: the step's tensors, or the operation of the layer.
        excludes: an action that the module cannot take as well.
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
"""Name → action: those of any layer, and those that the layers of the registry add (`registry.register`)."""


@dataclass(frozen=True)
class WidenStep:
    """One module, or one parameter of it, that gets wider.

    Args:
        action: a name of `ACTIONS`.
            `consume`: a convolution or linear layer reads more input channels, its new weights are free.
            `repeat`: a layer that makes a factor (a gate) gives each channel's output to the extra channels too.
            `norm`: a per-channel norm gets fresh parameters and statistics for the extra channels.
            `copy`: a per-channel parameter (layer scale, PReLU's slope) is copied to the extra channels.
            `depthwise`: a depthwise convolution on the way to a factor gets copies of its filters.
            Each layer of the registry describes its own.
        module: path of the module that holds the tensors.
        tensors: their names in the module.
        dim: the dimension of the tensors that grows.
        groups: groups of the convolution.
        channels: the map of the value that meets the module.
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
    """All that has to change, besides the activations themselves, for some sites to double their channels.

    Args:
        steps: at most one for each tensor and dimension.
        channels: site name → channels that reach that site's activation, where they are more than it had. An
            activation built for such a site must have that many.
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
                f"a plan's widening is damaged ({type(error).__name__}: {error}); make the plan anew"
            ) from error


@dataclass(frozen=True)
class Refusal:
    """The reason why a doubled value cannot be carried to widened consumers.

    Args:
        reason: what blocks, in words, with the operation and the module.
        operation: the operation's name.
        module: path of the module that runs it.
    """

    reason: str
    operation: str
    module: str
