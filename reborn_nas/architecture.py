"""The architecture: a backbone and, for each activation site, an activation. Standard library only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from reborn_nas.errors import ConfigError, SiteError

VERSION = 1
Scalar = str | int | float | bool

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True)
class Choice:
    """The choice for a site: an activation's registered name and its options.

    `Choice("reborn", kernel_size=3, compression="1x1")`. Options are sorted scalars, so that
    equal choices compare and hash equal. The name "original" keeps the backbone's activation.
    """

    name: str
    items: tuple[tuple[str, Scalar], ...] = ()

    def __init__(self, name: str, **options: Scalar) -> None:
        if not isinstance(name, str) or not _NAME.match(name):
            raise SiteError(f"an activation's name is a Python identifier, not {name!r}")
        for key, value in options.items():
            if not isinstance(value, str | int | float | bool):
                raise SiteError(
                    f"choice {name!r}: option {key!r} must be a string, number or bool, not {value!r}"
                )
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "items", tuple(sorted(options.items())))

    @property
    def options(self) -> dict[str, Scalar]:
        """The options as a new dict."""
        return dict(self.items)

    @cached_property
    def label(self) -> str:
        """A readable label, from which `parse` restores the choice, such as `reborn(compression=1x1,kernel_size=3)`."""
        if not self.items:
            return self.name
        return f"{self.name}({','.join(f'{key}={scalar_text(value)}' for key, value in self.items)})"

    @classmethod
    def parse(cls, label: str) -> Choice:
        """The choice of a label. Raises SiteError if it is invalid."""
        return _parsed(label)

    def __str__(self) -> str:
        return self.label


@lru_cache(maxsize=4096)
def _parsed(label: str) -> Choice:
    """`Choice.parse`, cached: a study parses a few labels hundreds of thousands of times."""
    match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", label, flags=re.DOTALL)
    if match is None:
        raise SiteError(f"{label!r} is not an activation choice; write a name, or name(option=value, …)")
    options: dict[str, Scalar] = {}
    for part in _split(match.group(2) or ""):
        key, sign, value = part.partition("=")
        if not sign or not _NAME.match(key.strip()):
            raise SiteError(f"{label!r}: {part!r} is not an option; write option=value")
        options[key.strip()] = read_scalar(value.strip())
    return Choice(match.group(1), **options)


ORIGINAL = Choice("original")


@lru_cache(maxsize=4096)
def _is_site_name(name: str) -> bool:
    """Whether `name` has the form of a module's path; cached, since a study repeats a few names."""
    parts = name.split(".")
    return all(part.strip() for part in parts) and not parts[0].startswith(("/", "\\"))


@dataclass(frozen=True)
class BackboneSpec:
    """The source of a network and its arguments.

    Args:
        source: `timm:resnet18`, `torchvision:resnet34`, `path/to/file.py:factory` or
            `package.module:factory`; a bare name means timm.
        arguments: keyword arguments of the constructor, JSON values.
        input_size: (C, H, W) of one image, or None if undecided.
        num_classes: outputs of the head, or None if undecided.
        stem: "original", or "small" for the 3×3, stride-1, pool-free stem of small images; None if undecided.
        source_digest: SHA-256 of the source of a user's own network, else None.
    """

    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int, int] | None = None
    num_classes: int | None = None
    stem: str | None = None
    source_digest: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source.strip():
            raise ConfigError(f"a backbone's source is a name such as 'timm:resnet18', not {self.source!r}")
        if ":" not in self.source:
            object.__setattr__(self, "source", f"timm:{self.source}")
        if self.input_size is not None:
            size = tuple(int(n) for n in self.input_size)
            if len(size) != 3 or min(size) < 1:
                raise ConfigError(
                    f"input_size is (channels, height, width), all ≥ 1, not {self.input_size!r}"
                )
            object.__setattr__(self, "input_size", size)
        if self.stem not in (None, "original", "small"):
            raise ConfigError(f"stem is 'original' or 'small', not {self.stem!r}")
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    @property
    def library(self) -> str:
        """`timm`, `torchvision` or `file`."""
        prefix = self.source.split(":", 1)[0]
        return prefix if prefix in ("timm", "torchvision") else "file"

    @property
    def name(self) -> str:
        """The model's name in its library, or the factory's name."""
        return self.source.rsplit(":", 1)[1]

    def to_dict(self) -> dict[str, Any]:
        """JSON values only; `from_dict` restores the spec."""
        return {
            "source": self.source,
            "arguments": dict(self.arguments),
            "input_size": None if self.input_size is None else list(self.input_size),
            "num_classes": self.num_classes,
            "stem": self.stem,
            "source_digest": self.source_digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BackboneSpec:
        """The inverse of `to_dict`. Raises ConfigError on unknown or ill-typed keys."""
        known = ("source", "arguments", "input_size", "num_classes", "stem", "source_digest")
        unknown = sorted(set(data) - set(known))
        if unknown or "source" not in data:
            raise ConfigError(
                f"a backbone has the keys {', '.join(known)}; got {', '.join(sorted(map(str, data)))}"
            )
        if not isinstance(data.get("arguments") or {}, Mapping):
            raise ConfigError(f"backbone.arguments is a mapping, not {data['arguments']!r}")
        size = data.get("input_size")
        if size is not None and not (
            isinstance(size, list | tuple) and len(size) == 3 and all(type(n) is int for n in size)
        ):
            raise ConfigError(f"backbone.input_size is [channels, height, width], not {size!r}")
        classes = data.get("num_classes")
        if classes is not None and (type(classes) is not int or classes < 0):
            raise ConfigError(f"backbone.num_classes is a number ≥ 0, not {classes!r}")
        return cls(
            source=data["source"],
            arguments=data.get("arguments") or {},
            input_size=None if size is None else (size[0], size[1], size[2]),
            num_classes=classes,
            stem=data.get("stem"),
            source_digest=data.get("source_digest"),
        )

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True, default=repr))

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot be pickled or deep-copied
        return (BackboneSpec.from_dict, (self.to_dict(),))


