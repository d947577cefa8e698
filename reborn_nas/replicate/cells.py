"""From a published table to trainings: the selected cells, their studies, and the cost of each network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.backbone import Site, build, discover, resolve
from reborn_nas.backbone.cost import predict
from reborn_nas.data import ImageSet, draw_stratified
from reborn_nas.data.images import channel_statistics
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.replicate.published import Replication, Row
from reborn_nas.seeds import derive_seed
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.plan.designs import Run
from reborn_nas.training import get_recipe

__all__ = [
    "Cell",
    "Count",
    "FORMS",
    "Group",
    "Settings",
    "architecture_of",
    "count_rows",
    "groups_of",
    "runs_of",
    "select",
    "thinned",
]

LEAST_TEST = 2000
"""Least test images of a scaled replication, if there are as many; fewer would give too little power."""


@dataclass(frozen=True)
class Settings:
    """Settings of a replication.

    Args:
        seeds: number of trainings of each cell.
        scale: factor on epochs and images, in (0, 1]; at least `LEAST_TEST` test images are kept.
        data_dir: folder of data sets.
        out: folder of the studies and tables.
        device: as in `StudyConfig`.
        threads: CPU threads; None leaves torch's default.
        recipe: recipe in place of the replication's.
        training: recipe settings in place of the replication's.
        timeout: stop after so many seconds.
        replaced: data set → replacement, such as `folder:PATH`, which results name.
    """

    seeds: int = 5
    scale: float = 1.0
    data_dir: Path | None = None
    out: Path = Path("runs/replicate")
    device: str = "auto"
    threads: int | None = None
    recipe: str | None = None
    training: Mapping[str, Any] | None = None
    timeout: float | None = None
    replaced: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = []
        if type(self.seeds) is not int or not 1 <= self.seeds <= 1000:
            faults.append(f"--seeds: a whole number from 1 to 1000, not {self.seeds!r}")
        if not 0 < self.scale <= 1:
            faults.append(f"--scale: a factor in (0, 1], not {self.scale!r}")
        if faults:
            raise ConfigError("the replication's settings have faults:", faults)


@dataclass(frozen=True)
class Cell:
    """A number of a table: network, data set and row, and the published value (%)."""

    network: str
    dataset: str
    row: str
    published: float | None


@dataclass(frozen=True)
class Group:
    """Cells that share network, width and data set, and thus a study.

    Args:
        network, dataset, width: those of the cells.
        rows: their rows, in the table's order.
        config: configuration of the study.
    """

    network: str
    dataset: str
    width: float
    rows: tuple[str, ...]
    config: StudyConfig


def select(study: Replication, only: str | None = None) -> tuple[Cell, ...]:
    """The table's cells in its order, or those selected by the comma-separated words of `only`.

    Words are networks, data sets and rows; a cell must match one word of each kind that occurs.

    Raises:
        ConfigError: words that match nothing in this table, all of which are listed.
    """
    words = [] if only is None else [word.strip() for word in only.split(",") if word.strip()]
    known = {"network": list(study.networks), "data set": list(study.datasets), "row": list(study.rows)}
    everything = [name for names in known.values() for name in names]
    faults = [str(unknown_name("word", word, everything)) for word in words if word not in everything]
    if only is not None and not words:
        faults.append("names nothing")
    if faults:
        raise ConfigError(f"--only {only!r} matches nothing in {study.name}:", faults)
    wanted = {kind: [word for word in words if word in names] or names for kind, names in known.items()}
    return tuple(
        Cell(network, dataset, row, study.published(network, row, dataset))
        for network in study.networks
        if network in wanted["network"]
        for dataset in study.datasets
        if dataset in wanted["data set"]
        for row in study.rows
        if row in wanted["row"]
    )


def groups_of(study: Replication, cells: Sequence[Cell], settings: Settings) -> tuple[Group, ...]:
    """The studies that train `cells`. Equal cells of several tables share a study."""
    found: dict[tuple[str, str, float], list[str]] = {}
    for cell in cells:
        found.setdefault((cell.network, cell.dataset, study.rows[cell.row].width), []).append(cell.row)
    return tuple(
        Group(
            network, dataset, width, tuple(rows), _config(study, network, dataset, width, len(rows), settings)
        )
        for (network, dataset, width), rows in found.items()
    )


def _config(
    study: Replication, network: str, dataset: str, width: float, rows: int, settings: Settings
) -> StudyConfig:
    source = study.networks[network]
    name = settings.recipe or study.recipe
    own = study.training if settings.recipe in (None, study.recipe) else {}
    changes = {**own, **(settings.training or {})}
    recipe = get_recipe(name, dataset=dataset, **changes)
    changes["epochs"] = max(1, round(recipe.epochs * settings.scale))
    arguments = {**source.arguments, **({} if width == 1 else {"width": width})}
    read = settings.replaced.get(dataset, dataset)
    words = [network, *(part.rsplit("/", 1)[-1] for part in read.split(":", 1)), name]
    words += [f"width{width:g}"] * (width != 1) + [f"scale{settings.scale:g}"] * (settings.scale != 1)
    words += [f"{key}{value}" for key, value in sorted((settings.training or {}).items())]
    words += [f"{key}{value}" for key, value in sorted(own.items())]
    slug = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in "-".join(words))
    return StudyConfig(
        name=slug[:100],
        run=settings.out / slug,
        backbone=source.backbone,
        backbone_arguments=arguments,
        stem=source.stem,
        dataset=read,
        data_dir=settings.data_dir,
        space="two_level",
        recipe=name,
        trials=rows * settings.seeds,
        device=settings.device,
        threads=settings.threads,
        **changes,
    )


def architecture_of(row: Row, sites: Sequence[Site], spec: BackboneSpec) -> Architecture:
    """The network of `row`: at each site the first of its activations that the site admits."""
    chosen: dict[str, Choice] = {}
    for site in sites:
        outside = row.where == "maps" and site.layout in ("nc", "nlc")
        if outside or any(fnmatchcase(site.name, pattern) for pattern in row.skip):
            continue
        fitting = next((choice for choice in row.choices if site.admits(choice)), None)
        if fitting is not None and (fitting.items or fitting.name != site.activation):
            chosen[site.name] = fitting
    return Architecture(spec, chosen)


def runs_of(
    architectures: Mapping[str, Architecture], seeds: int, *, keep: Mapping[str, str] | None = None
) -> tuple[Run, ...]:
    """The trainings of a group, seed by seed. A run's key names its network, not its row, so that equal rows share it.

    Args:
        architectures: row → network.
        keep: row → arm, for rows whose trained weights are kept.
    """
    kept = keep or {}
    runs = []
    for index in range(seeds):
        for row, architecture in architectures.items():
            phase = "candidate" if row in kept else "baseline"
            runs.append(
                Run(
                    key=f"{phase}/{architecture.digest}/{index}",
                    phase=phase,
                    arm=kept.get(row, row),
                    seed=derive_seed(0, "replicate", index),
                    part="test",
                    architecture=architecture.to_dict(),
                )
            )
    return tuple({run.key: run for run in runs}.values())


def thinned(images: ImageSet, *, scale: float, validation: float, seed: int = 0) -> ImageSet:
    """The data set as used in the paper: all training images are trained on, except for a few for monitoring.

    Args:
        scale: share of the training and of the test images, stratified; at least `LEAST_TEST` test images.
        validation: share of the training images that are held out.
    """
    pool, test = torch.cat([images.pool, images.reserve]).sort().values, images.test
    if scale < 1:
        size = max(2 * images.num_classes, round(len(pool) * scale))
        pool = draw_stratified(images.labels, pool, size, seed=derive_seed(seed, "scale"))
        size = min(len(test), max(LEAST_TEST, round(len(test) * scale)))
        test = draw_stratified(images.labels, test, size, seed=derive_seed(seed, "scale", "test"))
    mean, std = channel_statistics(images.images, pool)
    held = max(images.num_classes, round(len(pool) * validation))
    mark = f"{images.fingerprint}|{scale!r}|{validation!r}|{seed}"
    return replace(
        images,
        pool=pool,
        reserve=pool[:0],
        test=test,
        validation=None,
        validation_size=min(held, len(pool) - images.num_classes),
        mean=mean,
        std=std,
        fingerprint=hashlib.sha256(mark.encode()).hexdigest(),
    )


def without(cells: Sequence[Cell], datasets: Iterable[str]) -> tuple[Cell, ...]:
    """The cells that are not on these data sets."""
    absent = set(datasets)
    return tuple(cell for cell in cells if cell.dataset not in absent)


FORMS: Mapping[str, tuple[tuple[int, int, int], int]] = {
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "svhn": ((3, 32, 32), 10),
    "mnist": ((1, 28, 28), 10),
    "kmnist": ((1, 28, 28), 10),
    "fashion_mnist": ((1, 28, 28), 10),
    "digits": ((1, 8, 8), 10),
}
"""Data set → size (C, H, W) and classes."""


@dataclass(frozen=True)
class Count:
    """One row's network: trainable parameters, and MACs of one image's forward pass."""

    network: str
    row: str
    input_size: tuple[int, int, int]
    classes: int
    params: int
    macs: int


def count_rows(study: Replication) -> list[Count]:
    """Count each network and row, in each form needed by the replication's data sets of known size."""
    forms = list(dict.fromkeys(FORMS[name] for name in study.datasets if name in FORMS))
    found = []
    for key, network in study.networks.items():
        for size, classes in forms:
            built = {}
            for name, row in study.rows.items():
                if row.width not in built:
                    width = {} if row.width == 1 else {"width": row.width}
                    spec = resolve(
                        network.backbone, input_size=size, num_classes=classes, stem=network.stem,
                        arguments={**network.arguments, **width},
                    )  # fmt: skip
                    template = build(spec, device="meta")
                    built[row.width] = (spec, template, discover(template, spec.input_size))
                spec, template, discovery = built[row.width]
                cost = predict(template, architecture_of(row, discovery.sites, spec), discovery=discovery)
                found.append(Count(key, name, size, classes, cost.params, cost.macs))
    return found
