"""What one trial left: the one schema that `study/` writes and `report/` and `analysis/` read; and which one is best.

Three networks of a run have names, by one rule for every place that shows them. *Best observed*: the highest validation
accuracy of screen and exploration; partly luck. *Recommended*: the largest expected accuracy, see
`study.result.networks`. *Retested*: the candidate, trained afresh beside its parent and judged by the test images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from reborn_nas.metric import Metric, unknown_chance

PHASES = ("baseline", "screen", "search", "candidate", "confirm", "control", "checks")
"""In the order in which they run. "candidate" is candidate against parent; "checks" follow the control."""

STATES = ("complete", "diverged", "failed", "rejected", "pruned", "running")
"""complete: trained to the end. diverged: non-finite loss. failed: an error. rejected: over budget, never
trained. pruned: stopped by the pruner (exploration only). running: without a result yet."""

_SHOWN = {"search": "exploration", "confirm": "retest"}
"""Phases whose name is kept as it was first stored, and the word that users read and write for it."""


def public_name(name: str) -> str:
    """A stored phase, or the key of a training, as users read it: `search/3` → `exploration/3`."""
    phase, slash, rest = name.partition("/")
    return _SHOWN.get(phase, phase) + slash + rest


def stored_name(name: str) -> str:
    """The inverse of `public_name`; a stored name comes back as it is."""
    phase, slash, rest = name.partition("/")
    return next((old for old, word in _SHOWN.items() if word == phase), phase) + slash + rest


def standard_error(record: TrialRecord, metric: Metric) -> float | None:
    """Of the record's score, over other images of the same kind; None where nobody says.

    Binomial of an accuracy, else what was computed or returned as `se` beside the value, put on the score's scale.
    """
    score, se = record.accuracy, record.extra.get("se")
    if score is None:
        return None
    if se is None:
        binomial = metric.is_accuracy and record.accuracy_n > 0 and 0 <= score <= 1
        return math.sqrt(score * (1 - score) / record.accuracy_n) if binomial else None
    value = metric.value(score)
    slope = {"logit": value * (1 - value), "log": value}.get(str(metric.scale), 1.0)
    return metric.factor / 100 * se / slope if slope > 0 else None


def class_path(key: str) -> str:
    """Where the run folder keeps the results by class of the training `key`, as CSV."""
    return f"classes/{key.replace('/', '-')}.csv"


SCORE = "validation_score"
"""The score on the validation part: in a row of a learning curve, and in `TrialRecord.extra`."""

STORED = {
    "accuracy": "score",
    "accuracy_part": "score_part",
    "accuracy_n": "score_n",
    "test_accuracy": "test_score",
}
"""Field of `TrialRecord` → its name in a store, where any metric may stand behind it."""


def field_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """A stored record by the fields of `TrialRecord`; earlier versions stored the names of an accuracy."""
    fields_of = {stored: name for name, stored in STORED.items()}
    found = {fields_of.get(name, name): value for name, value in data.items()}
    extra = found.get("extra")
    if isinstance(extra, Mapping) and "validation_accuracy" in extra:
        found["extra"] = {
            SCORE if key == "validation_accuracy" else key: value for key, value in extra.items()
        }
    return found


EXCESS = "excess:"
"""`TrialRecord.extra` holds by what share an architecture is above each limit, under this and the quantity."""


@dataclass(frozen=True)
class TrialRecord:
    """One training.

    Args:
        key: the study's word for this run, unique in a study and stable over resumes, such as `screen/17`.
        phase: one of `PHASES`.
        arm: the role of the run in its phase (`parent`, `reborn`, `candidate`, `design`, `sampled`, …).
        number: Optuna's trial number within its study.
        state: one of `STATES`.
        architecture: `Architecture.to_dict()`.
        parameters: Optuna parameters, site (or group) → label.
        levels: two-level coding of a designed run, site → 0 (original) or 1; empty elsewhere.
        block: index of the train/validation split.
        seed: the seed of initialisation, order and augmentation.
        accuracy: the score, larger is better (`reborn_nas.metric`): of a classifier its accuracy in [0, 1]; of the part
            that the phase judges by (validation; reserved images in the retest);
            of a diverged run its last score, or chance.
        accuracy_part: name of that part.
        accuracy_n: images in that part.
        test_accuracy: the score on the test part; only candidate-against-parent runs have one.
        test_n: images in the test set.
        train_loss_sum: sum of the epochs' mean training losses.
        epochs: epochs trained.
        seconds: wall seconds of the training itself.
        overhead_seconds: wall seconds of everything else in the trial.
        params: trainable parameters.
        macs: multiply-accumulates of one image's forward pass.
        device: where it ran.
        digest: the architecture's digest.
        reason: why a run is not complete, in one line.
        curve: path of the learning curve (CSV), relative to the run folder.
        checkpoint: path of the trained weights (safetensors), relative to the run folder.
        started, finished: UTC, ISO 8601.
        environment: versions and host, as the worker saw them.
        extra: further scalars by name.
        chance: score of a training that came to nothing, where the metric has one.
    """

    key: str
    phase: str
    arm: str
    number: int
    state: str
    architecture: Mapping[str, Any]
    parameters: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)
    block: int = 0
    seed: int = 0
    accuracy: float | None = None
    accuracy_part: str = "validation"
    accuracy_n: int = 0
    test_accuracy: float | None = None
    test_n: int = 0
    train_loss_sum: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    overhead_seconds: float = 0.0
    params: int = 0
    macs: int = 0
    device: str = "cpu"
    digest: str = ""
    reason: str = ""
    curve: str = ""
    checkpoint: str = ""
    started: str = ""
    finished: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    chance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values only, under the names of a store (`STORED`)."""
        return {STORED.get(name, name): value for name, value in asdict(self).items()}

    @property
    def label(self) -> str:
        """The key as users read it."""
        return public_name(self.key)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialRecord:
        """The inverse of `to_dict`; keys of a newer version are ignored."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in field_names(data).items() if key in known})


def chance_level(records: Iterable[TrialRecord]) -> float:
    """Score of a guess: of the record, else 1/classes; of a training of one's own without any, far below all."""
    known = list(records)
    for record in known:
        if record.chance is not None:
            return record.chance
        backbone = record.architecture.get("backbone")
        classes = backbone.get("num_classes") if isinstance(backbone, Mapping) else None
        if isinstance(classes, int) and classes > 0:
            return 1 / classes
        if classes == 0:
            return unknown_chance(one.accuracy for one in known)
    return 0.0


