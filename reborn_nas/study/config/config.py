"""What a study is asked to do: one frozen configuration, read once at the edge, every fault listed at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reborn_nas.documents import number_hint
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.metric.classification import read_metric
from reborn_nas.records import stored_name
from reborn_nas.study.config.fields import Fields
from reborn_nas.study.config.objectives import LIMITS, named_objectives, read_limit, stored_objectives
from reborn_nas.study.config.own import own_faults
from reborn_nas.study.config.urls import mask_text, mask_url, run_url
from reborn_nas.study.config.values import (
    plain_types,
    split_contrast,
)

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
    "optimizer",
    "optimizer_args",
    "decay_norms_and_biases",
    "clip_grad",
    "ema",
    "schedule",
    "schedule_args",
    "layer_decay",
    "loss",
    "loss_args",
    "class_weights",
    "augment",
    "precision",
    "init",
)
STARTS = ("scratch", "parent")
"""Where the search's trainings start: fresh weights, or a trained parent's."""


NEWCOMER_NETWORK: Mapping[str, Any] = {"width": 0.125, "norm": False}
NEWCOMER_TRAINING: Mapping[str, Any] = {"epochs": 6, "learning_rate": 0.01}
"""The network, and its training on digits, of a study in which nobody chose any, so that a study of a minute finds
something: without batch norm and at this rate the network hardly begins to learn, and with reborn blocks, which bring a
batch norm of their own, it does."""


class StudyConfig(Fields):
    """One study. `StudyConfig()` is the newcomer's: a five-site network on scikit-learn's digits.

    Each field is described where it stands; the flags of `reborn-nas search`, the arguments of `reborn_nas.search` and
    the command that repeats a run are made from these descriptions. Whatever is None is decided by a rule: counts of
    phases by `phases.plan_phases`, recipe settings by the recipe, the input size by the data set. Raises ConfigError
    with all faults, each with its place.
    """

    _given: frozenset[str] = PrivateAttr(default=frozenset())
    _processes: int | None = PrivateAttr(default=None)
    _recipe_notes: tuple[str, ...] = PrivateAttr(default=())

    def __init__(self, **settings: Any) -> None:
        settings = renamed(settings)
        settings, notes = _with_recipe(settings)
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError("the study's configuration has faults:", _faults(error)) from None
        self._given, self._recipe_notes = frozenset(settings), notes

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
        if own or data.get("metric") is not None:
            data["objectives"] = stored_objectives(data)
        if data.get("workers") is None:
            data["workers"] = _one_a_device(data.get("devices"))
        named = data.get("dataset", "digits")
        digits = isinstance(named, str) and named == "digits" and not own
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
        if self.checkpoint is not None and (self.pretrained or self.init == "parent"):
            other = "pretrained" if self.pretrained else "init: parent"
            raise ValueError(f"checkpoint: trainings start from one set of weights; leave out {other}")
        if self.init != "parent" and (self.parent is not None or self.warm_epochs is not None):
            name = "parent" if self.parent is not None else "warm_epochs"
            raise ValueError(f"{name}: is for trainings that start from a trained parent; set init to parent")
        return self

    @model_validator(mode="after")
    def _check_device(self) -> StudyConfig:
        if self.devices and self.device != "auto":
            raise ValueError(
                f"device: is for one device; devices names {', '.join(self.devices)}, so leave out device {self.device}"
            )
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
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(self).model_fields.items()
        }
        faults = list(own_faults(dict(self), defaults))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def judged_by(self) -> Metric:
        """What trainings are judged by."""
        return ACCURACY if self.metric is None else read_metric(self.metric)

    @property
    def study_name(self) -> str:
        """The name in the storage: as given, or made of backbone and data set."""
        if self.name is not None:
            return self.name
        data = Path(self.dataset.rsplit(":", 1)[-1]).name or "folder"
        if self.dataset.startswith("cached:"):  # and a key
            data = re.sub("-[0-9a-f]{16}$", "", data)
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
    def from_weights(self) -> bool:
        """Whether every training starts from published weights or a checkpoint."""
        return self.pretrained or self.checkpoint is not None

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
        given = {name: getattr(self, name) for name in RECIPE_FIELDS if getattr(self, name) not in (None, {})}
        if given.get("init") in STARTS:  # where trainings start from, not how weights are drawn
            del given["init"]
        return given

    @property
    def recipe_notes(self) -> tuple[str, ...]:
        """What the file of the recipe holds that the recipe does not."""
        return self._recipe_notes

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
        objectives = named_objectives(self.objectives, self.judged_by)
        return {**data, "name": self.study_name, "trials": self.total, "objectives": list(objectives)}


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by their names of today; where both names are given, today's holds."""
    found = {OLD_NAMES[name]: value for name, value in settings.items() if name in OLD_NAMES}
    return found | {name: value for name, value in settings.items() if name not in OLD_NAMES}


def _with_recipe(settings: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A recipe's file read into the settings, so that a run never asks for it again, and what is to be said of it."""
    from reborn_nas.training import is_file, read_recipe

    if not is_file(settings.get("recipe")):
        return settings, ()
    recipe, notes = read_recipe(settings["recipe"])
    return {**settings, "recipe": recipe.to_dict()}, notes


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
        if place == "dataset" and not isinstance(item.get("input"), str | int):
            shown = text  # Datasets, which the text is about
        got = "" if text.endswith(shown) else f", got {shown[:200]}"
        faults.append(f"{place}: {text[0].lower()}{text[1:]}{got}{number_hint(item.get('input'))}")
    return faults


def _one_a_device(devices: Any) -> int | str:
    """Workers that nobody counted: one a named device, else "auto". What cannot be counted is refused elsewhere."""
    parts = devices.split(",") if isinstance(devices, str) else devices
    return len(parts) if isinstance(parts, list | tuple) and parts else "auto"
