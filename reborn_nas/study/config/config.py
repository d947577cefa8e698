"""What a study is asked to do: one frozen configuration, read once at the edge, every fault listed at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reborn_nas.documents import number_hint
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.records import stored_name
from reborn_nas.study.config.fields import (
    Artifacts,
    Contrast,
    Count,
    Device,
    Devices,
    Duration,
    Function,
    MetricText,
    Positive,
    Pruner,
    RecipeName,
    RunName,
    Sampler,
    Sites,
    Stem,
    StorageUrl,
    Workers,
    plain_types,
    setting,
    split_contrast,
)
from reborn_nas.study.config.objectives import LIMITS, Objectives, read_limit
from reborn_nas.study.config.own import own_faults
from reborn_nas.study.config.urls import mask_text, mask_url, run_url

__all__ = ["StudyConfig", "known_settings", "renamed", "split_contrast"]

PHASE_FIELDS = ("baseline", "screen", "exploration", "candidate", "retest", "control", "checks")
OLD_NAMES = {"search": "exploration", "confirm": "retest"}
"""Settings that had another name: in files, in runs and from Python it still holds."""

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

WHAT, HOW, OWN, EXPLORATION, STUDY, MACHINE = (
    "what is searched",
    "how it is trained",
    "a training of your own",
    "the exploration",
    "the study",
    "where it runs",
)
"""Groups of settings, in the order of `reborn-nas search --help`."""


NEWCOMER_NETWORK: Mapping[str, Any] = {"width": 0.125, "norm": False}
NEWCOMER_TRAINING: Mapping[str, Any] = {"epochs": 6, "learning_rate": 0.01}
"""The network, and its training on digits, of a study in which nobody chose any, so that a study of a minute finds
something: without batch norm and at this rate the network hardly begins to learn, and with reborn blocks, which bring a
batch norm of their own, it does."""


class StudyConfig(BaseModel):
    """One study. `StudyConfig()` is the newcomer's: a five-site network on scikit-learn's digits.

    Each field is described where it stands; the flags of `reborn-nas search`, the arguments of `reborn_nas.search` and
    the command that repeats a run are made from these descriptions. Whatever is None is decided by a rule: counts of
    phases by `phases.plan_phases`, recipe settings by the recipe, the input size by the data set. Raises ConfigError
    with all faults, each with its place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    backbone: str = setting(
        "convnet5",
        "timm model (resnet34), torchvision:NAME, path/to/file.py:factory or package.module:factory",
        group=WHAT,
        metavar="NAME",
    )
    backbone_arguments: dict[str, Any] = setting(
        None,
        "keyword argument of the backbone's constructor, such as width=0.25; may be repeated",
        group=WHAT,
        metavar="NAME=VALUE",
        factory=dict,
    )
    stem: Stem | None = setting(
        None,
        "first layers; small: 3×3, stride 1, no max-pool (the default up to 64×64 pixels)",
        group=WHAT,
        choices=("original", "small"),
    )
    pretrained: bool = setting(
        False, "start every training from the backbone's published weights", group=WHAT
    )
    dataset: str = setting(
        "digits",
        "cifar10, cifar100, svhn, mnist, kmnist, fashion_mnist, digits (default) or folder:PATH",
        group=WHAT,
        metavar="NAME",
    )
    data_dir: Path | None = setting(
        None, "where data sets lie or are downloaded to", group=WHAT, metavar="DIR"
    )
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = setting(
        None, "resize images to N×N", group=WHAT, metavar="N"
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = setting(
        1.0, "use this share of every part of the data", group=WHAT, metavar="F"
    )
    skip_broken: bool = setting(
        False, "leave out images of folder:PATH that cannot be read, instead of ending", group=WHAT
    )
    space: str = setting(
        "paper", "search space: a name of `reborn-nas spaces`, or a YAML file", group=WHAT, metavar="NAME"
    )
    contrast: Contrast = setting(
        "reborn:original",
        "what the study compares at each site: A against B; original is what the backbone has (reborn:original)",
        group=WHAT,
        metavar="A:B",
    )
    sites: Sites = setting(
        (),
        "only these activation sites take part: names or patterns, such as dec*,head.act; all others stay as they are",
        group=WHAT,
        metavar="LIST",
    )
    recipe: RecipeName = setting(
        "fast", "fast (default) or paper; the next settings replace the recipe's", group=HOW, metavar="NAME"
    )
    epochs: Annotated[int, Field(ge=1)] | None = setting(
        None, "epochs of each training", group=HOW, metavar="N"
    )
    batch_size: Annotated[int, Field(ge=1)] | None = setting(
        None, "images of one step", group=HOW, metavar="N"
    )
    learning_rate: Positive | None = setting(None, "largest learning rate", group=HOW, metavar="X")
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None, "of stochastic gradient descent", group=HOW, metavar="X"
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = setting(
        None, "of the optimiser", group=HOW, metavar="X"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None, "of the cross entropy", group=HOW, metavar="X"
    )
    precision: str | None = setting(
        None,
        "auto: bf16 where the device computes with it, fp16 on older NVIDIA GPUs",
        group=HOW,
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    train: Function | None = setting(
        None,
        "function (model, job) that trains a network: path/to/file.py:function or package.module:function",
        group=OWN,
        metavar="FUNCTION",
    )
    evaluate: Function | None = setting(
        None,
        "function (model, job) that returns the value of a trained network on job.part",
        group=OWN,
        metavar="FUNCTION",
    )
    example_inputs: Function | None = setting(
        None,
        "function that returns what the network takes: a tensor, a tuple of arguments or a dict of keywords",
        group=OWN,
        metavar="FUNCTION",
    )
    metric: MetricText | None = setting(
        None,
        "what is returned, and which direction is better: miou:higher,label=mIoU,unit=points,scale=100,worst=0",
        group=OWN,
        metavar="NAME:higher",
    )
    version: str | None = setting(
        None,
        "of your data and of what your source does not show; a change is reported when the study goes on",
        group=OWN,
        metavar="TEXT",
    )
    sampler: Sampler = setting(
        "tpe",
        "what proposes: tpe (default), additive, nsga2, gp, random, or a plug-in's",
        group=EXPLORATION,
        metavar="NAME",
    )
    objectives: Objectives = setting(
        ("accuracy",),
        "accuracy (default), or with costs: accuracy,params; macs, latency, memory",
        group=EXPLORATION,
        metavar="LIST",
    )
    max_params: str | None = setting(
        None,
        "reject architectures above, untrained: parameters; 1.2x: of the parent's; 12M",
        group=EXPLORATION,
        metavar="1.2x",
    )
    max_macs: str | None = setting(
        None,
        "reject architectures above, untrained: multiply-accumulates of one image",
        group=EXPLORATION,
        metavar="1.5G",
    )
    max_latency: str | None = setting(
        None,
        "reject architectures above, untrained: a forward pass on the study's device, folded",
        group=EXPLORATION,
        metavar="5ms",
    )
    max_memory: str | None = setting(
        None,
        "reject architectures above, untrained: one training step, estimated",
        group=EXPLORATION,
        metavar="2GB",
    )
    latency_batch: Annotated[int, Field(ge=1, le=65536)] | None = setting(
        None, "images of the pass whose latency is measured (1)", group=EXPLORATION, metavar="N"
    )
    pruner: Pruner = setting(
        "none",
        "stop hopeless trainings at rungs: none (default), halving, hyperband, median",
        group=EXPLORATION,
        metavar="NAME",
    )
    init: str | None = setting(
        None,
        "scratch: fresh weights (default); parent: a trained parent's; xavier, kaiming, default: how the recipe draws "
        "them",
        group=EXPLORATION,
        metavar="NAME",
    )
    parent: Path | None = setting(
        None,
        "trained parent for --init parent: safetensors, or an export's folder; else it is trained once",
        group=EXPLORATION,
        metavar="FILE",
    )
    warm_epochs: Annotated[int, Field(ge=1)] | None = setting(
        None, "epochs of a training that starts from the parent", group=EXPLORATION, metavar="N"
    )
    trials: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = setting(
        None, "trainings in all, finished ones included", group=STUDY, metavar="N"
    )
    baseline: Count | None = setting(
        None, "trainings of parent and all-reborn network", group=STUDY, metavar="N"
    )
    screen: Count | None = setting(
        None, "trainings of the balanced design that the effects are estimated from", group=STUDY, metavar="N"
    )
    exploration: Count | None = setting(None, "trainings that the sampler proposes", group=STUDY, metavar="N")
    candidate: Count | None = setting(
        None, "trainings of the candidate and its parent", group=STUDY, metavar="N"
    )
    retest: Count | None = setting(
        None, "trainings of the top sites on unused images", group=STUDY, metavar="N"
    )
    control: Count | None = setting(
        None, "trainings of the top sites with the positive twin", group=STUDY, metavar="N"
    )
    checks: Count | None = setting(
        None, "trainings of the top sites alone and with other controls", group=STUDY, metavar="N"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = setting(0, "of everything random", group=STUDY, metavar="N")
    name: RunName | None = setting(
        None, "the study's name; default BACKBONE-DATASET", group=STUDY, metavar="NAME"
    )
    run: Path | None = setting(None, "the run's folder; default runs/NAME", group=STUDY, metavar="DIR")
    storage: StorageUrl | None = setting(
        None, "Optuna storage; default a journal file in the run's folder", group=STUDY, metavar="URL"
    )
    timeout: Duration | None = setting(
        None, "stop after 90s, 30min, 2h; the same command goes on", group=STUDY, metavar="TIME"
    )
    gpu_hours: Positive | None = setting(
        None, "stop when all trainings together took so long on their devices", group=STUDY, metavar="H"
    )
    hang_after: Duration | None = setting(
        None,
        "give up a training that ends no epoch for so long (30 times the longest epoch, 15 min at least)",
        group=STUDY,
        metavar="TIME",
    )
    adopt: bool = setting(
        False,
        "resume although settings differ; choices, contrast, data set and objectives cannot",
        group=STUDY,
    )
    device: Device = setting("auto", "auto (default), cpu, cuda, cuda:1", group=MACHINE, metavar="NAME")
    devices: Devices = setting(
        (), "one worker each, such as 0,1,2 for three GPUs", group=MACHINE, metavar="LIST"
    )
    workers: Workers = setting(
        "auto",
        "processes that train at the same time; auto (default): one on each GPU, or as many as end soonest on a CPU",
        group=MACHINE,
        metavar="K",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = setting(
        None, "CPU threads of each worker", group=MACHINE, metavar="N"
    )
    compile: bool = setting(
        False, "compile the networks' blocks after a third of the longer trainings", group=MACHINE
    )
    recompute: bool = setting(
        False,
        "make the blocks' maps again in the backward pass: less memory, more time, the same results",
        group=MACHINE,
    )
    deterministic: bool = setting(False, "on a GPU, the same numbers each time; slower", group=MACHINE)
    artifacts: Artifacts | None = setting(
        None,
        "shared folder, or s3://BUCKET/PREFIX, for the states of interrupted trainings",
        group=MACHINE,
        metavar="DIR",
    )

    _given: frozenset[str] = PrivateAttr(default=frozenset())
    _processes: int | None = PrivateAttr(default=None)

    def __init__(self, **settings: Any) -> None:
        settings = renamed(settings)
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError("the study's configuration has faults:", _faults(error)) from None
        self._given = frozenset(settings)

    @model_validator(mode="before")
    @classmethod
    def _small_defaults(cls, data: Any) -> Any:
        """What nobody chose is small and finds something: see `NEWCOMER_NETWORK`. On digits 10 epochs, one thread.

        A worker a slot. One thread: at 8×8 pixels a second gains nothing; the numbers do not depend on the cores.
        """
        if not isinstance(data, dict):
            return data
        data = dict(data)
        own = data.get("train") is not None
        if own:
            data["objectives"] = _by_metric(data.get("objectives"), data.get("metric"))
        if data.get("workers") is None:
            data["workers"] = _one_a_device(data.get("devices"))
        digits = data.get("dataset", "digits") == "digits" and not own
        if "backbone" not in data and "backbone_arguments" not in data:
            data["backbone_arguments"] = dict(NEWCOMER_NETWORK)
            if digits and data.get("recipe", "fast") == "fast":
                for name, value in NEWCOMER_TRAINING.items():
                    if data.get(name) is None:
                        data[name] = value
        if own and data.get("epochs") is None:
            data["epochs"] = 10
        if digits:
            for name, value in (("epochs", 10), ("threads", 1)):
                if data.get(name) is None:
                    data[name] = value
        return data

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`epochs: yes` is no number, although Python counts with truth values."""
        kinds = plain_types(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError(
                f"takes no {str(value).lower()}, which is also what YAML reads yes, no, on and off as"
            )
        return value

    @field_validator(*LIMITS, mode="before")
    @classmethod
    def _check_limit(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return value
        read_limit(LIMITS[str(info.field_name)], value)
        return str(value)

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

    @model_validator(mode="after")
    def _check_recipe(self) -> StudyConfig:
        from reborn_nas.training import get_recipe

        try:
            get_recipe(self.recipe, dataset=self.dataset, **self.recipe_overrides)
        except ConfigError as error:
            raise ValueError("\n".join(error.faults) or str(error)) from None
        return self

    @model_validator(mode="after")
    def _check_own(self) -> StudyConfig:
        defaults = {name: field.get_default() for name, field in type(self).model_fields.items()}
        faults = list(own_faults(self, defaults))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def judged_by(self) -> Metric:
        """What trainings are judged by."""
        return ACCURACY if self.metric is None else Metric.parse(self.metric)

    @property
    def study_name(self) -> str:
        """The name in the storage: as given, or made of backbone and data set."""
        if self.name is not None:
            return self.name
        data = Path(self.dataset.rsplit(":", 1)[-1]).name or "folder"
        task = data if self.train is None else self.judged_by.name
        words = f"{self.backbone.rsplit(':', 1)[-1]}-{task}"
        return re.sub(r"[^A-Za-z0-9_.+\-]+", "-", words).strip("-.") or "study"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run if self.run is not None else Path("runs") / self.study_name

    @property
    def storage_url(self) -> str:
        """The storage's URL: as given, or the journal in the run folder."""
        return run_url(self.folder, self.storage)

    @property
    def total(self) -> int:
        """Trainings over all phases: as given; else the sum of all phases' counts where given; else a default."""
        if self.trials is not None:
            return self.trials
        counts = [getattr(self, name) for name in PHASE_FIELDS[:-1]] + [self.checks or 0]
        if all(count is not None for count in counts):
            return sum(counts)
        return 64 if self.dataset == "digits" and self.train is None else 160

    @property
    def processes(self) -> int:
        """Processes that train at the same time: `workers`, or what "auto" was settled to; one before that."""
        return self.workers if isinstance(self.workers, int) else self._processes or 1

    def with_processes(self, count: int) -> StudyConfig:
        """The same settings, with "auto" settled to so many processes on this machine."""
        settled = self.model_copy()
        settled._processes = count
        return settled

    @property
    def counts(self) -> dict[str, int]:
        """The counts of phases that were given one by one."""
        found = {name: getattr(self, name) for name in PHASE_FIELDS}
        return {stored_name(name): count for name, count in found.items() if count is not None}

    @property
    def recipe_overrides(self) -> dict[str, Any]:
        """Settings that replace the recipe's."""
        given = {name: getattr(self, name) for name in RECIPE_FIELDS if getattr(self, name) is not None}
        if given.get("init") in STARTS:  # where trainings start from, not how weights are drawn
            del given["init"]
        return given

    @property
    def search_settings(self) -> dict[str, Any]:
        """What was asked of the exploration beyond the sampler, where it differs from the defaults."""
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

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` shows: no password."""
        for name, value in super().__repr_args__():
            yield name, mask_url(value) if name == "storage" and value else value

    def to_dict(self) -> dict[str, Any]:
        """JSON values only; credentials in the storage URL are masked."""
        data = self.model_dump(mode="json")
        data["storage"] = None if self.storage is None else mask_url(self.storage)
        return {**data, "name": self.study_name, "trials": self.total}


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by their names of today; where both names are given, today's holds."""
    found = {OLD_NAMES[name]: value for name, value in settings.items() if name in OLD_NAMES}
    return found | {name: value for name, value in settings.items() if name not in OLD_NAMES}


def known_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a run has stored, the settings that there are today and that were not left to a rule."""
    return {
        name: value
        for name, value in renamed(stored).items()
        if name in StudyConfig.model_fields and value is not None
    }


_PLAIN = {
    "dict_type": "a mapping, such as {width: 0.25}",
    "string_type": "text; quote it where YAML would read a number, a truth value or null",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
}
"""Pydantic's kind of fault → what the setting takes."""


def _faults(error: ValidationError) -> list[str]:
    faults = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            faults.append(f"{place}: {unknown_name('setting', place, StudyConfig.model_fields)}")
            continue
        text = mask_text(item["msg"].removeprefix("Value error, "))
        if not place:  # from the model validator, one fault a line, places inside
            faults.extend(text.split("\n"))
            continue
        text = _PLAIN.get(item["type"], text)
        shown = mask_text(repr(item.get("input")))
        if place == "storage":  # may hold a password
            shown = "what was given"
        got = "" if text.endswith(shown) else f", got {shown[:200]}"
        faults.append(f"{place}: {text[0].lower()}{text[1:]}{got}{number_hint(item.get('input'))}")
    return faults


def _by_metric(objectives: Any, metric: Any) -> Any:
    """The objectives with the metric under the one name that it has inside; what is faulty is refused elsewhere."""
    if objectives is None:
        return ("accuracy",)
    try:
        name = Metric.parse(metric).name
    except ConfigError:
        return objectives
    parts = [part.strip() for part in objectives.split(",")] if isinstance(objectives, str) else objectives
    return (
        ["accuracy" if part == name else part for part in parts] if isinstance(parts, list | tuple) else parts
    )


def _one_a_device(devices: Any) -> int | str:
    """Workers that nobody counted: one a named device, else "auto". What cannot be counted is refused elsewhere."""
    parts = devices.split(",") if isinstance(devices, str) else devices
    return len(parts) if isinstance(parts, list | tuple) and parts else "auto"
