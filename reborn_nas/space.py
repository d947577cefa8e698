"""Search spaces: the choices of each site, or group of sites; read from YAML."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import yaml

from reborn_nas.activations import complete
from reborn_nas.architecture import ORIGINAL, Architecture, BackboneSpec, Choice, scalar_text
from reborn_nas.backbone import Site
from reborn_nas.backbone.load.variants import Variants, with_arguments
from reborn_nas.documents import number_hint, read_yaml, yaml_fault
from reborn_nas.errors import ConfigError, RebornError, unknown_name

__all__ = ["Rule", "SearchSpace", "SuggestsCategorical", "list_spaces", "load_space"]

GRANULARITIES = ("site", "block", "stage", "model")
MOST_CHOICES = 500
"""Most choices of a site; a longer list is a mistake in the YAML, and slow in every sampler."""


class SuggestsCategorical(Protocol):
    """The methods of a trial that `suggest` needs; `optuna.Trial` has them."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Suggest one of `choices`."""


@dataclass(frozen=True)
class Rule:
    """A rule for some sites. A later rule replaces an earlier one for the same site.

    Args:
        sites: globs over site names (`layer4.*`); empty for all.
        stages: stage numbers as in `reborn-nas sites`; empty for all.
        choices: choices of the sites; empty keeps those of the space.
        fixed: the only choice of the sites, without a parameter; "original" excludes them from the search.
    """

    sites: tuple[str, ...] = ()
    stages: tuple[int, ...] = ()
    choices: tuple[Choice, ...] = ()
    fixed: Choice | None = None

    def matches(self, site: Site) -> bool:
        """Whether the rule applies to `site`."""
        by_name = not self.sites or any(
            site.name == pattern or fnmatchcase(site.name, pattern) for pattern in self.sites
        )
        return by_name and (not self.stages or site.stage in self.stages)


