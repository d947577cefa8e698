"""Everything a training needs that is the same for all trainings of a study, made once in each process."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import optuna
import timm
import torch
import torchvision

from reborn_nas.activations import block_form
from reborn_nas.architecture import ORIGINAL, BackboneSpec, Choice
from reborn_nas.backbone import build, discover, proof_record, resolve
from reborn_nas.backbone import notes as spec_notes
from reborn_nas.data import load_dataset
from reborn_nas.errors import ConfigError, StudyError
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.space import load_space
from reborn_nas.study.config.config import StudyConfig, split_contrast
from reborn_nas.study.config.functions import is_here
from reborn_nas.study.config.settings import adopted_settings, settings_digest
from reborn_nas.study.plan.candidate import twin
from reborn_nas.study.plan.contrast import Contrast, make_contrast, members_of
from reborn_nas.study.plan.designs import check_labels
from reborn_nas.study.setup.children import call_in_child
from reborn_nas.training import get_recipe, resolve_precision, threads_each
from reborn_nas.training.device.selection import driver_version, has_tf32, survey

if TYPE_CHECKING:
    from reborn_nas.backbone import Site
    from reborn_nas.data import ImageSet
    from reborn_nas.space import SearchSpace
    from reborn_nas.study.config.config import StudyConfig
    from reborn_nas.study.setup.own import OwnTraining
    from reborn_nas.study.store.storage import RunStore
    from reborn_nas.training import Recipe
    from reborn_nas.training.device.selection import Survey

__all__ = [
    "MOST_VARIANTS",
    "Workbench",
    "environment",
    "make_workbench",
    "parent_arguments",
    "settle_numerics",
    "trace_variants",
]


@dataclass(frozen=True)
class Workbench:
    """What all trainings of a study share.

    Args:
        config: what was asked for.
        spec: the complete backbone spec.
        sites: its activation sites in execution order.
        space: the search space, checked against the sites.
        parameters: Optuna parameter → its labels in the exploration.
        contrast: the two-level question.
        images: the data set.
        recipe: the training recipe with the overrides.
        device: where this process trains.
        notes: what the user should be told.
        own: the user's own training; None where the built-in one trains on `images` by `recipe`.
        template, discovery: the backbone on the meta device and what was found in it, so that no training traces.
        variants: the backbones with other arguments that the space offers → their templates and discoveries.
    """

    config: StudyConfig
    spec: BackboneSpec
    sites: tuple[Site, ...]
    space: SearchSpace
    parameters: Mapping[str, tuple[str, ...]]
    contrast: Contrast
    images: ImageSet
    recipe: Recipe
    device: str
    notes: tuple[str, ...]
    template: Any = None
    discovery: Any = None
    variants: Mapping[BackboneSpec, tuple[Any, Any]] = field(default_factory=dict)
    device_text: str = ""
    own: OwnTraining | None = None

    @property
    def metric(self) -> Metric:
        """What trainings are judged by."""
        return ACCURACY if self.own is None else self.own.metric

    @property
    def epochs(self) -> int:
        """Epochs of a training; of the user's own what it is told as its budget."""
        return int(self.recipe.epochs if self.own is None else self.config.epochs or 1)

    @property
    def input_size(self) -> tuple[int, ...] | None:
        """Of one image; None where a network takes something else than one batch of them."""
        return tuple(self.images.input_size) if self.own is None else self.own.input_size or self._size()

    def _size(self) -> tuple[int, ...] | None:
        return self.spec.input_size if self.own is not None and self.own.example is None else None

    @property
    def data_row(self) -> dict[str, Any]:
        """What a plan keeps of the data."""
        if self.own is not None:
            return {"name": "", "classes": [], "mean": [], "std": []}
        images = self.images
        return {
            "name": images.name,
            "classes": list(images.classes),
            "mean": list(images.mean),
            "std": list(images.std),
        }

    @property
    def code(self) -> tuple[BackboneSpec, ...]:
        """What of the user's own code this study runs: its network's, and its training's."""
        config = self.config
        names = (config.train, config.evaluate, config.example_inputs)
        return (self.spec, *(BackboneSpec(name) for name in names if name is not None and not is_here(name)))

    @property
    def precision(self) -> str:
        """Of the built-in training; a latency is measured in it."""
        return self.recipe.precision if self.own is None else "fp32"

    @property
    def proofs(self) -> dict[str, Any]:
        """What shows that the backbone and its variants convert truly, for the study's other processes."""
        traced = [(self.template, self.discovery), *self.variants.values()]
        records = [proof_record(template, found) for template, found in traced if found is not None]
        return {key: value for record in records for key, value in record.items()}

    def traced(self, spec: BackboneSpec) -> tuple[Any, Any]:
        """Template and discovery of the backbone, or of one of its variants."""
        return (self.template, self.discovery) if spec == self.spec else self.variants[spec]

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that changes results; its digest tells one study from another."""
        config = self.config
        return {
            "backbone": {**self.spec.to_dict(), "pretrained": config.pretrained},
            **self._training(),
            "space": {
                "name": self.space.name,
                "parameters": {k: list(v) for k, v in self.parameters.items()},
            },
            "contrast": config.contrast,
            "sampler": config.sampler,
            "seed": config.seed,
            "device": self.device.split(":")[0],
            "threads": config.threads or _threads(config, self.device),
            "torch": ".".join(torch.__version__.split("+")[0].split(".")[:2]),
            **_versions(self.spec.library, self._words()),
            **({"search": config.search_settings} if config.search_settings else {}),
            **({"sites": list(config.sites)} if config.sites else {}),
            **({"deterministic": True} if config.deterministic else {}),
            **({"compile": True} if config.compile else {}),
            "form": block_form(self.device),
        }

    def _training(self) -> dict[str, Any]:
        """What trains, and on what."""
        if self.own is not None:
            return {"training": dict(self.own.settings), "metric": self.metric.text}
        return {
            "data": {
                "name": self.images.name,
                "fingerprint": self.images.fingerprint,
                "fraction": self.config.fraction,
                "image_size": self.config.image_size,
            },
            "recipe": self.recipe.to_dict(),
        }

    def _words(self) -> set[str]:
        """Names that a plug-in may stand behind."""
        labels = {label for row in self.space.site_parameters(self.sites).values() for label in row}
        choices = {Choice.parse(label).name for label in labels}
        return {*choices, *(side.name for side in split_contrast(self.config.contrast)), self.config.sampler}

    @property
    def digest(self) -> str:
        """The digest of `settings`."""
        return settings_digest(self.settings)

    def stages(self) -> dict[str, int]:
        """Parameter of the search → stage of its first site."""
        stage = {site.name: site.stage for site in self.sites}
        members = members_of(self.space, self.sites, self.spec)
        return {name: stage[sites[0]] for name, sites in members.items() if sites}

    def phase_labels(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Phase → parameter → every label it may have in that phase's study."""
        contrast = self.contrast
        design = {name: contrast.labels() for name in contrast.factors}
        twins = tuple(twin(choice).label for choice in contrast.high.variants.values())
        confirm = {
            name: tuple(
                dict.fromkeys((*design.get(name, ()), *twins, *labels, ORIGINAL.label, *check_labels()))
            )
            for name, labels in self.space.site_parameters(self.sites).items()
        }
        return {
            "baseline": design,
            "screen": design,
            "search": dict(self.parameters),
            "candidate": confirm,
            "confirm": confirm,
            "control": confirm,
            "checks": confirm,
        }


