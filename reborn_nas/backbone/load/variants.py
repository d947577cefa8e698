"""One backbone with different constructor arguments, such as the width, as further choices of a search."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reborn_nas.architecture import BackboneSpec, Scalar, read_scalar, scalar_text
from reborn_nas.errors import ConfigError

__all__ = ["Variants", "is_argument", "with_arguments"]

PREFIX = "backbone."


@dataclass(frozen=True)
class Variants:
    """Arguments of a backbone's constructor, each with the values that a search may give it.

    A parameter of the search is named `backbone.ARGUMENT`; its labels are the values as strings. The parent has the
    first value of each argument that is not set.

    Args:
        arguments: argument → its values.
    """

    arguments: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.arguments)

    @property
    def parameters(self) -> dict[str, tuple[str, ...]]:
        """Parameter → its labels, if there is more than one."""
        return {
            PREFIX + name: tuple(scalar_text(value) for value in values)
            for name, values in self.arguments.items()
            if len(values) > 1
        }

    def settle(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` arguments of the parent, with the first value of each that is not among them.

        Raises:
            ConfigError: the parent has a value that the search does not include.
        """
        settled = {name: given.get(name, values[0]) for name, values in self.arguments.items()}
        faults = [
            f"{name}: the parent has {settled[name]!r}, which is not one of {', '.join(map(scalar_text, values))}; "
            f"add it to the space, or give --model-arg {name}={scalar_text(values[0])}"
            for name, values in self.arguments.items()
            if settled[name] not in values
        ]
        if faults:
            raise ConfigError("the search space varies arguments of the backbone:", faults)
        return {**given, **settled}

    def labels_of(self, spec: BackboneSpec) -> dict[str, str]:
        """Parameter → the label of its value in `spec`."""
        return {name: scalar_text(spec.arguments[name.removeprefix(PREFIX)]) for name in self.parameters}

    def specs(self, parent: BackboneSpec) -> Iterator[BackboneSpec]:
        """`parent` with every combination of the values."""
        for values in itertools.product(*self.arguments.values()):
            yield replace(
                parent, arguments={**parent.arguments, **dict(zip(self.arguments, values, strict=True))}
            )


def is_argument(parameter: str) -> bool:
    """Whether a parameter of a search is a backbone argument."""
    return parameter.startswith(PREFIX)


def with_arguments(spec: BackboneSpec, chosen: Mapping[str, str]) -> BackboneSpec:
    """`spec` with the backbone arguments in `chosen` (parameter → label)."""
    arguments = {
        name.removeprefix(PREFIX): read_scalar(label) for name, label in chosen.items() if is_argument(name)
    }
    return replace(spec, arguments={**spec.arguments, **arguments}) if arguments else spec