@dataclass(frozen=True)
class SearchSpace:
    """The choices of each site, or group of sites.

    Args:
        name: file name without `.yaml`, for messages.
        description: one or two sentences.
        granularity: "site", or the units that share a choice: "block", "stage" (spatial resolution) or "model".
        choices: choices of the sites without a rule.
        rules: rules in order; the last that matches a site applies.
        inadmissible: "refuse" choices that a site does not admit, or "skip" them there.
        variants: arguments of the backbone that are also searched, such as its width.
    """

    name: str
    description: str
    granularity: str
    choices: tuple[Choice, ...]
    rules: tuple[Rule, ...] = ()
    inadmissible: str = "refuse"
    variants: Variants = field(default_factory=Variants)

    def check(self, sites: Sequence[Site]) -> None:
        """Raise ConfigError with all faults, unless the space fits `sites` and has something to choose."""
        faults = []
        for number, rule in enumerate(self.rules, start=1):
            if not any(rule.matches(site) for site in sites):
                what = ", ".join([*rule.sites, *(f"stage {stage}" for stage in rule.stages)])
                faults.append(
                    f"rules[{number}]: {what} matches none of the {len(sites)} sites; see `reborn-nas sites`"
                )
        for site in sites:
            for choice in self._wanted(site):
                reason = site.refusal(choice)
                if reason and (self.inadmissible == "refuse" or self._fixed(site) is not None):
                    faults.append(f"site {site.name!r} cannot take {choice}: {reason}")
        if faults and (reason := no_maps(sites)):
            faults = [reason]
        if not faults and not self.parameters(sites):
            faults.append("nothing to choose: every site has one choice; give `choices` at least two entries")
        if faults:
            raise ConfigError(f"search space {self.name!r} does not fit the backbone:", faults)

    def parameters(self, sites: Sequence[Site]) -> dict[str, tuple[str, ...]]:
        """Parameter name → labels of its choices: the backbone's arguments, then the sites in their order."""
        return {**self.variants.parameters, **self.site_parameters(sites)}

    def site_parameters(self, sites: Sequence[Site]) -> dict[str, tuple[str, ...]]:
        """The parameters of the sites, without those of the backbone. Fixed and single-choice groups have none."""
        return {name: labels for name, labels in self._groups(sites, ()).items() if len(labels) > 1}

    def suggest(
        self, trial: SuggestsCategorical, sites: Sequence[Site], backbone: BackboneSpec | str = "own:module"
    ) -> Architecture:
        """Suggest one choice per parameter with `trial`, such as an `optuna.Trial`.

        `backbone` is stored in the architecture. It may be omitted in an objective that has the network, unless the
        space varies the backbone's arguments, which are then in the architecture's `backbone`.
        """
        chosen = {
            name: trial.suggest_categorical(name, list(labels))
            for name, labels in self.parameters(sites).items()
        }
        return self.architecture(chosen, sites, backbone)

    def architecture(
        self,
        parameters: Mapping[str, str],
        sites: Sequence[Site],
        backbone: BackboneSpec | str = "own:module",
    ) -> Architecture:
        """The architecture of `parameters` (name → label); groups that are not named get their first choice.

        Arguments of the backbone that are not named keep the value of `backbone`.
        """
        members: dict[str, list[str]] = {}
        groups = self._groups(sites, members)
        offered = {**self.variants.parameters, **groups}
        unknown = sorted(set(parameters) - set(offered))
        if unknown:
            raise unknown_name(f"parameter of search space {self.name!r}", unknown[0], offered)
        for name, label in parameters.items():
            if label not in offered[name]:
                raise ConfigError(f"parameter {name!r} is one of {', '.join(offered[name])}, not {label!r}")
        choices: dict[str, Choice] = {}
        for name, labels in groups.items():
            choice = Choice.parse(parameters.get(name, labels[0]))
            choices.update(dict.fromkeys(members[name], choice))
        spec = BackboneSpec(backbone) if isinstance(backbone, str) else backbone
        return Architecture(with_arguments(spec, parameters), choices)

    def admitted(self, site: Site) -> tuple[Choice, ...]:
        """The choices of the space that `site` admits."""
        return tuple(choice for choice in self._wanted(site) if site.refusal(choice) is None)

    def _fixed(self, site: Site) -> Choice | None:
        return next((rule.fixed for rule in reversed(self.rules) if rule.fixed and rule.matches(site)), None)

    def _wanted(self, site: Site) -> tuple[Choice, ...]:
        for rule in reversed(self.rules):
            if rule.matches(site):
                if rule.fixed is not None:
                    return (rule.fixed,)
                if rule.choices:
                    return rule.choices
        return self.choices

    def _groups(
        self, sites: Sequence[Site], members: dict[str, list[str]] | tuple[()]
    ) -> dict[str, tuple[str, ...]]:
        """Group name → labels that every member admits; fills `members` with the sites' names."""
        groups: dict[str, tuple[str, ...]] = {}
        for site in sites:
            fixed = self._fixed(site)
            name = site.name if fixed is not None else self._group(site)
            labels = tuple(choice.label for choice in self.admitted(site))
            if name in groups:
                labels = tuple(label for label in groups[name] if label in labels)
            groups[name] = labels or (ORIGINAL.label,)
            if isinstance(members, dict):
                members.setdefault(name, []).append(site.name)
        return groups

    def _group(self, site: Site) -> str:
        return {
            "site": site.name,
            "block": f"block:{site.block or 'stem'}",
            "stage": f"stage:{site.stage}",
            "model": "model",
        }[self.granularity]


def list_spaces() -> dict[str, Path]:
    """Name → file of the shipped search spaces."""
    return {path.stem: path for path in sorted(_folder().glob("*.yaml"))}