def make_workbench(
    config: StudyConfig, device: str | None = None, *, proofs: Mapping[str, Any] | None = None
) -> Workbench:
    """Resolve names, load data, find sites, check the space. Nothing is trained or written.

    Args:
        device: where this process trains; chosen where None.
        proofs: `Workbench.proofs` of another process of the study, which need not be made again.

    Raises:
        RebornError: whatever does not fit together, before any training.
    """
    space = load_space(config.space)
    if config.train is not None:
        return _own_workbench(config, space, device, proofs)
    recipe = get_recipe(config.recipe, dataset=config.dataset, **config.recipe_overrides)
    found = _survey(config, device, recipe.precision)
    images = load_dataset(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        seed=config.seed,
        fraction=config.fraction,
        skip_broken=config.skip_broken,
    )
    _check_batch(config, images)
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
    bench = _bench(config, spec, space, discovery, found, template, said, proofs)
    return replace(bench, images=images, recipe=recipe)


def _own_workbench(
    config: StudyConfig, space: SearchSpace, device: str | None, proofs: Mapping[str, Any] | None
) -> Workbench:
    """The same for a training of the user's own, which brings its data and takes any inputs."""
    from reborn_nas.backbone import build, discover
    from reborn_nas.study.setup.own import make_own, own_spec

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
    return replace(_bench(config, spec, space, discovery, found, template, said, proofs), own=own)


