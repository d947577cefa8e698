"""The built-in training: image classifiers, by a recipe, on data that lie in the device's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from reborn_nas.data import split
from reborn_nas.models.weights import identities
from reborn_nas.study.setup.warm import search_recipe
from reborn_nas.study.trainer.door import OnEpoch, Outcome
from reborn_nas.training import evaluate, second_rung, train
from reborn_nas.training.measure.example import save_example

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.architecture import Architecture
    from reborn_nas.study.plan.designs import Run
    from reborn_nas.study.setup.workbench import Workbench
    from reborn_nas.study.trainer.checkpoints import SavedState
    from reborn_nas.training import Recipe

__all__ = ["Classification"]


class Classification:
    """The `Trainer` of a study without a training of the user's own.

    Args:
        bench: what all trainings share.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._splits: dict[int, Any] = {}

    def train(
        self, model: nn.Module, architecture: Architecture, run: Run, on_epoch: OnEpoch, state: SavedState
    ) -> Outcome:
        """See `Trainer`."""
        bench, parts, recipe = self._bench, self._split(run.block), self._recipe(run)
        result = train(
            model,
            bench.images,
            train_indices=parts.train,
            evaluate={"validation": parts.validation},
            recipe=recipe,
            seed=run.seed,
            device=bench.device,
            on_epoch=on_epoch,
            checkpoint=state,
            undecayed=identities(model) if bench.config.from_weights else (),
            compile_after=second_rung(recipe.epochs) if bench.config.compile else None,
        )
        validation = result.accuracy["validation"]
        score, n = validation, int(result.n["validation"])
        if run.part != "validation":  # read once, after the last epoch: never a choice of the epoch by them
            indices = bench.images.test if run.part == "test" else bench.images.reserve
            correct, n = evaluate(model, bench.images, indices, bench.device, result.precision)[:2]
            score = correct / n
        return Outcome(
            score,
            n,
            validation,
            result.epochs,
            result.train_loss_sum,
            result.curve,
            environment={"precision": result.precision, "form": result.form},
            save_example=partial(save_example, model, bench.images),
        )

    def lost(self, run: Run, error: Exception) -> Outcome | None:
        """The last validation accuracy, or chance; a training that went astray stays in the analysis."""
        result = getattr(error, "result", None)
        last: Mapping[str, float] = getattr(result, "accuracy", None) or {}
        guess = 1.0 / len(self._bench.images.classes)
        accuracy = last.get("validation", guess)
        curve = getattr(result, "curve", None) or []
        return Outcome(
            accuracy if accuracy == accuracy else guess,
            self.judged(run.block),
            epochs=len(curve),
            curve=curve,
            test=guess,
            test_n=len(self._bench.images.test),
        )

    def judged(self, block: int) -> int:
        """See `Trainer`."""
        return len(self._split(block).validation)

    def known(self, run: Run) -> Mapping[str, float]:
        """See `Trainer`."""
        return {} if run.rate == 1.0 else {"learning_rate": self._recipe(run).learning_rate}

    def _split(self, block: int) -> Any:
        if block not in self._splits:
            self._splits[block] = split(self._bench.images, block=block, seed=self._bench.config.seed)
        return self._splits[block]

    def _recipe(self, run: Run) -> Recipe:
        if run.phase == "search":
            return search_recipe(self._bench)
        recipe = self._bench.recipe
        return recipe if run.rate == 1.0 else replace(recipe, learning_rate=recipe.learning_rate * run.rate)
