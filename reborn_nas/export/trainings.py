"""Trains one architecture with the full recipe on training plus validation images, with several seeds; resumable."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import Discovery, build, plan
from reborn_nas.data import ImageSet
from reborn_nas.data.images import with_checksums
from reborn_nas.errors import TrainingError, wait_out
from reborn_nas.export.card import Accuracy, Card
from reborn_nas.export.parent import Parent, Start, make_start
from reborn_nas.export.timm_model import Trained
from reborn_nas.files import sha256_of, write_atomic
from reborn_nas.metric import ACCURACY, HUNDRED, Metric
from reborn_nas.models.exported import read_tensors
from reborn_nas.training import FileCheckpoint, Recipe, example_of, recipe_in_words, train
from reborn_nas.training.checkpoint import TrainingState

__all__ = ["Retrained", "Retraining", "SeedResult", "claim_folder", "folder_name", "over_seeds", "retrain"]


@dataclass(frozen=True)
class SeedResult:
    """One training: correct predictions of the `n` test images, evaluated once after the last epoch.

    `score` and `error` are the score and its standard error over images, for metrics other than the accuracy.
    """

    seed: int
    correct: int
    n: int
    epochs: int
    seconds: float
    precision: str
    notes: tuple[str, ...] = ()
    score: float | None = None
    error: float | None = None

    @property
    def judged(self) -> float:
        """The score: the accuracy if there is no other."""
        return self.accuracy if self.score is None else self.score

    @property
    def accuracy(self) -> float:
        """The accuracy in [0, 1]."""
        return self.correct / self.n


@dataclass(frozen=True)
class Retrained:
    """The results of the trainings.

    Args:
        results: one per seed, in the order of the seeds.
        trained: network of the first seed, ready for `export_trained`.
        metric: metric by which the trainings were judged.
    """

    results: tuple[SeedResult, ...]
    trained: Trained
    metric: Metric = ACCURACY

    @property
    def mean(self) -> float:
        """Mean value of the metric on the test images over the seeds; of the accuracy in [0, 1]."""
        mean = _mean(self.results)
        return mean if self.metric.is_accuracy else self.metric.value(mean)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of one training (n − 1 in the denominator); None for a single seed."""
        found = _deviation(self.results)
        return found if found is None or self.metric.is_accuracy else found * HUNDRED / self.metric.factor

    @property
    def sentence(self) -> str:
        """Mean, deviation, trainings, seeds and images as text."""
        return over_seeds(self.results, self.metric)


def over_seeds(results: Sequence[SeedResult], metric: Metric = ACCURACY) -> str:
    """`93.21% ± 0.34% (mean ± sd of 5 trainings, seeds 0, 1, 2, 3, 4; 10,000 images)`."""
    seeds = ", ".join(str(one.seed) for one in results)
    images = f"{results[0].n:,} images"
    mean, deviation = _mean(results), _deviation(results)
    accuracy = metric.is_accuracy
    shown = f"{mean:.2%}" if accuracy else metric.shown(mean)
    if deviation is None:
        return f"{shown} (one training, seed {seeds}; {images})"
    away = f"{deviation:.2%}" if accuracy else f"{HUNDRED * deviation:.{metric.digits}f} {metric.short_unit}"
    return f"{shown} ± {away} (mean ± sd of {len(results)} trainings, seeds {seeds}; {images})"


def _mean(results: Sequence[SeedResult]) -> float:
    return math.fsum(one.judged for one in results) / len(results)


def _deviation(results: Sequence[SeedResult]) -> float | None:
    if len(results) < 2:
        return None
    mean = _mean(results)
    return math.sqrt(math.fsum((one.judged - mean) ** 2 for one in results) / (len(results) - 1))


OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Called with the seed, the epoch (from 1) and its metrics."""


_log = logging.getLogger("reborn_nas.training")


@dataclass(frozen=True)
class Retraining:
    """The parts of a retraining.

    Args:
        architecture: must have a complete backbone spec.
        images: data: the pool is trained on, the test images judge.
        recipe: complete recipe, including the precision.
        seeds: one training each; the network of the first is exported, regardless of the test results.
        device: device of the trainings.
        folder: folder of the results.
        parent: the network from whose weights the trainings start.
        init: "preserve" or "xavier".
        found: the backbone's sites, if known.
        metric: a metric of `classification.METRICS`.
    """

    architecture: Architecture
    images: ImageSet
    recipe: Recipe
    seeds: tuple[int, ...]
    device: str
    folder: Path
    parent: Parent = field(default_factory=Parent)
    init: str = "xavier"
    found: Discovery | None = None
    metric: Metric = ACCURACY

    def settings(self) -> dict[str, Any]:
        """All settings that change results, except the seeds, as JSON values."""
        file = self.parent.checkpoint
        if file is not None and file.is_dir():
            file = file / "model.safetensors"
        return {
            "architecture": self.architecture.to_dict(),
            "data": {"name": self.images.name, "fingerprint": self.images.fingerprint},
            "recipe": self.recipe.to_dict(),
            "pretrained": self.parent.pretrained,
            "checkpoint": None if file is None or not file.is_file() else sha256_of(file),
            "init": self.init,
            "device": self.device.split(":")[0],
            **({} if self.metric.is_accuracy else {"metric": self.metric.name}),
        }


def retrain(job: Retraining, name: str | None = None, on_epoch: OnEpoch | None = None) -> Retrained:
    """Train every seed that is not done yet; an interrupted training resumes from its last epoch.

    Raises:
        TrainingError: the folder holds a training with other settings, or this one is impossible.
        DivergedError: a training's loss became infinite or NaN.
    """
    if job.parent.given and not (job.folder / "train.json").is_file():
        _start(job, job.seeds[0])  # a checkpoint that does not fit must not create a folder
    claim_folder(job)
    results, first = [], None
    for seed in job.seeds:
        done = _read_result(job.folder / f"seed-{seed}.json")
        if done is None or (seed == job.seeds[0] and not _weights(job, seed).is_file()):
            done = _train_one(job, seed, on_epoch)
        results.append(done)
        first = first or done
    assert first is not None
    return Retrained(tuple(results), _trained(job, tuple(results), name), job.metric)


def claim_folder(job: Retraining) -> None:
    """Write the settings, or compare them with existing ones.

    Raises:
        TrainingError: the settings differ; all differences are listed.
    """
    path, settings = job.folder / "train.json", job.settings()
    if not path.is_file():
        if job.folder.is_dir() and any(job.folder.iterdir()):
            raise TrainingError(
                f"{job.folder} is not empty and no training's folder; give another one with --run"
            )
        write_atomic(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); give another folder with --run") from error
    old, new = _flat(with_checksums(_upgraded(there), job.images)), _flat(settings)
    differ = [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]
    if differ:
        lines = "".join(f"\n  - {line}" for line in differ)
        raise TrainingError(
            f"{job.folder} holds a training with other settings; repeat those, or give another --run:{lines}"
        )


def _upgraded(settings: dict[str, Any]) -> dict[str, Any]:
    """Old settings in the present format: the decay of the average was separate from the recipe."""
    if not settings.get("average"):
        return {name: value for name, value in settings.items() if name != "average"}
    recipe = {**settings["recipe"], "ema": settings["average"]}
    return _upgraded({**settings, "recipe": recipe, "average": 0})


def _train_one(job: Retraining, seed: int, on_epoch: OnEpoch | None) -> SeedResult:
    start = _start(job, seed)
    _log.info("seed %d begins", seed)
    keep = _State(job.folder / f"seed-{seed}.state")
    result = train(
        start.model,
        job.images,
        train_indices=job.images.pool,
        evaluate={"test": job.images.test},
        every_epoch=(),
        recipe=job.recipe,
        seed=seed,
        device=job.device,
        on_epoch=None if on_epoch is None else lambda epoch, metrics: on_epoch(seed, epoch, metrics),
        checkpoint=keep,
        undecayed=start.undecayed,
        metric=job.metric.name,
    )
    if seed == job.seeds[0]:
        weights = {k: v.detach().cpu().contiguous().clone() for k, v in start.model.state_dict().items()}
        _keep(_weights(job, seed).with_suffix(".example"), save(example_of(start.model, job.images)))
        _keep(_weights(job, seed), save(weights, metadata={"format": "pt"}))
    done = SeedResult(
        seed,
        result.correct["test"],
        result.n["test"],
        result.epochs,
        result.seconds,
        result.precision,
        start.notes,
        None if job.metric.is_accuracy else job.metric.score(result.value["test"]),
        None if job.metric.is_accuracy else result.error["test"] * job.metric.factor / HUNDRED,
    )
    _keep(
        job.folder / f"seed-{seed}.json", json.dumps({**vars(done), "curve": result.curve}, indent=1) + "\n"
    )
    keep.discard()
    value = "" if done.score is None else f", {job.metric.label} {job.metric.shown(done.score)}"
    _log.info(
        "seed %d: %d of %d test images right%s, %.1f s", seed, done.correct, done.n, value, done.seconds
    )
    return done


class _State(FileCheckpoint):
    """A training's state; if it cannot be written, the training continues without it."""

    def save(self, state: TrainingState) -> None:
        """Write `state` if possible."""
        try:
            super().save(state)
        except OSError as error:
            _log.warning("the training's state cannot be written (%s); the training continues", error)

    def discard(self) -> None:
        """Remove it if possible."""
        with suppress(OSError):
            super().discard()