@dataclass(frozen=True)
class Architecture:
    """A backbone and its choices, site → choice. Sites that are not named keep their original.

    Args:
        backbone: a `BackboneSpec`, or a source string such as "resnet18".
        choices: site name → `Choice` (or its label).
    """

    backbone: BackboneSpec
    choices: Mapping[str, Choice]

    def __init__(
        self, backbone: BackboneSpec | str, choices: Mapping[str, Choice | str] | None = None
    ) -> None:
        spec = BackboneSpec(backbone) if isinstance(backbone, str) else backbone
        kept: dict[str, Choice] = {}
        for site, given in (choices or {}).items():
            if not isinstance(site, str) or not _is_site_name(site):
                raise SiteError(f"{site!r} is not a site name; `reborn-nas sites` lists those of a backbone")
            choice = Choice.parse(given) if isinstance(given, str) else given
            if choice is not ORIGINAL and choice != ORIGINAL:
                kept[site] = choice
        object.__setattr__(self, "backbone", spec)
        object.__setattr__(self, "choices", MappingProxyType(kept))

    def choice(self, site: str) -> Choice:
        """The choice for `site`."""
        return self.choices.get(site, ORIGINAL)

    def with_choices(self, choices: Mapping[str, Choice | str]) -> Architecture:
        """A copy with `choices` in place of those of the same sites."""
        return Architecture(self.backbone, {**self.choices, **choices})

    def with_backbone(self, backbone: BackboneSpec | str) -> Architecture:
        """A copy with another backbone."""
        return Architecture(backbone, self.choices)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only, with a format version."""
        return {
            "version": VERSION,
            "backbone": self.backbone.to_dict(),
            "choices": {site: self.choices[site].label for site in self.choices},
        }

    def to_json(self, indent: int | None = None) -> str:
        """The architecture as a JSON string; `from_json` restores it."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_dict`. Raises ConfigError on a newer version or ill-typed content."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"an architecture is a JSON object, not {type(data).__name__}")
        version = data.get("version")
        if type(version) is not int or version < 1:
            raise ConfigError(f"architecture.version is a whole number ≥ 1, not {version!r}")
        if version > VERSION:
            raise ConfigError(
                f"architecture.version is {version}, but this reborn-nas reads up to {VERSION}; upgrade reborn-nas"
            )
        unknown = sorted(set(data) - {"version", "backbone", "choices"})
        if unknown:
            raise ConfigError(f"architecture has unknown keys: {', '.join(map(str, unknown))}")
        backbone, choices = data.get("backbone"), data.get("choices")
        if not isinstance(backbone, Mapping):
            raise ConfigError(f"architecture.backbone is an object, not {backbone!r}")
        if not isinstance(choices, Mapping) or not all(isinstance(v, str) for v in choices.values()):
            raise ConfigError(
                "architecture.choices maps site names to labels such as 'reborn(kernel_size=3)'"
            )
        return cls(BackboneSpec.from_dict(backbone), choices)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """The inverse of `to_json`. Raises ConfigError if `text` is not an architecture."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"an architecture is JSON: {error}") from error
        return cls.from_dict(data)

    @property
    def digest(self) -> str:
        """A digest of backbone and choices, of twelve hex digits, independent of the order of sites."""
        text = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __iter__(self) -> Iterator[tuple[str, Choice]]:
        return iter(self.choices.items())

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Architecture.from_dict, (self.to_dict(),))


def scalar_text(value: Scalar) -> str:
    """A value as text in a label; `read_scalar` restores it."""
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z0-9_.+\-]+", value) is not None
        return (
            value if plain and isinstance(read_scalar(value), str) else json.dumps(value, ensure_ascii=False)
        )
    return json.dumps(value)


def read_scalar(text: str) -> Scalar:
    """The number, boolean or string that `text` denotes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str | int | float | bool) else text


def _split(text: str) -> list[str]:
    """Split at commas outside of quoted strings."""
    parts = re.findall(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', text)
    return [part for part in parts if part.strip()]
