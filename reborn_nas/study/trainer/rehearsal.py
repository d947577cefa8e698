"""A training of the user's own tried with the budget of one epoch: what a study relies on, before hours are spent."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reborn_nas.architecture import Architecture
from reborn_nas.backbone import apply, plan
from reborn_nas.errors import ConfigError, RebornError, machine_fault
from reborn_nas.seeds import derive_seed
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.door import Outcome
from reborn_nas.study.trainer.own import Own

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.study.setup.context import StudyContext

__all__ = ["Check", "TrainingCheck", "check_training", "rehearse"]


SHORT = 20.0
"""Seconds that a training with the whole budget may take where one epoch shows too little."""


@dataclass(frozen=True)
class Check:
    """One thing that a study relies on.

    Args:
        name: in a few words.
        good: whether it holds.
        said: what was seen, and where it does not hold the way out.
    """

    name: str
    good: bool
    said: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'FAIL'}  {self.name}: {self.said}"


@dataclass(frozen=True)
class TrainingCheck:
    """What was seen of a training that was called a few times.

    Args:
        checks: in the order in which they were made; the first that fails may end them.
        seconds: of one training with the budget of one epoch; None where none ended.
    """

    checks: tuple[Check, ...]
    seconds: float | None = None

    @property
    def ok(self) -> bool:
        """Whether all hold."""
        return all(check.good for check in self.checks)

    def __str__(self) -> str:
        lines = [str(check) for check in self.checks]
        if self.seconds is not None:
            lines.append(f"one training with the budget of one epoch took {self.seconds:.2f} s")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        checks = [{"name": one.name, "ok": one.good, "said": one.said} for one in self.checks]
        return {"ok": self.ok, "seconds": self.seconds, "checks": checks}


def check_training(config: StudyConfig) -> TrainingCheck:
    """Call the study's own training a few times with the budget of one epoch, and see what a study relies on.

    That the network that is passed in is trained and left on its device, that the same seed gives the same value, that
    two splits differ, that the test part gives another value than the validation part, and that the network with the
    tested activation everywhere trains too. Nothing is kept.

    Raises:
        ConfigError: the configuration has faults, or no training of one's own.
    """
    if config.train is None:
        raise ConfigError("train: there is no training of your own to check; name its function")
    return rehearse(make_context(config))


def rehearse(context: StudyContext) -> TrainingCheck:
    """The same of a study's context."""
    with tempfile.TemporaryDirectory() as folder:
        tried = _Rehearsal(context, Path(folder))
        checks: list[Check] = []
        try:
            checks += tried.checks()
        except Exception as error:  # a user's code may raise anything, which is what this is for
            if machine_fault(error) is not None:
                raise
            text = " ".join(str(error).split()) or "no text"
            kind = "" if isinstance(error, RebornError) else f"{type(error).__name__}: "
            checks += [*tried.done, Check(tried.doing, False, f"{kind}{text}")]
    return TrainingCheck(tuple(checks), tried.seconds)


