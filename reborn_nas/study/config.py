"""What a study is asked to do: one frozen configuration, read once at the edge, every fault listed at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.study.limits import LIMITS, read_limit
from reborn_nas.study.sharing import slot_count

__all__ = ["StudyConfig", "read_duration", "split_contrast"]

PHASE_FIELDS = ("baseline", "screen", "search", "candidate", "confirm", "control", "checks")
RECIPE_FIELDS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "label_smoothing",
    "precision",
    "init",
)
STARTS = ("scratch", "parent")
"""Where the search's trainings start: fresh weights, or a trained parent's."""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def read_duration(value: Any) -> Any:
    """Seconds from a number or from text such as `90s`, `30m`, `2h`; anything else comes back as it is."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", value.lower())
        if match is None or match.group(2) not in _UNITS:
            raise ValueError(f"a duration is a number of seconds, or such as 90s, 30m or 2h, not {value!r}")
        return float(match.group(1)) * _UNITS[match.group(2)]
    return value


Count = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
Duration = Annotated[float, BeforeValidator(read_duration), Field(gt=0, allow_inf_nan=False)]


class StudyConfig(BaseModel):
    """One study. `StudyConfig()` is the newcomer's: a five-site network on scikit-learn's digits.

    Whatever is None is decided by a rule: counts of phases by `phases.plan_phases`, recipe settings by the
    recipe, the input size by the data set. Raises ConfigError with all faults, each with its place.

    Args:
        name: the study's name in the storage, also of its default run folder; data, never code.
        backbone: `resnet34`, `timm:…`, `torchvision:…` or `path/to/file.py:factory`.
        backbone_arguments: keyword arguments of the network's constructor.
        stem: "original" or "small"; None takes "small" for images of 64×64 and below.
        pretrained: start every training from the backbone's published weights.
        dataset: name of a data set, or `folder:PATH`.
        data_dir: where data sets lie or are downloaded to.
        image_size: resize images to this many pixels.
        fraction: share of the pool's images used, in (0, 1].
        space: search space, a shipped name or the path of a YAML file.
        contrast: the two-level question of all phases but the search, `tested:reference`: the activation on trial, and
            what it is compared with; "original" is the backbone's own.
        recipe: name of the training recipe; the fields after it override its settings.
        trials: total number of trainings over all phases, resumed runs included.
        baseline, screen, search, candidate, confirm, control: trainings of each phase.
        sampler: what proposes in the search phase.
        objectives: of the search phase: accuracy, and what it is weighed against (params, macs, latency, memory).
        max_params, max_macs, max_latency, max_memory: what an architecture of the search, the recommendation and the
            candidate may have at most: `1.2x` of the parent's, or `12M`, `1.5G`, `5ms`, `2GB`.
        latency_batch: images of the forward pass whose latency is measured; None is one.
        pruner: stops hopeless trainings of the search phase: none, halving, hyperband or median.
        parent: a trained parent for `init="parent"`: a safetensors file, or the folder of an export.
        warm_epochs: epochs of a search training that starts from the parent; None takes the recipe's.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:1", …
        devices: one worker slot a device; overrides `device`.
        workers: processes; 1 runs in this process.
        slots_per_device: trainings at a time on each device, every one a worker; None is one.
        threads: CPU threads of each worker; None leaves torch's default to one process, divides the cores by several.
        compile: compile the networks' blocks after a third of a training's epochs; what cannot be compiled fails.
        recompute: reborn and CReLU blocks make their maps again in the backward pass: less memory, more time, the same
            results. Without, that is done where memory ran out.
        storage: Optuna storage URL; None is a journal file in the run folder.
        run: the run folder; None is `runs/<name>`.
        artifacts: folder that all workers share, or `s3://bucket/prefix`, for the states of interrupted trainings;
            None is the run folder.
        timeout: stop after so many seconds (`2h`), finished trainings kept.
        gpu_hours: stop when the study's trainings have taken so many hours of their devices, resumed runs included.
        hang_after: give a training up that finishes no epoch for so long; None is 30 times the longest epoch, at
            least a quarter of an hour.
        deterministic: on a GPU, kernels that give the same numbers each time; slower. A CPU does so anyway.
        adopt: continue a study although settings differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: str | None = None
    backbone: str = "convnet5"
    backbone_arguments: dict[str, Any] = Field(default_factory=dict)
    stem: str | None = None
    pretrained: bool = False
    dataset: str = "digits"
    data_dir: Path | None = None
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    space: str = "paper"
    contrast: str = "reborn:original"
    recipe: str = "fast"
    epochs: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: str | None = None
    init: str | None = None
    trials: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    baseline: Count | None = None
    screen: Count | None = None
    search: Count | None = None
    candidate: Count | None = None
    confirm: Count | None = None
    control: Count | None = None
    checks: Count | None = None
    sampler: str = "tpe"
    objectives: tuple[str, ...] = ("accuracy",)
    max_params: str | None = None
    max_macs: str | None = None
    max_latency: str | None = None
    latency_batch: Annotated[int, Field(ge=1, le=65536)] | None = None
    max_memory: str | None = None
    pruner: str = "none"
    parent: Path | None = None
    warm_epochs: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    devices: tuple[str, ...] = ()
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    slots_per_device: Annotated[int, Field(ge=1, le=64)] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    compile: bool = False
    recompute: bool = False
    storage: str | None = None
    run: Path | None = None
    artifacts: str | None = None
    timeout: Duration | None = None
    gpu_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    hang_after: Duration | None = None
    deterministic: bool = False
    adopt: bool = False

    _given: frozenset[str] = PrivateAttr(default=frozenset())

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError("the study's configuration has faults:", _faults(error)) from None
        self._given = frozenset(settings)

    @model_validator(mode="before")
    @classmethod
    def _small_defaults(cls, data: Any) -> Any:
        """What nobody chose is small: a quarter of the default network's width; on digits 10 epochs, one thread.

        A worker a slot. One thread: at 8×8 pixels a second gains nothing; the numbers do not depend on the cores.
        """
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if data.get("workers") is None:
            data["workers"] = slot_count(data.get("devices"), data.get("slots_per_device"))
        if "backbone" not in data:
            data.setdefault("backbone_arguments", {"width": 0.25})
        if data.get("dataset", "digits") == "digits":
            for name, value in (("epochs", 10), ("threads", 1)):
                if data.get(name) is None:
                    data[name] = value
        return data

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,99}", value):
            raise ValueError("1 to 100 letters, digits, '_', '.', '+' or '-', a letter or digit first")
        return value

    @field_validator("stem")
    @classmethod
    def _check_stem(cls, value: str | None) -> str | None:
        if value not in (None, "small", "original"):
            raise ValueError("'small' or 'original'")
        return value

    @field_validator("contrast")
    @classmethod
    def _check_contrast(cls, value: str) -> str:
        tested, reference = split_contrast(value)
        if tested == reference:
            raise ValueError("two different activations, such as reborn:original")
        if tested == ORIGINAL:
            raise ValueError(
                f"the activation on trial stands first and what it is compared with second: {reference}:original"
            )
        return value

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        return _device(value)

    @field_validator("devices", mode="before")
    @classmethod
    def _check_devices(cls, value: Any) -> Any:
        parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return value
        return tuple(
            _device(f"cuda:{part}" if str(part).strip().isdigit() else str(part).strip()) for part in parts
        )

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, value: str | None) -> str | None:
        schemes = ("journal", "sqlite", "postgresql", "mysql", "grpc")
        if value is not None and not re.match(rf"({'|'.join(schemes)})(\+\w+)?://", value):
            raise ValueError(
                f"a URL that starts with one of {', '.join(f'{scheme}://' for scheme in schemes)}"
            )
        return value

    @field_validator("artifacts", mode="before")
    @classmethod
    def _check_artifacts(cls, value: Any) -> Any:
        from reborn_nas.study.bucket import SCHEME, parse_bucket

        text = str(value) if isinstance(value, Path) else value
        if isinstance(text, str) and text.startswith(SCHEME):
            parse_bucket(text)
        elif isinstance(text, str) and "://" in text:
            raise ValueError("a folder, or s3://BUCKET/PREFIX")
        return text

    @field_validator("sampler")
    @classmethod
    def _check_sampler(cls, value: str) -> str:
        from reborn_nas.study.samplers import sampler_names

        return _known("sampler", value, sampler_names())

    @field_validator("objectives", mode="before")
    @classmethod
    def _check_objectives(cls, value: Any) -> Any:
        from reborn_nas.study.objectives import check_objectives

        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        return check_objectives(parts) if isinstance(parts, list | tuple) else value

    @field_validator(*LIMITS, mode="before")
    @classmethod
    def _check_limit(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None or isinstance(value, bool):
            return value
        read_limit(LIMITS[str(info.field_name)], value)
        return str(value)

    @field_validator("pruner")
    @classmethod
    def _check_pruner(cls, value: str) -> str:
        from reborn_nas.study.pruning import PRUNERS

        return _known("pruner", value, PRUNERS)

    @model_validator(mode="after")
    def _check_search(self) -> StudyConfig:
        if self.pruner != "none" and len(self.objectives) > 1:
            raise ValueError(
                f"pruner: {self.pruner} compares trainings by one number; with the objectives "
                f"{', '.join(self.objectives)} there is none: take --pruner none, or limits in place of objectives"
            )
        if self.init != "parent" and (self.parent is not None or self.warm_epochs is not None):
            name = "parent" if self.parent is not None else "warm_epochs"
            raise ValueError(f"{name}: is for trainings that start from a trained parent; set init to parent")
        return self

    @field_validator("recipe")
    @classmethod
    def _check_recipe_name(cls, value: str) -> str:
        from reborn_nas.training import recipe_names

        return _known("recipe", value, recipe_names())

    @model_validator(mode="after")
    def _check_recipe(self) -> StudyConfig:
        from reborn_nas.training import get_recipe

        try:
            get_recipe(self.recipe, dataset=self.dataset, **self.recipe_overrides)
        except ConfigError as error:
            raise ValueError("\n".join(error.faults) or str(error)) from None
        return self

    @property
    def study_name(self) -> str:
        """The name in the storage: as given, or made of backbone and data set."""
        if self.name is not None:
            return self.name
        words = f"{self.backbone.rsplit(':', 1)[-1]}-{Path(self.dataset.rsplit(':', 1)[-1]).name or 'folder'}"
        return re.sub(r"[^A-Za-z0-9_.+\-]+", "-", words).strip("-.") or "study"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run if self.run is not None else Path("runs") / self.study_name

    @property
    def total(self) -> int:
        """Trainings over all phases: as given; else the sum of all phases' counts where given; else a default."""
        if self.trials is not None:
            return self.trials
        counts = [getattr(self, name) for name in PHASE_FIELDS[:-1]] + [self.checks or 0]
        if all(count is not None for count in counts):
            return sum(counts)
        return 64 if self.dataset == "digits" else 160

    @property
    def counts(self) -> dict[str, int]:
        """The counts of phases that were given one by one."""
        return {name: getattr(self, name) for name in PHASE_FIELDS if getattr(self, name) is not None}

    @property
    def recipe_overrides(self) -> dict[str, Any]:
        """Settings that replace the recipe's."""
        given = {name: getattr(self, name) for name in RECIPE_FIELDS if getattr(self, name) is not None}
        if given.get("init") in STARTS:  # where trainings start from, not how weights are drawn
            del given["init"]
        return given

    @property
    def search_settings(self) -> dict[str, Any]:
        """What was asked of the search phase beyond the sampler, where it differs from the defaults."""
        found: dict[str, Any] = {
            name: getattr(self, name) for name in (*LIMITS, "latency_batch", "warm_epochs")
        }
        found["objectives"] = list(self.objectives) if len(self.objectives) > 1 else None
        found["pruner"] = None if self.pruner == "none" else self.pruner
        found["init"] = "parent" if self.init == "parent" else None
        found["parent"] = None if self.parent is None else str(self.parent)
        return {name: value for name, value in found.items() if value is not None}

    def replace(self, **changes: Any) -> StudyConfig:
        """A validated copy with `changes`; what was left to a rule is decided by it anew."""
        return StudyConfig(**{**self.as_given(), **changes})

    def as_given(self) -> dict[str, Any]:
        """The settings that were given: what makes an equal config in another process."""
        return {name: getattr(self, name) for name in self._given}

    @property
    def given(self) -> frozenset[str]:
        """The settings that were given, not left to their defaults."""
        return self._given

    def to_dict(self) -> dict[str, Any]:
        """JSON values only; credentials in the storage URL are masked."""
        from reborn_nas.study.storage import mask_url

        data = self.model_dump(mode="json")
        data["storage"] = None if self.storage is None else mask_url(self.storage)
        return {**data, "name": self.study_name, "trials": self.total}


def split_contrast(text: str) -> tuple[Choice, Choice]:
    """`reborn(kernel_size=3):original` → the choice on trial and its reference. Raises ConfigError."""
    match = re.fullmatch(r"([^:()]+(?:\([^()]*\))?):([^:()]+(?:\([^()]*\))?)", text)
    if match is None:
        raise ConfigError(f"a contrast is tested:reference, such as reborn:original, not {text!r}")
    return Choice.parse(match.group(1)), Choice.parse(match.group(2))


def _faults(error: ValidationError) -> list[str]:
    faults = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            faults.append(f"{place}: {unknown_name('setting', place, StudyConfig.model_fields)}")
            continue
        text = item["msg"].removeprefix("Value error, ")
        if not place:  # from the model validator, one fault a line, places inside
            faults.extend(text.split("\n"))
            continue
        shown = repr(item.get("input"))
        if place == "storage":  # may hold a password
            shown = "what was given"
        faults.append(f"{place}: {text[0].lower()}{text[1:]}, got {shown[:200]}")
    return faults


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", value):
        raise ValueError("'auto', 'cpu', 'cuda' or one with a number, such as 'cuda:1'")
    return value


def _known(kind: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(str(unknown_name(kind, value, known)))
    return value