def _bench(
    config: StudyConfig,
    spec: BackboneSpec,
    space: SearchSpace,
    discovery: Any,
    found: Survey,
    template: Any,
    said: list[str],
    proofs: Mapping[str, Any] | None,
) -> Workbench:
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
    return Workbench(
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
    from reborn_nas.space import Rule

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


def _threads(config: StudyConfig, device: str) -> int | None:
    """CPU threads of a training that nobody chose; sums depend on them. On other devices they change nothing."""
    if device != "cpu":
        return None
    return threads_each(config.processes) if config.processes > 1 else torch.get_num_threads()


def _versions(library: str, words: set[str]) -> dict[str, Any]:
    """What builds the networks, beside torch: the library with its version, and the plug-ins that are used."""
    found: dict[str, Any] = {library: version(library)} if library in ("timm", "torchvision") else {}
    points = [
        *entry_points(group="reborn_nas.activations"),
        *entry_points(group="reborn_nas.samplers"),
    ]
    plug_ins = {
        point.dist.name: point.dist.version
        for point in points
        if point.name in words and point.dist is not None
    }
    return {**found, "plug_ins": plug_ins} if plug_ins else found


def _check_batch(config: StudyConfig, images: ImageSet) -> None:
    """Refuse a batch that was asked for and is larger than the set; a recipe's own is made smaller instead."""
    size = len(images.pool) - images.validation_size
    if config.batch_size is not None and config.batch_size > size:
        raise ConfigError(
            f"batch_size: {config.batch_size} images a step, but {images.name!r} has {size} training images; "
            f"take at most {size}"
        )


def settle_numerics(*, deterministic: bool) -> None:
    """Make this process take only kernels that give the same numbers each time, where it is asked to.

    An operation that has no such kernel warns and goes on: the paper's transposed convolution has one.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def environment(device: str) -> dict[str, str]:
    """Versions, host and device, as this process sees them."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "optuna": optuna.__version__,
        "host": platform.node(),
        "device": device,
        "threads": str(torch.get_num_threads()),
    }
    if device.startswith("cuda"):
        found["device"] = f"{device} ({torch.cuda.get_device_name(device)})"
        found["cuda"] = str(torch.version.cuda)
        found["driver"] = driver_version()
        found["tf32"] = "in fp32 convolutions" if has_tf32(torch.device(device)) else "no"
    elif device == "cpu":
        found["device"] = f"cpu ({_after(Path('/proc/cpuinfo'), 'model name') or platform.machine()})"
        found["driver"] = f"{platform.system()} {platform.release()}"
    commit = _commit()
    return {**found, "commit": commit} if commit else found


def _after(path: Path, word: str) -> str:
    """The rest of the first line of `path` that holds `word`; "" where there is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(word)[2].strip(" \t:") for line in lines if word in line), "")


def _commit() -> str:
    """The checkout's commit, marked `-dirty` where files differ from it; "" for an installed package."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


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


def site_row(site: Site) -> dict[str, Any]:
    """A site as JSON values: what a report's tables show."""
    return {
        "name": site.name,
        "index": site.index,
        "stage": site.stage,
        "block": site.block,
        "channels": site.channels,
        "shape": list(site.shape),
        "activation": site.activation,
        "layout": site.layout,
    }


def check_same(store: RunStore, bench: Workbench) -> tuple[str, ...]:
    """The settings in which the study in `store` differs from `bench`; see `adopted_settings` for what it raises."""
    return adopted_settings(store.name, store.attribute("settings"), bench.settings, adopt=bench.config.adopt)
