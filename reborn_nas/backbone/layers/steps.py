"""What has to be widened behind a doubled activation: pure data, which a plan stores as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from reborn_nas.backbone.layers.channelmap import ChannelMap
from reborn_nas.errors import ConversionError

Action = Literal[
    "consume",
    "repeat",
    "norm",
    "copy",
    "filter",
    "line",
    "standardised",
    "split",
    "width",
    "shuffle",
    "halve",
    "cut",
    "depthwise",
    "experts",
]
READING = frozenset({"consume", "standardised", "experts"})  # actions that read extra channels with weights
EXCLUSIVE = (frozenset({"cut", "norm"}), frozenset({"depthwise", "consume"}))  # of which a module takes one


@dataclass(frozen=True)
class WidenStep:
    """One module, or one parameter of it, that gets wider.

    Args:
        action: `consume`: a convolution or linear layer reads more input channels, its new weights are free.
            `repeat`: a layer that makes a factor (a gate) gives each channel's output to the extra channels too.
            `norm`: a per-channel norm gets fresh parameters and statistics for the extra channels.
            `copy`: a per-channel parameter (layer scale, PReLU's slope) is copied to the extra channels.
            `filter`: a fixed depthwise filter (blur pool) is copied.
            `line`: a 1-D convolution along the channels (ECA) sees the original channels alone; its result is
            repeated.
            `standardised`: a weight-standardised convolution reads more; it standardises the old weights alone.
            `split`: a `MixedConv2d` or `SelectiveKernel` splits the widened channels as it split the original ones.
            `shuffle`, `halve`: ShuffleNet's block shuffles and splits the widened channels as the original ones.
            `width`: a layer holds its width in an attribute, which `tensors` names.
            `cut`: the norm of an identity branch (RepVGG, MobileOne) reads the original channels alone.
            `depthwise`: a depthwise convolution on the way to a factor gets copies of its filters.
            `experts`: a `CondConv2d` reads more input channels with each of its experts.
        module: path of the module that holds the tensors.
        tensors: their names in the module.
        dim: the dimension of the tensors that grows.
        groups: groups of the convolution.
        channels: the map of the value that meets the module.
    """

    action: Action
    module: str
    tensors: tuple[str, ...]
    dim: int
    groups: int
    channels: ChannelMap

    @property
    def keys(self) -> tuple[tuple[str, str, int], ...]:
        """What tells the tensors that grow: module, tensor, dimension."""
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
        if data["action"] not in get_args(Action):
            raise ConversionError(
                f"a widening step is one of {', '.join(get_args(Action))}, not {data['action']!r}"
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
    """Why a doubled value cannot be carried to widened consumers.

    Args:
        reason: what blocks, in words, with the operation and the module.
        operation: the operation's name.
        module: path of the module that runs it.
    """

    reason: str
    operation: str
    module: str
