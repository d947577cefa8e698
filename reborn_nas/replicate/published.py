"""The published results of a paper as a file: networks, data sets, rows, numbers, and statements about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from reborn_nas.activations import complete
from reborn_nas.architecture import BackboneSpec, Choice
from reborn_nas.backbone import resolve
from reborn_nas.data import dataset_names
from reborn_nas.documents import read_yaml, text_numbers, yaml_fault
from reborn_nas.errors import ConfigError, RebornError, unknown_name
from reborn_nas.study.config.config import RECIPE_FIELDS
from reborn_nas.study.config.loading import shipped_files
from reborn_nas.training import get_recipe, recipe_names

__all__ = ["Claim", "Network", "Pictured", "Replication", "Row", "load_replication", "shipped_replications"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Part):
    """One network of a table.

    Args:
        backbone: `convnet8`, `timm:…`, `torchvision:…`, `path/to/file.py:factory` or `package.module:factory`.
        arguments: arguments of its constructor.
        stem: "original", or "small" to replace an ImageNet stem.
    """

    backbone: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    stem: Literal["original", "small"] = "original"


class Row(_Part):
    """One row of a table: the activations of the network's sites.

    Args:
        title: as printed.
        activation: a label, or several, of which each site takes the first that it admits, or keeps its original
            activation.
        where: "all" sites, or "maps": not those after fully connected layers.
        skip: shell patterns of sites that keep their original activation.
        width: factor on the convolutions' channels, passed to the network as the argument `width`.
    """

    title: str
    activation: tuple[str, ...]
    where: Literal["all", "maps"] = "all"
    skip: tuple[str, ...] = ()
    width: Annotated[float, Field(gt=0, le=16)] = 1.0

    @field_validator("activation", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The activations as complete choices."""
        return tuple(complete(label) for label in self.activation)


class Claim(_Part):
    """A comparison of each of `rows` with each of `against`.

    Args:
        says: claim of the paper's text: "above", "same" (within `margin`), or none.
        quote: the paper's words.
        margin: percentage points within which two accuracies are "the same".
    """

    rows: tuple[str, ...]
    against: tuple[str, ...]
    says: Literal["above", "same"] | None = None
    quote: str = ""
    margin: Annotated[float, Field(gt=0, le=100)] = 0.5

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(row, reference), in order."""
        return tuple((row, other) for row in self.rows for other in self.against if row != other)


class Pictured(_Part):
    """Feature maps of two rows' trained networks, side by side.

    Args:
        before, after: rows; `before` keeps the network's original activations.
        site: site to draw.
        images, channels: numbers of images, and of channels per image.
    """

    before: str
    after: str
    site: str
    images: Annotated[int, Field(ge=1, le=32)] = 4
    channels: Annotated[int, Field(ge=1, le=64)] = 4


class Replication(_Part):
    """A table or figure of a paper, to be measured again.

    Args:
        name: name of the file.
        recipe: recipe of all trainings; `training` overrides its settings.
        validation: share of the training images held out for monitoring; the paper held out none.
        networks, datasets, rows: in the order of printing.
        comparisons: comparisons to make.
        expected: network → row → published test accuracy in % for each data set, null if there is none.
        figure: feature maps to draw.
    """

    name: str
    kind: Literal["replication"]
    description: str
    recipe: str = "paper"
    training: dict[str, Any] = Field(default_factory=dict)
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    networks: Annotated[dict[str, Network], Field(min_length=1)]
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Annotated[dict[str, Row], Field(min_length=1)]
    comparisons: tuple[Claim, ...] = ()
    expected: dict[str, dict[str, tuple[Any, ...]]] = Field(default_factory=dict)
    figure: Pictured | None = None

    def published(self, network: str, row: str, dataset: str) -> float | None:
        """The published test accuracy in %."""
        numbers = self.expected.get(network, {}).get(row)
        return None if numbers is None else numbers[self.datasets.index(dataset)]


def load_replication(path: str | Path) -> Replication:
    """Load the replication in a YAML file, or the shipped one of that name. Raises ConfigError with all faults."""
    found = _find(path)
    try:
        data = read_yaml(found.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"study file {found} cannot be read: {yaml_fault(error)}") from error
    if not isinstance(data, Mapping) or data.get("kind") != "replication":
        raise ConfigError(
            f"study file {found} is not a replication: it lacks `kind: replication`; "
            f"shipped replications: {', '.join(shipped_replications())}; "
            "`reborn-nas search --config FILE` runs searches"
        )
    if faults := list(text_numbers(data)):
        raise ConfigError(f"study file {found} has faults:", faults)
    try:
        study = Replication(**{"name": found.stem, **{str(key): value for key, value in data.items()}})
    except ValidationError as error:
        raise ConfigError(f"study file {found} has faults:", list(_form_faults(error))) from None
    faults = list(_faults(study))
    if faults:
        raise ConfigError(f"study file {found} has faults:", faults)
    return study


def shipped_replications() -> dict[str, Path]:
    """Name → file of the paper's tables and figures."""
    return shipped_files(replications=True)


