"""The backbones of a study whose space varies the constructor's arguments: the parent's, and those of all others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reborn_nas.architecture import BackboneSpec
from reborn_nas.errors import ConfigError

if TYPE_CHECKING:
    from reborn_nas.backbone import Site
    from reborn_nas.space import SearchSpace
    from reborn_nas.study.config.config import StudyConfig

__all__ = ["MOST_VARIANTS", "parent_arguments", "trace_variants"]

MOST_VARIANTS = 64
"""Backbones that a space may make of one; each is traced before the first training."""


def parent_arguments(config: StudyConfig, space: SearchSpace) -> dict[str, Any]:
    """The arguments of the parent: as given, else as the space has them first, else as nobody chose them."""
    if not space.variants:
        return dict(config.backbone_arguments)
    if config.init == "parent" or config.pretrained:
        what = "pretrained" if config.pretrained else "init: parent"
        raise ConfigError(
            f"{what}: search space {space.name!r} varies {', '.join(space.variants.arguments)} of the backbone, and "
            "one parent's weights do not fit them all; start from scratch, or take a space that varies sites alone"
        )
    given = dict(config.backbone_arguments)
    if "backbone_arguments" not in config.given:
        given = {name: value for name, value in given.items() if name not in space.variants.arguments}
    return space.variants.settle(given)


def trace_variants(
    space: SearchSpace,
    parent: BackboneSpec,
    sites: Sequence[Site],
    proofs: Mapping[str, Any] | None = None,
) -> dict[BackboneSpec, tuple[Any, Any]]:
    """Each other backbone of the space → its template and discovery. They have the parent's sites and choices."""
    from reborn_nas.backbone import build, discover

    if not space.variants:
        return {}
    count = math.prod(len(values) for values in space.variants.arguments.values())
    if count > MOST_VARIANTS:
        raise ConfigError(
            f"search space {space.name!r} makes {count} backbones of one; at most {MOST_VARIANTS} combinations"
        )
    found = {}
    names = [site.name for site in sites]
    for spec in space.variants.specs(parent):
        if spec == parent:
            continue
        template = build(spec, device="meta")
        discovery = discover(template, spec.input_size, proofs=proofs)
        same = [site.name for site in discovery.sites] == names
        if not same or space.site_parameters(discovery.sites) != space.site_parameters(sites):
            words = ", ".join(f"{name}={spec.arguments[name]}" for name in space.variants.arguments)
            raise ConfigError(
                f"search space {space.name!r}: with {words} the backbone {spec.name!r} has other sites, or sites with "
                "other choices, than its parent; only arguments that leave the sites alone can be searched"
            )
        found[spec] = (template, discovery)
    return found
