"""What a running study reports: callbacks for the caller, and bars or lines on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from reborn_nas.metric import spoken
from reborn_nas.records import SCORE, public_name

if TYPE_CHECKING:
    from reborn_nas.records import TrialRecord
    from reborn_nas.study.plan.phases import Phase

__all__ = [
    "AfterPhase",
    "BarProgress",
    "LineProgress",
    "Progress",
    "SilentProgress",
    "announce",
    "bars_where_seen",
    "duration_text",
    "make_progress",
    "PhaseCounts",
]


class Planned(Protocol):
    """A plan, as a display needs it; `planning.PlanView` is one."""

    @property
    def done(self) -> int:
        """Trainings that already have a result."""

    @property
    def total(self) -> int:
        """Trainings of all phases."""


class Progress(Protocol):
    """Callbacks, called in the process that runs the search, in the order of events."""

    def plan(self, view: Planned) -> None:
        """The plan is made; training begins."""

    def phase_started(self, name: str, count: int) -> None:
        """The first training of a phase of `count` begins."""

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """A training begins; `done` of `total` have a result."""

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """Epoch `epoch` (from 1) of `epochs` is over."""

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """A training has a result, of any state."""

    def phase_finished(self, name: str) -> None:
        """All trainings of a phase have a result."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class SilentProgress:
    """Ignores every event; a base class for callbacks that handle some of them."""

    def plan(self, view: Planned) -> None:
        """See `Progress`."""

    def phase_started(self, name: str, count: int) -> None:
        """See `Progress`."""

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """See `Progress`."""

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """See `Progress`."""

    def phase_finished(self, name: str) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""


class PhaseCounts:
    """Counts the trainings of each phase, and passes the counts to a `Progress`.

    Args:
        progress: the callbacks.
        phases: the plan.
    """

    def __init__(self, progress: Progress, phases: Iterable[Phase]) -> None:
        self._progress = progress
        self._planned = {phase.name: phase.count for phase in phases}
        self._done = dict.fromkeys(self._planned, 0)
        self._started: set[str] = set()

    @property
    def done(self) -> int:
        """Trainings that have a result."""
        return sum(self._done.values())

    @property
    def total(self) -> int:
        """Trainings of all phases."""
        return sum(self._planned.values())

    def recount(self, finished: Callable[[str], Sized]) -> None:
        """Count again; `finished` returns a phase's trainings that have a result."""
        self._done = {name: len(finished(name)) for name in self._planned}

    def started(self, key: str, phase: str) -> None:
        """A training begins."""
        if phase not in self._started:
            self._started.add(phase)
            self._progress.phase_started(phase, self._planned[phase])
        self._progress.trial_started(key, phase, self.done, self.total)

    def finished(self, record: TrialRecord) -> None:
        """A training has its result."""
        phase = record.phase
        self._done[phase] += 1
        self._progress.trial_finished(record, self.done, self.total)
        if self._done[phase] == self._planned[phase]:
            self._progress.phase_finished(phase)


class AfterPhase(SilentProgress):
    """Forwards every event to `watcher`, and calls `then` after each phase; its exceptions are logged only."""

    def __init__(self, watcher: Progress, then: Callable[[], None]) -> None:
        self._watcher = watcher
        self._then = then

    def plan(self, view: Planned) -> None:
        """See `Progress`."""
        self._watcher.plan(view)

    def phase_started(self, name: str, count: int) -> None:
        """See `Progress`."""
        self._watcher.phase_started(name, count)

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._watcher.trial_started(key, phase, done, total)

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""
        self._watcher.epoch(key, epoch, epochs, metrics)

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """See `Progress`."""
        self._watcher.trial_finished(record, done, total)

    def phase_finished(self, name: str) -> None:
        """See `Progress`."""
        self._watcher.phase_finished(name)
        with suppress(Exception):
            self._then()

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._watcher.note(text)


def announce(text: str) -> None:
    """Print one line on stderr before something that takes seconds, such as importing torch."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def make_progress(quiet: bool, notebook: bool = False) -> Iterator[Progress | None]:
    """Bars on a terminal, lines in a log, nothing where JSON is printed. The terminal is restored at the end."""
    if quiet:
        yield None
    elif not (sys.stderr.isatty() or notebook):
        yield LineProgress()
    else:
        bars = BarProgress()
        try:
            yield bars
        finally:
            bars.close()


@contextmanager
def bars_where_seen() -> Iterator[Progress | None]:
    """Bars on a terminal and in a notebook, nothing elsewhere: the default of a call from Python."""
    with make_progress(
        quiet=not (sys.stderr.isatty() or _in_notebook()), notebook=_in_notebook()
    ) as progress:
        yield progress


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


class LineProgress:
    """Prints one line per phase and one every half minute, for logs."""

    EVERY_SECONDS = 30.0

    def __init__(self) -> None:
        self._printed = time.monotonic()
        self._started = time.monotonic()
        self._first_done = 0

    def plan(self, view: Planned) -> None:
        """Nothing: the caller prints the plan."""
        self._started = self._printed = time.monotonic()
        self._first_done = view.done

    def phase_started(self, name: str, count: int) -> None:
        """Print the phase."""
        self._print(f"{public_name(name)}: {count} trainings")

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """Nothing: printed when it is finished."""

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """Nothing: too frequent for a log."""

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """Print a line every half minute, and one for each training that did not complete."""
        if record.state not in ("complete", "pruned"):
            self._print(f"{record.label}: {record.state}: {record.reason}")
        elif time.monotonic() - self._printed > self.EVERY_SECONDS:
            self._print(f"{done} of {total} trainings, {self._left(done, total)} left")

    def phase_finished(self, name: str) -> None:
        """Nothing: the next phase's line implies it."""

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._print(text)

    def _left(self, done: int, total: int) -> str:
        seconds = (time.monotonic() - self._started) * (total - done) / max(1, done - self._first_done)
        return duration_text(seconds)

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class BarProgress:
    """Shows a bar for the study and one for the running training."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._study: Any = None
        self._trial: Any = None
        self._phase = ""

    def plan(self, view: Planned) -> None:
        """Show the study's bar, in place of an earlier one's."""
        for earlier in (self._study, self._trial):
            if earlier is not None:
                self._bars.remove_task(earlier)
        self._study = self._bars.add_task("study", total=view.total, completed=view.done, detail="")
        self._trial = self._bars.add_task("", total=1, visible=False, detail="")
        self._bars.start()

    def phase_started(self, name: str, count: int) -> None:
        """Show the phase next to the study's bar."""
        self._phase = public_name(name)
        self._bars.update(self._study, description=f"study: {public_name(name)}")

    def trial_started(self, key: str, phase: str, done: int, total: int) -> None:
        """Show an empty bar for this training."""
        self._bars.update(self._study, completed=done, total=total)
        self._bars.reset(self._trial, description=public_name(key), visible=True, total=1, detail="")

    def epoch(self, key: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """Advance this training's bar."""
        score = metrics.get(SCORE)
        detail = "" if score is None else f"{spoken().label} {spoken().shown(score)}"
        self._bars.update(self._trial, completed=epoch, total=epochs, detail=detail)

    def trial_finished(self, record: TrialRecord, done: int, total: int) -> None:
        """Advance the study's bar; close the display after the last one."""
        self._bars.update(self._study, completed=done, total=total)
        if record.state not in ("complete", "pruned"):
            self.note(f"{record.label}: {record.state}: {record.reason}")

    def phase_finished(self, name: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Restore the terminal."""
        self._bars.stop()


def duration_text(seconds: float) -> str:
    """`41 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