class _Rehearsal:
    def __init__(self, context: StudyContext, folder: Path) -> None:
        self._context = context
        self._trainer = Own(context, folder, lambda: False, lambda text: None)
        self._seed = derive_seed(context.config.seed, "rehearsal")
        self._epochs = 1
        self.done: list[Check] = []
        self.doing = "a training runs and is judged"
        self.seconds: float | None = None

    def checks(self) -> list[Check]:
        """All of them; those before one that raises are in `done`."""
        for check in self._one_by_one():
            self.done.append(check)
        return self.done

    def _one_by_one(self) -> Iterator[Check]:
        context, metric = self._context, self._context.metric
        parent = context.contrast.reference(context.spec)
        network = self._network(parent)
        before = {name: value.detach().clone() for name, value in network.state_dict().items()}
        trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        began = time.monotonic()
        first = self._train(network, parent)
        self.seconds = time.monotonic() - began
        yield Check(self.doing, True, f"{metric.label} {metric.shown(first.score)} on the validation part")
        yield self._changed(network, before, trainable)
        now, home = torch.device(self._trainer.left_on), torch.device(context.device)
        same = now.type == home.type and (now.index or 0) == (home.index or 0)
        back = "" if same else f" and not on {home}; it is put back to be judged"
        yield Check("the network is left where it was", True, f"it is on {now}{back}")
        yield self._in_budget(first)
        self.doing = "the same seed gives the same value"
        second = self._train(self._network(parent), parent)
        same = first.score == second.score
        yield Check(
            self.doing,
            same,
            "it does"
            if same
            else f"{metric.shown(first.score)}, then {metric.shown(second.score)}: draw from the "
            "generators that are seeded before train is called, or from job.seed; on a GPU some operations differ",
        )
        self.doing = "another split gives another value"
        first, other = self._beside(first, parent, block=1)
        same = other.score == first.score
        yield Check(
            self.doing,
            not same,
            f"both give {metric.shown(first.score)}: train on job.indices(n).train and judge by its validation rows"
            if same
            else "it does",
        )
        self.doing = "the test part gives another value than the validation part"
        first, tested = self._beside(first, parent, part="test")
        same = tested.score == first.score
        yield Check(
            self.doing,
            not same,
            f"both give {metric.shown(first.score)}: judge by job.indices(n)[job.part]"
            if same
            else "it does",
        )
        self.doing = f"the network with {context.contrast.arms[0]} at every site trains too"
        chosen = dict.fromkeys(context.contrast.factors, context.contrast.high.default)
        full = context.contrast.architecture(context.spec, chosen)
        network = self._network(full)
        found = self._train(network, full)
        yield Check(self.doing, True, f"{metric.label} {metric.shown(found.score)}")
        if context.own is not None and context.own.evaluate is not None:  # blocks bring batch norms
            yield self._left_by_evaluate(network, full)

    @staticmethod
    def _in_budget(first: Outcome) -> Check:
        """Whether the training does no more than it is asked to, as far as it reports."""
        name, most = "it trains for job.epochs", max((int(row["epoch"]) for row in first.curve), default=0)
        if most == 0:
            said = "it reports no epoch, so it is not watched for hanging, not pruned, and not resumed where it was"
            return Check(name, True, said)
        said = f"it reported epoch {most} with a budget of 1: loop over range(job.epochs)"
        return Check(name, most <= 1, "it does" if most <= 1 else said)

    def _left_by_evaluate(self, network: nn.Module, parent: Architecture) -> Check:
        """Whether judging changes the network, as batch norms do that nobody put into eval mode."""
        before = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.doing = "evaluate leaves the network as it is"
        self._trainer.judge(network, parent, Run("rehearsal/0", "screen", "design", self._seed))
        now = network.state_dict()
        other = [name for name, value in before.items() if not torch.equal(value, now[name])]
        said = "it does" if not other else f"it changed {other[0]}; begin with model.eval()"
        return Check(self.doing, not other, said)

    def _beside(self, first: Outcome, parent: Architecture, **other: Any) -> tuple[Outcome, Outcome]:
        """The first outcome, and another one beside it. Where both are the same, which may mean that one epoch teaches
        nothing, both with the whole budget, if that is short.
        """
        found = self._train(self._network(parent), parent, **other)
        whole = self._context.epochs
        short = self.seconds is not None and self.seconds * whole <= SHORT
        if found.score == first.score and self._epochs < whole and short:
            self._epochs = whole
            first = self._train(self._network(parent), parent)
            found = self._train(self._network(parent), parent, **other)
        return first, found

    def _network(self, architecture: Architecture) -> nn.Module:
        context, spec = self._context, architecture.backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            network = context.unconverted(spec)
            if architecture.choices:
                template, discovery = context.traced(spec)
                converted = plan(template, architecture, discovery=discovery, init=context.init)
                network = apply(network, converted, inplace=True, seed=self._seed)
        return network.to(context.device)

    def _train(
        self, network: nn.Module, architecture: Architecture, *, block: int = 0, part: str = "validation"
    ) -> Outcome:
        run = Run(f"rehearsal/{block}", "screen", "design", self._seed, block=block, part=part)
        return self._trainer.train(
            network, architecture, run, lambda epoch, row: None, None, epochs=self._epochs
        )

    @staticmethod
    def _changed(network: nn.Module, before: dict[str, torch.Tensor], names: set[str]) -> Check:
        """Whether training changed what can be trained."""
        now = network.state_dict()
        lost = sorted(before.keys() ^ now.keys())
        name = "the network that is passed in is trained"
        if lost:
            return Check(
                name, False, f"it has other parameters afterwards, such as {lost[0]}; train it in place"
            )
        moved = sum(not torch.equal(before[one].cpu(), now[one].detach().cpu()) for one in names)
        if moved:
            return Check(name, True, f"{moved} of {len(names)} parameters changed")
        return Check(
            name, False, "no parameter changed: train the model that train is called with, not a copy"
        )
