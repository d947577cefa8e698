"""The protocol of activations, and their registry."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from torch import nn

from reborn_nas.architecture import ORIGINAL, Choice, Scalar
from reborn_nas.errors import ConfigError, SiteError, blame_machine, unknown_name

GROUP = "reborn_nas.activations"
LAYOUTS = ("ncl", "nchw", "nhwc", "ncdhw", "ndhwc", "nc", "nlc")
INITS = ("xavier", "preserve")


@dataclass(frozen=True)
class Option:
    """One setting of an activation.

    Args:
        default: value if a choice does not set it.
        values: allowed values; empty means any finite number in [low, high].
        help: one-line description for tables and error messages.
        low, high: bounds of a numeric option without `values`.
    """

    default: Scalar
    values: tuple[Scalar, ...] = ()
    help: str = ""
    low: float = -math.inf
    high: float = math.inf

    def fault(self, value: Scalar) -> str | None:
        """Why `value` is not allowed, or None."""
        if self.values:
            if any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values):
                return None
            return f"must be one of {', '.join(map(str, self.values))}, not {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"must be a finite number, not {value!r}"
        if not self.low <= value <= self.high:
            return f"must lie in [{self.low:g}, {self.high:g}], not {value!r}"
        return None

    def canonical(self, value: Scalar) -> Scalar:
        """`value` in the type of the option, so that 3 and 3.0 make equal choices. It must be allowed."""
        for known in self.values:
            if value == known:
                return known
        return float(value)


@runtime_checkable
class ActivationFamily(Protocol):
    """An entry of the registry: a named activation, its options and how to build it.

    Third-party packages add activations through the entry-point group `reborn_nas.activations`: the entry point names
    such an object, or a class or function that returns one when called without arguments. A module that `build` returns
    has the int attributes `channels` and `out_channels`, maps (B, channels, …) to (B, out_channels, …) in the layout
    for which it was built, never works in place, and may have a method `fuse()` that returns its deployment form.
    """

    @property
    def name(self) -> str:
        """The name in choices."""
        ...

    @property
    def summary(self) -> str:
        """A one-line description for tables."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """Alternative names."""
        ...

    @property
    def options(self) -> Mapping[str, Option]:
        """The options by name."""
        ...

    def channel_factor(self, **options: Any) -> int:
        """Output channels per input channel: 1, or 2 if both phases are returned uncompressed."""
        ...

    def layouts(self, **options: Any) -> frozenset[str]:
        """The supported tensor layouts, a subset of `LAYOUTS`."""
        ...

    def build(
        self,
        channels: int,
        *,
        layout: str = "nchw",
        original: nn.Module | None = None,
        init: str = "xavier",
        **options: Any,
    ) -> nn.Module:
        """Build a module for maps of `channels` channels."""
        ...


_families: dict[str, ActivationFamily] = {}
_names: dict[str, str] = {}  # name or alias -> name
_broken: dict[str, str] = {}  # entry point -> why it could not be loaded
_plugins_loaded = False


def register(family: ActivationFamily) -> ActivationFamily:
    """Add `family` to the registry. Raises ConfigError if a name is taken, or if it is not a family."""
    missing = [part for part in ("name", "summary", "aliases", "options") if not hasattr(family, part)]
    missing += [
        part for part in ("channel_factor", "layouts", "build") if not callable(getattr(family, part, None))
    ]
    if missing:
        raise ConfigError(f"{family!r} is not an activation family: it lacks {', '.join(missing)}")
    names = (family.name, *family.aliases)
    for name in names:
        Choice(name)  # refuses names that no label can contain
        if name in _names or name == ORIGINAL.name or names.count(name) > 1:
            holder = _origin(_families[_names[name]]) if name in _names else "the backbone's own activation"
            raise ConfigError(
                f"activation {family.name!r} from {_origin(family)}: the name {name!r} is taken by {holder}; "
                "rename one of them, or uninstall the distribution that brings it"
            )
    _families[family.name] = family
    _names.update(dict.fromkeys(names, family.name))
    return family


def get_family(name: str) -> ActivationFamily:
    """The family registered under `name` or an alias. Raises UnknownNameError with close matches."""
    if name not in _names:
        _load_plugins()
    if name not in _names:
        hint = "".join(f" (entry point {point} could not be loaded: {why})" for point, why in _broken.items())
        raise unknown_name("activation", name, _names, hint)
    return _families[_names[name]]


def family_names() -> tuple[str, ...]:
    """The names of all registered activations, including third-party ones, in order of registration."""
    _load_plugins()
    return tuple(_families)


def complete(choice: Choice | str) -> Choice:
    """Return `choice` with the family's name and all options, so that equivalent choices are equal.

    Raises:
        UnknownNameError: there is no such activation.
        SiteError: an option is unknown or a value is not allowed; one message lists all faults.
    """
    choice = Choice.parse(choice) if isinstance(choice, str) else choice
    if choice.name == ORIGINAL.name:
        if choice.items:
            raise SiteError(f"choice {choice.label!r}: 'original' takes no options")
        return ORIGINAL
    family = get_family(choice.name)
    given, faults = choice.options, []
    for key, value in given.items():
        if key not in family.options:
            close = get_close_matches(key, family.options, n=1)
            known = ", ".join(family.options) or "none"
            faults.append(
                f"has no option {key!r}"
                + (f", did you mean {close[0]!r}?" if close else f" (known: {known})")
            )
        elif fault := family.options[key].fault(value):
            faults.append(f"{key} {fault}")
    if faults:
        raise SiteError(f"choice {choice.label!r}: {family.name} " + "; ".join(faults))
    filled = {key: option.canonical(given.get(key, option.default)) for key, option in family.options.items()}
    return Choice(family.name, **filled)


def _load_plugins() -> None:
    """Register the activations of installed packages, once; ones that cannot be imported are skipped with a warning."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        family = _load(point)
        if family is not None and _families.get(getattr(family, "name", "")) is not family:
            register(family)
    _plugins_loaded = True


def _origin(family: ActivationFamily) -> str:
    return f"{type(family).__module__}.{type(family).__qualname__}"


def _load(point: EntryPoint) -> ActivationFamily | None:
    try:
        found = point.load()
        built = found() if isinstance(found, type) or not isinstance(found, ActivationFamily) else found
    except Exception as error:  # third-party code may raise anything; the others must remain usable
        blame_machine(error, f"activation entry point {point.name!r} ({point.value})")
        _broken[f"{point.name} = {point.value}"] = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"activation entry point {point.name!r} ({point.value}) could not be loaded and is skipped: {error!r}",
            stacklevel=2,
        )
        return None
    return built
