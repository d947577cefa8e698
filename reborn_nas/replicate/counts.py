"""Parameters and MACs of every network and row of a replication; needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reborn_nas.backbone import build, discover, resolve
from reborn_nas.backbone.cost import predict
from reborn_nas.replicate.cells import architecture_of
from reborn_nas.replicate.published import Replication

__all__ = ["FORMS", "Count", "count_rows"]

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
    """Of each network and row, in each form that the replication's data sets of known size ask for."""
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
