"""Everything a training needs that is the same for all trainings of a study, made once in each process."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import timm
import torch
import torchvision
from torch import nn

from reborn_nas.activations import block_form
from reborn_nas.architecture import ORIGINAL, BackboneSpec, Choice
from reborn_nas.backbone import build, proof_record
from reborn_nas.backbone.trace.inputs import arguments
from reborn_nas.data.images import with_checksums
from reborn_nas.metric import Metric
from reborn_nas.metric.classification import guess
from reborn_nas.models.weights import classifiers_of, load_weights
from reborn_nas.study.config.config import StudyConfig, split_contrast
from reborn_nas.study.config.functions import is_factory, is_here
from reborn_nas.study.config.settings import adopted_settings, settings_digest
from reborn_nas.study.plan.contrast import Contrast, members_of, twin
from reborn_nas.study.plan.designs import check_labels
from reborn_nas.study.plan.phases import DESIGN, KINDS, RETEST
from reborn_nas.training import threads_each
from reborn_nas.training.device.selection import driver_version, has_tf32

if TYPE_CHECKING:
    from reborn_nas.backbone import Site
    from reborn_nas.data import ImageSet
    from reborn_nas.space import SearchSpace
    from reborn_nas.study.config.config import StudyConfig
    from reborn_nas.study.store.storage import RunStore
    from reborn_nas.training import Recipe

__all__ = ["OwnTraining", "StudyContext", "check_same", "environment", "site_row"]


@dataclass(frozen=True)
class OwnTraining:
    """A user's training as a study uses it.

    Args:
        train, evaluate: called with (model, job); evaluate is None where train returns the value itself.
        example: what the network takes, in the form of `backbone.find_sites`.
        metric: what they return.
        settings: what changes results, JSON values.
    """

    train: Callable[..., Any]
    evaluate: Callable[..., Any] | None
    example: Any
    metric: Metric
    settings: Mapping[str, Any]

    @property
    def input_size(self) -> tuple[int, ...] | None:
        """Of one image, where a network takes one batch of them; else None."""
        args, kwargs = arguments(self.example)
        if len(args) != 1 or kwargs or not isinstance(args[0], torch.Tensor) or args[0].ndim < 2:
            return None
        return tuple(args[0].shape[1:])


@dataclass(frozen=True)
class StudyContext:
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
        weights: SHA-256 of the checkpoint that trainings start from, or "".
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
    weights: str = ""

    @property
    def init(self) -> str:
        """How new activations begin: with the parent's function where trainings start from its weights."""
        return "preserve" if self.config.from_weights else "xavier"

    def unconverted(self, spec: BackboneSpec) -> nn.Module:
        """The network before it is converted, with the weights that a training starts from."""
        model = build(spec, device="cpu", pretrained=self.config.pretrained)
        if self.config.checkpoint is not None:
            load_weights(model, self.config.checkpoint, classifiers_of(model, spec))
        return model

    @cached_property
    def metric(self) -> Metric:
        """What trainings are judged by; of the built-in one with what a guess has as its worst value."""
        if self.own is not None:
            return self.own.metric
        asked = self.config.judged_by
        return asked if asked.is_accuracy else guess(asked, self.images.counts(self.images.pool))

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
        """What of the user's own code this study runs: its network's, its training's, and its data's."""
        config = self.config
        names: list[str | None] = [config.train, config.evaluate, config.example_inputs]
        names += [config.dataset] if is_factory(config.dataset) else []
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
            **({"start": self._start()} if config.from_weights else {}),
            **({"compile": True} if config.compile else {}),
            "form": block_form(self.device),
        }

    def _start(self) -> dict[str, str]:
        """What every training starts from."""
        return {"init": "preserve", **({"checkpoint": self.weights} if self.weights else {})}

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
            **({} if self.metric.is_accuracy else {"metric": self.config.judged_by.text}),
        }

    def _words(self) -> set[str]:
        """Names that a plug-in may stand behind."""
        labels = {label for row in self.space.site_parameters(self.sites).values() for label in row}
        choices = {Choice.parse(label).name for label in labels}
        return {*choices, *(side.name for side in split_contrast(self.config.contrast)), self.config.sampler}

    @cached_property
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
        by_study = {"": dict(self.parameters), DESIGN: design, RETEST: confirm}
        return {name: by_study[kind.study] for name, kind in KINDS.items()}


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


def check_same(store: RunStore, context: StudyContext) -> tuple[str, ...]:
    """The settings in which the study in `store` differs from `context`; see `adopted_settings` for what it raises."""
    kept = store.attribute("settings")
    if kept is not None and context.own is None:
        kept = with_checksums(kept, context.images)
    return adopted_settings(store.name, kept, context.settings, adopt=context.config.adopt)