def _keep(path: Path, content: str | bytes) -> None:
    """Write the result of a training, waiting until the disk has room."""
    wait_out(lambda: write_atomic(path, content), f"{path} cannot be written")


def _start(job: Retraining, seed: int) -> Start:
    return make_start(job.architecture, job.parent, init=job.init, seed=seed, found=job.found)


def _weights(job: Retraining, seed: int) -> Path:
    return job.folder / f"seed-{seed}.safetensors"


def _read_result(path: Path) -> SeedResult | None:
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data.pop("curve")
        return SeedResult(**{**data, "notes": tuple(data["notes"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); delete it to train this seed again") from error


def _trained(job: Retraining, results: tuple[SeedResult, ...], name: str | None) -> Trained:
    """The network of the first seed with its card."""
    spec, first = job.architecture.backbone, results[0]
    conversion = plan(
        build(spec, device="meta"), job.architecture, spec.input_size, init=job.init, discovery=job.found
    )
    file = _weights(job, first.seed)
    card = Card(
        name=name or f"{spec.name}-{job.architecture.digest}",
        dataset=job.images.name,
        classes=job.images.classes,
        mean=job.images.mean,
        std=job.images.std,
        accuracies=[
            Accuracy(
                "test",
                first.correct,
                first.n,
                "this training; read once, after the last epoch",
                job.metric,
                first.score,
                first.error,
            )
        ],
        details=_details(job, results),
    )
    again = "delete it to train this seed again"
    tensors, example = (read_tensors(one, again) for one in (file, file.with_suffix(".example")))
    return Trained(tensors, job.architecture, example, card, conversion)


def _details(job: Retraining, results: tuple[SeedResult, ...]) -> dict[str, str]:
    recipe, first = job.recipe, results[0]
    details = {
        f"test {job.metric.label} over seeds": over_seeds(results, job.metric),
        "trained on": f"{len(job.images.pool):,} images, training and validation",
        "recipe": f"{recipe.name}: {recipe.epochs} epochs, batches of {recipe.batch_size}, {recipe.optimizer}, "
        f"learning rate {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}, {first.precision}",
        "all of the recipe": recipe_in_words(recipe.to_dict()),
        "seed": f"{first.seed}, the first of {len(results)}",
        "start": _start_in_words(job),
    }
    if recipe.ema:
        details["weights"] = f"moving average over the steps, decay {recipe.ema:g}"
    return details


def _start_in_words(job: Retraining) -> str:
    if not job.parent.given:
        return "random weights"
    where = "the library's published weights" if job.parent.pretrained else "a parent's checkpoint"
    if job.init != "preserve":
        return f"{where}, new weights drawn at random"
    return f"{where}, with the parent's function; no weight decay on the compressions, which start at the identity"


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}" if path else str(key))
    return found


def folder_name(architecture: Architecture, dataset: str) -> str:
    """The default folder of a retraining."""
    words = f"{architecture.backbone.name}-{Path(dataset.rsplit(':', 1)[-1]).name}"
    return f"train-{words}-{architecture.digest[:6]}"