EXPLORED = ("screen", "search")
"""Phases whose trainings the dashboard's first study shows, and among which the best observed one is."""


DIGITS = 4
"""Of an accuracy in [0, 1] that are distinguished: a hundredth of a percentage point."""


def validation_accuracy(record: TrialRecord) -> float:
    """In [0, 1], also of a training whose record holds its test accuracy; trainings are ranked by nothing else."""
    return float(record.extra.get(SCORE, record.accuracy or 0.0))


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The highest validation accuracy, to four digits; of equal ones the first, as in optuna-dashboard."""
    return min(records, key=_rank, default=None)


def explored(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The finished trainings of screen and exploration whose networks keep the run's limits."""
    return [
        one
        for one in records
        if one.phase in EXPLORED
        and one.state == "complete"
        and one.accuracy is not None
        and not any(value > 0 for name, value in one.extra.items() if name.startswith(EXCESS))
    ]


def best_observed(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The best of the explored trainings."""
    return best_of(explored(records))


def retested(records: Iterable[TrialRecord], arm: str = "candidate") -> list[TrialRecord]:
    """The trainings of the candidate that were judged by the test images; of its parent with `arm="parent"`."""
    return [
        one
        for one in records
        if one.phase == "candidate" and one.arm == arm and one.test_accuracy is not None
    ]


def handed_over(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """What `export` writes by default: the candidate where it was retested, else the best observed."""
    return best_of(retested(records)) or best_observed(records)


def _rank(record: TrialRecord) -> tuple[object, ...]:
    parts = tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in record.key.split("/"))
    phase = EXPLORED.index(record.phase) if record.phase in EXPLORED else len(EXPLORED)
    return (-round(validation_accuracy(record), DIGITS), phase, parts)
