"""Where the channels of a widened value come from: the bookkeeping of channel doubling.

A doubled activation turns C channels into 2C. What follows may concatenate, flatten or double again, so each
widened value carries a map: for every channel that it has now, which channel of the *original* value it stands
for, and whether it is that very channel or an extra one beside it. Maps are kept as runs, so that one of 100,000
flattened columns stays two tuples long and travels in JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

Run = tuple[int, int, bool]


@dataclass(frozen=True)
class ChannelMap:
    """The channels of a widened value, as runs (start, length, extra) over the original channels.

    Every original channel stands in exactly one run that is not extra, so the original value is a selection of
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

    @property
    def is_identity(self) -> bool:
        """Whether nothing was widened."""
        return self.runs == ((0, self.size, False),)

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
        """The map of what stands for the original channels from `start` on, `size` of them, in their order here."""
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
        """The original channel that each channel of the widened value stands for."""
        return [start + i for start, length, _ in self.runs for i in range(length)]

    def kept(self) -> list[int]:
        """Where each original channel stands in the widened value."""
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
