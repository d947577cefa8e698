"""From a configuration to a context: names resolved, data loaded, sites found, the search space checked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from reborn_nas.architecture import ORIGINAL, BackboneSpec
from reborn_nas.backbone import build, discover, resolve
from reborn_nas.backbone import notes as spec_notes
from reborn_nas.errors import ConfigError, StudyError, TrainingError
from reborn_nas.files import sha256_of
from reborn_nas.metric.classification import imbalance, undefined
from reborn_nas.models.weights import classifiers_of, load_weights
from reborn_nas.space import Rule, load_space
from reborn_nas.study.config.config import StudyConfig, split_contrast
from reborn_nas.study.plan.contrast import make_contrast
from reborn_nas.study.setup.children import call_in_child
from reborn_nas.study.setup.images import load_images
from reborn_nas.study.setup.own import make_own, own_spec
from reborn_nas.training import check_recipe, get_recipe, resolve_precision
from reborn_nas.training.device.selection import survey

if TYPE_CHECKING:
    from reborn_nas.backbone import Site
    from reborn_nas.data import ImageSet
    from reborn_nas.space import SearchSpace
    from reborn_nas.study.config.config import StudyConfig
    from reborn_nas.training import Recipe
    from reborn_nas.training.device.selection import Survey


from reborn_nas.study.setup.context import StudyContext

__all__ = [
    "MOST_VARIANTS",
    "images_of",
    "make_context",
    "parent_arguments",
    "settle_numerics",
    "trace_variants",
]

MOST_VARIANTS = 64
"""Backbones that a space may make of one; each is traced before the first training."""


def make_context(
    config: StudyConfig,
    device: str | None = None,
    *,
    proofs: Mapping[str, Any] | None = None,
    decode: bool = True,
) -> StudyContext:
    """Resolve names, load data, find sites, check the space. Nothing is trained.

    Args:
        device: where this process trains; chosen where None.
        proofs: `StudyContext.proofs` of another process of the study, which need not be made again.
        decode: read all pixels of a folder of images; without it, for a plan, headers and a sample.

    Raises:
        RebornError: whatever does not fit together, before any training.
    """
    space = load_space(config.space)
    if config.train is not None:
        return _own_context(config, space, device, proofs)
    recipe = get_recipe(config.recipe, dataset=config.dataset, **config.recipe_overrides)
    found = _survey(config, device, recipe.precision)
    images = images_of(config, decode=decode)
    _check_batch(config, images)
    _check_metric(config, images)
    spec = resolve(
        config.backbone,
        input_size=images.input_size,
        num_classes=len(images.classes),
        stem=config.stem,
        arguments=parent_arguments(config, space) or None,
        pretrained=config.pretrained,
    )
    template = build(spec, device="meta")
    # settled once, by the parent: no training of a study may differ from another in its arithmetic
    precision = found.precision or resolve_precision(recipe.precision, found.device, template)
    recipe = replace(recipe, precision=precision)
    discovery = discover(template, spec.input_size, proofs=proofs)
    said = [*([found.note] if found.note else []), *spec_notes(spec), *images.notes]
    advice = imbalance(config.judged_by, images.classes, images.counts(images.pool))
    said += [advice] if advice else []
    said += starting_notes(config, spec, recipe)
    said += config.recipe_notes
    check_recipe(recipe, images, template)
    context = _context(config, spec, space, discovery, found, template, said, proofs)
    return replace(context, images=images, recipe=recipe)


def images_of(config: StudyConfig, *, decode: bool = True) -> ImageSet:
    """The data set of the built-in training."""
    return load_images(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        stored_size=config.stored_size,
        seed=config.seed,
        fraction=config.fraction,
        skip_broken=config.skip_broken,
        resize=config.resize,
        rgb=config.rgb,
        stream=config.stream,
        cache_dir=config.cache_dir,
        decode=decode,
    )


def _own_context(
    config: StudyConfig, space: SearchSpace, device: str | None, proofs: Mapping[str, Any] | None
) -> StudyContext:
    """The same for a training of the user's own, which brings its data and takes any inputs."""
    own = make_own(config)
    if space.variants and own.example is not None:
        raise ConfigError(
            f"space: {space.name} varies the network's arguments, which a training of your own does not take beside "
            "example_inputs; take a space that varies sites alone"
        )
    found = _survey(config, device, "fp32")
    spec = own_spec(config, own, parent_arguments(config, space))
    template = build(spec, device="meta")
    if own.example is None:
        discovery = discover(template, spec.input_size, proofs=proofs)
    else:
        discovery = discover(template, example_inputs=own.example, proofs=proofs)
    said = [found.note] if found.note else []
    if own.evaluate is None:
        said.append(
            "train returns the value itself, so nothing shows that the test part is read once, and a training judged "
            "by it has no validation value that could rank its weights; name a second function with evaluate"
        )
    said += starting_notes(config, spec, None)
    return replace(_context(config, spec, space, discovery, found, template, said, proofs), own=own)


