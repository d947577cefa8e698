"""The built-in training: image classifiers, by a recipe, on data that lie in the device's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from reborn_nas.data import split
from reborn_nas.models.weights import identities
from reborn_nas.records import SCORE
from reborn_nas.study.setup.warm import search_recipe
from reborn_nas.study.trainer.door import OnEpoch, Outcome
from reborn_nas.training import evaluate, second_rung, train
from reborn_nas.training.measure.example import save_example
from reborn_nas.training.scores import class_counts, score_error, score_value

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.architecture import Architecture
    from reborn_nas.study.plan.designs import Run
    from reborn_nas.study.setup.context import StudyContext
    from reborn_nas.study.trainer.checkpoints import SavedState
    from reborn_nas.training import Recipe

__all__ = ["Classification"]


class Classification:
    """The `Trainer` of a study without a training of the user's own.

    Args:
        context: what all trainings share.
    """

    def __init__(self, context: StudyContext) -> None:
        self._context, self._metric = context, context.metric
        self._splits: dict[int, Any] = {}

    def train(
        self, model: nn.Module, architecture: Architecture, run: Run, on_epoch: OnEpoch, state: SavedState
    ) -> Outcome:
        """See `Trainer`."""
        context, parts, recipe = self._context, self._split(run.block), self._recipe(run)
        result = train(
            model,
            context.images,
            train_indices=parts.train,
            evaluate={"validation": parts.validation},
            recipe=recipe,
            seed=run.seed,
            device=context.device,
            on_epoch=lambda epoch, row: on_epoch(epoch, self._scored(row)),
            checkpoint=state,
            undecayed=identities(model) if context.config.from_weights else (),
            compile_after=second_rung(recipe.epochs) if context.config.compile else None,
            metric=self._metric.name,
        )
        validation = self._value(result)
        score, n, error = validation, int(result.n["validation"]), result.error.get("validation")
        classes: list[dict[str, Any]] = []
        if run.part != "validation":  # read once, after the last epoch: never a choice of the epoch by them
            score, n, error, classes = self._judge(model, run.part, result.precision)
        return Outcome(
            score,
            n,
            validation,
            result.epochs,
            result.train_loss_sum,
            [self._scored(row) for row in result.curve],
            extra={} if error is None else {"se": error},
            environment={"precision": result.precision, "form": result.form},
            save_example=partial(save_example, model, context.images),
            classes=classes,
        )

    def _value(self, result: Any) -> float:
        """The score on the validation part."""
        if self._metric.is_accuracy:
            return float(result.accuracy["validation"])
        return self._metric.score(result.value["validation"])

    def _scored(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """A row of the curve with the score in place of the metric's value."""
        judged = f"validation_{self._metric.name}"
        score = row[judged] if self._metric.is_accuracy else self._metric.score(row[judged])
        return {
            SCORE if name == judged else name: score if name == judged else value
            for name, value in row.items()
        }

    def _judge(
        self, model: nn.Module, part: str, precision: str
    ) -> tuple[float, int, float | None, list[dict[str, Any]]]:
        """Score, images, the value's standard error where it has no formula, and on the test part each class."""
        images, metric = self._context.images, self._metric
        indices = images.test if part == "test" else images.reserve
        keep = part == "test" or not metric.is_accuracy
        found = evaluate(model, images, indices, self._context.device, precision, keep_logits=keep)
        score, error, classes = found.accuracy, None, []
        if found.logits is not None:
            labels = images.labels[indices]
            if not metric.is_accuracy:
                score = metric.score(float(score_value(metric.name, found.logits, labels)))
                error = score_error(metric.name, found.logits, labels)
            if part == "test":
                classes = class_counts(found.logits, labels).rows(images.classes)
        return score, found.n, error, classes

    def lost(self, run: Run, error: Exception) -> Outcome | None:
        """The last validation score, or chance; a training that went astray stays in the analysis."""
        result: Any = getattr(error, "result", None)
        worst = self._metric.worst_score
        guess = 1.0 / len(self._context.images.classes) if worst is None else worst
        known = getattr(result, "accuracy" if self._metric.is_accuracy else "value", None) or {}
        accuracy = self._value(result) if "validation" in known else guess
        curve = getattr(result, "curve", None) or []
        return Outcome(
            accuracy if accuracy == accuracy else guess,
            self.judged(run.block),
            epochs=len(curve),
            curve=[self._scored(row) for row in curve],
            test=guess,
            test_n=len(self._context.images.test),
        )

    def judged(self, block: int) -> int:
        """See `Trainer`."""
        return len(self._split(block).validation)

    def known(self, run: Run) -> Mapping[str, float]:
        """See `Trainer`."""
        return {} if run.rate == 1.0 else {"learning_rate": self._recipe(run).learning_rate}

    def _split(self, block: int) -> Any:
        if block not in self._splits:
            self._splits[block] = split(self._context.images, block=block, seed=self._context.config.seed)
        return self._splits[block]

    def _recipe(self, run: Run) -> Recipe:
        if run.phase == "search":
            return search_recipe(self._context)
        recipe = self._context.recipe
        return recipe if run.rate == 1.0 else replace(recipe, learning_rate=recipe.learning_rate * run.rate)