def load_space(name: str | Path) -> SearchSpace:
    """The search space `name`: one of `list_spaces()`, or the path of a YAML file.

    Raises UnknownNameError for an unknown name, and ConfigError with all faults for an invalid file.
    """
    path = Path(name)
    shipped = list_spaces()
    if str(name) in shipped:
        path = shipped[str(name)]
    elif path.is_dir():
        raise ConfigError(
            f"search space {path} is a folder; give a YAML file, or one of {', '.join(shipped)}"
        )
    elif path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise unknown_name("search space", str(name), shipped, "or give the path of a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"search space {path}: cannot be read ({error})") from error
    try:
        data = read_yaml(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"search space {path}: {yaml_fault(error)}") from error
    return _Reader(path.stem).space(data)


def _folder() -> Path:
    inside = Path(__file__).parent / "search_spaces"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "search_spaces"


class _Reader:
    """Converts parsed YAML to a `SearchSpace` and collects all faults."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: list[str] = []

    def space(self, data: Any) -> SearchSpace:
        if not isinstance(data, dict):
            raise ConfigError(
                f"search space {self.name!r} is a mapping with `choices`, not {type(data).__name__}"
            )
        self._keys(data, "", ("description", "granularity", "backbone", "choices", "rules", "inadmissible"))
        space = SearchSpace(
            name=self.name,
            description=" ".join(str(data.get("description", "")).split()),
            granularity=self._one_of(data.get("granularity", "site"), "granularity", GRANULARITIES),
            choices=self._choices(data.get("choices"), "choices"),
            rules=self._rules(data.get("rules", [])),
            inadmissible=self._one_of(data.get("inadmissible", "refuse"), "inadmissible", ("refuse", "skip")),
            variants=self._variants(data.get("backbone", {})),
        )
        if self.faults:
            raise ConfigError(f"search space {self.name!r} has faults:", self.faults)
        return space

    def _variants(self, data: Any) -> Variants:
        arguments: dict[str, tuple[Any, ...]] = {}
        if not isinstance(data, dict):
            self.faults.append(f"backbone: a mapping of the constructor's arguments to values, not {data!r}")
            return Variants()
        for name, values in data.items():
            items = values if isinstance(values, list) else [values]
            texts = [scalar_text(item) for item in items if isinstance(item, str | int | float | bool)]
            if not isinstance(name, str) or not items or len(texts) != len(items):
                self.faults.append(
                    f"backbone.{name}: a number, text or truth value, or a list of them, not {values!r}"
                )
            elif hint := next((number_hint(item) for item in items if number_hint(item)), ""):
                self.faults.append(f"backbone.{name}: {values!r}{hint}")
            elif len(set(texts)) < len(texts):
                self.faults.append(f"backbone.{name}: a value is there twice")
            else:
                arguments[name] = tuple(items)
        return Variants(arguments)

    def _rules(self, data: Any) -> tuple[Rule, ...]:
        if not isinstance(data, list):
            self.faults.append(f"rules: a list of rules, not {data!r}")
            return ()
        return tuple(self._rule(entry, f"rules[{number}]") for number, entry in enumerate(data, start=1))

    def _rule(self, data: Any, place: str) -> Rule:
        if not isinstance(data, dict):
            self.faults.append(f"{place}: a mapping with `sites` or `stages`, not {data!r}")
            return Rule()
        self._keys(data, place + ".", ("sites", "stages", "choices", "fixed", "exclude"))
        what = [key for key in ("choices", "fixed", "exclude") if key in data]
        if len(what) != 1:
            self.faults.append(
                f"{place}: give one of `choices`, `fixed` and `exclude: true`, not {what or 'none'}"
            )
        fixed = None
        if "fixed" in data:
            single = self._expand(data["fixed"], f"{place}.fixed")
            if len(single) > 1:
                self.faults.append(f"{place}.fixed: one choice, not {len(single)}")
            fixed = single[0] if single else None
        if "exclude" in data:
            if data["exclude"] is not True:
                self.faults.append(f"{place}.exclude: only `true` has a meaning, not {data['exclude']!r}")
            fixed = ORIGINAL
        return Rule(
            sites=self._listed(data.get("sites", []), f"{place}.sites", str),
            stages=self._listed(data.get("stages", []), f"{place}.stages", int),
            choices=self._choices(data["choices"], f"{place}.choices") if "choices" in data else (),
            fixed=fixed,
        )

    def _choices(self, data: Any, place: str) -> tuple[Choice, ...]:
        if not isinstance(data, list) or not data:
            self.faults.append(f"{place}: a list of at least one activation, not {data!r}")
            return ()
        found: dict[str, Choice] = {}
        for number, entry in enumerate(data, start=1):
            for choice in self._expand(entry, f"{place}[{number}]"):
                if choice.label in found:
                    self.faults.append(f"{place}[{number}]: {choice} is there twice")
                found[choice.label] = choice
        if len(found) > MOST_CHOICES:
            self.faults.append(f"{place}: {len(found)} choices; at most {MOST_CHOICES} a site")
        return tuple(found.values())

    def _expand(self, entry: Any, place: str) -> list[Choice]:
        """`name`, `name(option=value)` or `{name: {option: value or list of values}}` → complete choices."""
        if isinstance(entry, str):
            return self._completed(place, lambda: [Choice.parse(entry)])
        if not isinstance(entry, dict) or len(entry) != 1:
            self.faults.append(f"{place}: a name, or one `name: {{option: values}}`, not {entry!r}")
            return []
        ((name, options),) = entry.items()
        options = {} if options is None else options
        if not isinstance(options, dict):
            self.faults.append(f"{place}: the options of {name!r} are a mapping, not {options!r}")
            return []
        values = [value if isinstance(value, list) else [value] for value in options.values()]
        count = 1
        for value in values:
            count *= len(value)
        if count > MOST_CHOICES:
            self.faults.append(f"{place}: {count} combinations; at most {MOST_CHOICES} a site")
            return []
        # `compression: none` is a string in every version of YAML
        words = [["none" if item is None else item for item in value] for value in values]
        for key, value in zip(options, words, strict=True):
            self.faults += [
                f"{place}: {key}: {item!r}{hint}" for item in value if (hint := number_hint(item))
            ]
            if any(number_hint(item) for item in value):
                return []
        return self._completed(
            place,
            lambda: [
                Choice(name, **{str(key): item for key, item in zip(options, combination, strict=True)})
                for combination in itertools.product(*words)
            ],
        )

    def _completed(self, place: str, make: Any) -> list[Choice]:
        try:
            return [choice if choice == ORIGINAL else complete(choice) for choice in make()]
        except RebornError as error:
            self.faults.append(f"{place}: {error}")
            return []

    def _keys(self, data: Mapping[Any, Any], place: str, known: Iterable[str]) -> None:
        for key in data:
            if key not in known:
                self.faults.append(f"{place}{unknown_name('key', str(key), known)}")

    def _one_of(self, value: Any, place: str, known: tuple[str, ...]) -> str:
        if value not in known:
            self.faults.append(f"{place}: one of {', '.join(known)}, not {value!r}")
            return known[0]
        return str(value)

    def _listed(self, value: Any, place: str, kind: type) -> tuple[Any, ...]:
        items = value if isinstance(value, list) else [value]
        if not all(type(item) is kind for item in items):
            what = {str: "a site's name, such as layer1.0.act1 (`reborn-nas sites` lists them), or a pattern",
                    int: "a stage's number"}[kind]  # fmt: skip
            self.faults.append(f"{place}: {what}, or a list of them, not {value!r}")
            return ()
        return tuple(items)


def no_maps(sites: Sequence[Site]) -> str | None:
    """Why a network admits no reborn blocks: all its activations act on tokens, as in a transformer."""
    if not sites or any(site.layout not in ("nlc", "other") for site in sites):
        return None
    return f"no feature maps: all {len(sites)} activations act on tokens or vectors; choose a CNN"