def _context(
    config: StudyConfig,
    spec: BackboneSpec,
    space: SearchSpace,
    discovery: Any,
    found: Survey,
    template: Any,
    said: list[str],
    proofs: Mapping[str, Any] | None,
) -> StudyContext:
    """What does not depend on what trains: the sites that take part, the space, the question."""
    sites = discovery.sites
    space = _only(space, config.sites, sites)
    space.check(sites)
    variants = trace_variants(space, spec, sites, proofs)
    contrast = make_contrast(*split_contrast(config.contrast), space, sites, spec)
    if contrast.left_out:
        first = next(iter(contrast.left_out.items()))
        said.append(
            f"{len(contrast.left_out)} of {len(contrast.left_out) + len(contrast.factors)} sites are not part of the "
            f"screen, such as {first[0]}: {first[1]}"
        )
    return StudyContext(
        config,
        spec,
        tuple(sites),
        space,
        space.parameters(sites),
        contrast,
        cast("ImageSet", _Absent("images")),
        cast("Recipe", _Absent("recipe")),
        found.device,
        tuple(said),
        template,
        discovery,
        variants,
        found.text,
        weights=_digest(config.checkpoint),
    )


class _Absent:
    """Stands for what a training of the user's own has not; whatever asks for it by mistake is told so."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise StudyError(f"a training of one's own has no {self._what} of the built-in kind ({name})")


def _only(space: SearchSpace, patterns: Sequence[str], sites: Sequence[Site]) -> SearchSpace:
    """`space` in which the sites that match none of `patterns` stay as they are. Raises ConfigError."""
    if not patterns:
        return space
    faults = [
        f"sites: {pattern} matches none of the {len(sites)} sites; `reborn-nas sites` lists them"
        for pattern in patterns
        if not any(Rule(sites=(pattern,)).matches(site) for site in sites)
    ]
    if faults:
        raise ConfigError("the study's configuration has faults:", faults)
    others = tuple(site.name for site in sites if not Rule(sites=tuple(patterns)).matches(site))
    return replace(space, rules=(*space.rules, Rule(sites=others, fixed=ORIGINAL))) if others else space


def _survey(config: StudyConfig, device: str | None, precision: str) -> Survey:
    """The device of the trainings. Where workers will train, none of it is held here: a child looks at the GPU.

    A supervisor with a context of its own takes memory, and on a card in exclusive mode its workers' place.
    """
    if device is not None:
        return survey(device, precision)
    name = config.devices[0] if config.devices else config.device
    cards = 0 if name == "cpu" else torch.cuda.device_count()  # asks the driver's library, without a context
    supervised = config.processes > 1 or (config.workers == "auto" and cards > 1)
    return call_in_child(survey, name, precision) if cards and supervised else survey(name, precision)


def _check_batch(config: StudyConfig, images: ImageSet) -> None:
    """Refuse a batch that was asked for and is larger than the set; a recipe's own is made smaller instead."""
    size = len(images.pool) - images.validation_size
    if config.batch_size is not None and config.batch_size > size:
        raise ConfigError(
            f"batch_size: {config.batch_size} images a step, but {images.name!r} has {size} training images; "
            f"take at most {size}"
        )


def _check_metric(config: StudyConfig, images: ImageSet) -> None:
    """Refuse a metric that means nothing on a part of the data."""
    parts = {"training": images.pool, "reserved": images.reserve, "test": images.test}
    for part, indices in parts.items():
        if reason := undefined(config.judged_by.name, images.counts(indices), part):
            raise ConfigError(f"{reason} (data set {images.name!r})")


def settle_numerics(*, deterministic: bool) -> None:
    """Make this process take only kernels that give the same numbers each time, where it is asked to.

    An operation that has no such kernel warns and goes on: the paper's transposed convolution has one.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def starting_notes(config: StudyConfig, spec: BackboneSpec, recipe: Recipe | None) -> list[str]:
    """What a study says whose trainings start from weights. Raises ConfigError where they do not fit, or are undone."""
    if not config.from_weights:
        fine = recipe is not None and recipe.name == "finetune"
        note = "recipe finetune is for trainings that start from weights (--pretrained, --checkpoint); these do not"
        return [note] if fine else []
    what = "checkpoint" if config.checkpoint is not None else "pretrained"
    if recipe is not None and recipe.init != "default":
        raise ConfigError(
            f"{what}: recipe {recipe.name!r} draws all weights anew (init: {recipe.init}), so that nothing "
            "would be left of those it should start from; take another recipe"
        )
    if config.checkpoint is None:
        return ["every training starts from the library's published weights" + _PRESERVED]
    return [
        f"every training starts from the weights in {config.checkpoint}{_PRESERVED}",
        *_try_weights(config, spec),
    ]


_PRESERVED = (
    ", with the parent's function where the choices can have it: what is found holds for fine-tuning from these "
    "weights"
)


def _digest(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return ""
    return sha256_of(checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint)


def _try_weights(config: StudyConfig, spec: BackboneSpec) -> list[str]:
    assert config.checkpoint is not None
    with torch.random.fork_rng(devices=[]):
        model = build(spec, device="cpu")
    try:
        return load_weights(model, config.checkpoint, classifiers_of(model, spec))
    except TrainingError as error:
        raise ConfigError(f"checkpoint: {error}") from error


def parent_arguments(config: StudyConfig, space: SearchSpace) -> dict[str, Any]:
    """The arguments of the parent: as given, else as the space has them first, else as nobody chose them."""
    if not space.variants:
        return dict(config.backbone_arguments)
    if config.init == "parent" or config.from_weights:
        what = "pretrained" if config.pretrained else "checkpoint" if config.checkpoint else "init: parent"
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
