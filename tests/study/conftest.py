"""A study's context without training: real sites, real search space, real data set, accuracies from a formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.records import TrialRecord
from reborn_nas.seeds import derive_seed
from reborn_nas.space import load_space
from reborn_nas.study.config.config import StudyConfig, split_contrast
from reborn_nas.study.plan.contrast import make_contrast
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.setup.context import StudyContext
from tests.study import postgresql


@dataclass(frozen=True)
class FakeSite:
    """A site that takes whatever is not in `refused`."""

    name: str
    index: int
    stage: int = 0
    block: str = ""
    channels: int = 8
    shape: tuple[int, ...] = (8, 4, 4)
    activation: str = "relu"
    layout: str = "nchw"
    refused: tuple[str, ...] = ()

    def refusal(self, choice: Choice) -> str | None:
        return "not here" if choice.name in self.refused else None

    def admits(self, choice: Choice) -> bool:
        return self.refusal(choice) is None


def make_bench(folder: Path, sites: int = 5, **settings: Any) -> StudyContext:
    """A context on `sites` made-up sites; its images are only counted, never read."""
    config = StudyConfig(**{"run": folder, "name": "toy", "space": "two_level", **settings})
    spec = BackboneSpec("timm:toy", input_size=(3, 8, 8), num_classes=10, stem="original")
    found = tuple(FakeSite(f"layer{index}.act", index, stage=index // 2) for index in range(sites))
    space = load_space(config.space)
    images = SimpleNamespace(
        name="toy",
        fingerprint="f00",
        classes=tuple("0123456789"),
        validation_size=360,
        notes=(),
        input_size=(3, 8, 8),
    )
    recipe = SimpleNamespace(epochs=2, to_dict=lambda: {"name": config.recipe, **config.recipe_overrides})
    contrast = make_contrast(*split_contrast(config.contrast), space, found, spec)
    return StudyContext(
        config, spec, found, space, space.parameters(found), contrast, images, recipe, "cpu", ()
    )


@dataclass
class FakeObjective:
    """Accuracy from a formula: reborn helps at the first two sites. Counts how often each run was trained."""

    calls: dict[str, int] = field(default_factory=dict)
    before: Callable[[Run, int], None] = lambda run, number: None
    state: Callable[[Run], str] = lambda run: "complete"

    def __call__(
        self,
        run: Run,
        architecture: Architecture,
        on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> TrialRecord:
        self.calls[run.key] = self.calls.get(run.key, 0) + 1
        self.before(run, sum(self.calls.values()))
        if on_epoch is not None:
            on_epoch(1, {"validation_score": 0.5})
        return fake_record(run, architecture, self.state(run))


def fake_record(run: Run, architecture: Architecture, state: str = "complete") -> TrialRecord:
    """The same for the same run and architecture, anywhere."""
    gain = {"layer0.act": 0.03, "layer1.act": 0.02}
    accuracy = 0.7 + sum(gain.get(site, -0.01) * (choice.name == "reborn") for site, choice in architecture)
    accuracy += (run.seed % 1000) / 1e6
    return TrialRecord(
        key=run.key,
        phase=run.phase,
        arm=run.arm,
        number=-1,
        state=state,
        architecture=architecture.to_dict(),
        parameters=dict(run.parameters),
        levels=dict(run.levels),
        block=run.block,
        seed=run.seed,
        accuracy=None if state == "failed" else accuracy,
        accuracy_part=run.part,
        accuracy_n=360,
        params=1000 + derive_seed(architecture.digest) % 100,
        digest=architecture.digest,
        reason="" if state == "complete" else "made to fail",
    )


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability against power cuts costs milliseconds a write and changes nothing that these tests look at."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was killed between its claim and its first sign of life is replaced soon, here and in what is forked."""
    monkeypatch.setattr("reborn_nas.study.store.attempts.LEASE", 4.0)


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    """A PostgreSQL of one file's own, where its programs are installed."""
    pytest.importorskip("psycopg2")
    programs = postgresql.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgresql.running(programs, durable=False) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder that exists."""
    run = tmp_path / "run"
    run.mkdir()
    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """What the toy study comes to when nothing happens to it."""
    from tests.study.toy import results, start  # which imports this file

    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, None)
    process.join(240)
    assert process.exitcode == 0
    return results(folder, None)