def _find(path: str | Path) -> Path:
    shipped = shipped_replications()
    if str(path) in shipped:
        return shipped[str(path)]
    found = Path(path)
    if found.is_file():
        return found
    if found.is_dir():
        raise ConfigError(f"study file {found} is a folder; give a YAML file, or one of {', '.join(shipped)}")
    if found.suffix in (".yaml", ".yml"):
        raise ConfigError(f"study file {found} does not exist; shipped replications: {', '.join(shipped)}")
    raise unknown_name("replication", str(path), shipped, "or give the path of a YAML file")


def _form_faults(error: ValidationError) -> Iterable[str]:
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield f"{place}: is not known here"
        elif item["type"] == "missing":
            yield f"{place}: is missing"
        else:
            text = item["msg"].removeprefix("Value error, ")
            yield f"{place}: {text[0].lower()}{text[1:]}, got {item.get('input')!r:.200}"


def _faults(study: Replication) -> Iterable[str]:
    """Faults in the relations between fields."""
    for key, network in study.networks.items():
        spec = BackboneSpec(network.backbone, arguments=network.arguments)
        yield from _fault_of(
            f"networks.{key}",
            lambda spec=spec: resolve(spec, input_size=(3, 32, 32), num_classes=10, stem="original"),
        )
    for name in study.datasets:
        if not name.startswith("folder:") and name not in dataset_names():
            yield f"datasets: {unknown_name('data set', name, dataset_names(), 'or folder:PATH')}"
    if len(set(study.datasets)) < len(study.datasets):
        yield "datasets: one is listed twice"
    for key, row in study.rows.items():
        if not row.activation:
            yield f"rows.{key}.activation: names none"
        for label in row.activation:
            yield from _fault_of(f"rows.{key}.activation", lambda label=label: complete(label))
    if study.recipe not in recipe_names():
        yield f"recipe: {unknown_name('recipe', study.recipe, recipe_names())}"
    else:
        unknown = sorted(set(study.training) - set(RECIPE_FIELDS))
        for name in unknown:
            yield f"training.{name}: {unknown_name('setting', name, RECIPE_FIELDS)}"
        if not unknown:
            yield from _fault_of("training", lambda: get_recipe(study.recipe, **study.training))
    yield from _number_faults(study)
    yield from _reference_faults(study)


def _number_faults(study: Replication) -> Iterable[str]:
    for network, rows in study.expected.items():
        if network not in study.networks:
            yield f"expected.{network}: {unknown_name('network', network, study.networks)}"
        for row, numbers in rows.items():
            place = f"expected.{network}.{row}"
            if row not in study.rows:
                yield f"{place}: {unknown_name('row', row, study.rows)}"
            if len(numbers) != len(study.datasets):
                yield f"{place}: {len(numbers)} numbers for {len(study.datasets)} data sets"
            for number, name in zip(numbers, study.datasets, strict=False):
                if number is not None and not _is_percentage(number):
                    yield f"{place}: {name}: an accuracy is a number in [0, 100] or null, not {number!r}"


def _reference_faults(study: Replication) -> Iterable[str]:
    for index, claim in enumerate(study.comparisons):
        for row in (*claim.rows, *claim.against):
            if row not in study.rows:
                yield f"comparisons.{index}: {unknown_name('row', row, study.rows)}"
        if not claim.pairs:
            yield f"comparisons.{index}: compares nothing"
    if study.figure is not None:
        for row in (study.figure.before, study.figure.after):
            if row not in study.rows:
                yield f"figure: {unknown_name('row', row, study.rows)}"


def _is_percentage(number: Any) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return math.isfinite(number) and 0 <= number <= 100


def _fault_of(place: str, work: Any) -> Iterable[str]:
    """The error of `work`, as a line with its place."""
    try:
        work()
    except RebornError as error:
        yield f"{place}: {' '.join(str(error).split())}"
