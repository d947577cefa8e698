"""Trainings of other frameworks as `studies/frameworks.md` prints them: run, stopped, interrupted, pruned."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reborn_nas.study import StudyConfig
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.search import run_search
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.door import Pruned, Stopped
from reborn_nas.study.trainer.objective import Objective

PAGE = Path(__file__).parents[2] / "studies" / "frameworks.md"
NEEDS = {"PyTorch Lightning": "pytorch_lightning", "timm": "timm", "Hugging Face Trainer": "transformers"}
NOTHING = dict.fromkeys(("screen", "exploration", "candidate", "retest", "control", "checks"), 0)


def task(folder: Path, framework: str, **changes: str) -> Path:
    """`task.py` as the page has it: the task, then one of the trainings."""
    pytest.importorskip(NEEDS[framework])
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    chosen = [sections[0], next(one for one in sections if one.startswith(framework))]
    source = "\n".join(block for text in chosen for block in re.findall(r"```python\n(.*?)```", text, re.S))
    for old, new in changes.items():
        source = source.replace(old, new)
    path = folder / "task.py"
    path.write_text(source)
    return path


def configured(path: Path, **more: Any) -> StudyConfig:
    names = {"backbone": "make", "train": "train", "evaluate": "evaluate", "example_inputs": "example"}
    given: dict[str, Any] = {setting: f"{path}:{function}" for setting, function in names.items()}
    given |= {"metric": "top1:higher,label=top-1,unit=points,scale=100,worst=0.1", "space": "two_level"}
    given |= {"epochs": 2, "device": "cpu", "workers": 1, "run": path.parent / "run", **more}
    return StudyConfig(**given)


def one(config: StudyConfig, on_epoch: Any = None, **more: Any) -> Any:
    context = make_context(config)
    run = Run("screen/0", "screen", "design", seed=3)
    return Objective(context, Path(str(config.run)), **more)(
        run, context.contrast.reference(context.spec), on_epoch
    )


def photos(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for label, index in np.ndindex(2, 30):
        place = folder / "photos" / "ab"[label]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (32, 32, 3)) + 100 * label
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return folder / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("framework", NEEDS)
def test_each_trains_as_it_is_printed(framework: str, tmp_path: Path) -> None:
    path = task(tmp_path, framework, **{'"photos"': repr(str(photos(tmp_path)))})
    run = run_search(configured(path, baseline=2, epochs=3, **NOTHING))
    assert [record.state for record in run.records] == ["complete"] * 2
    assert [record.epochs for record in run.records] == [3, 3]
    assert max(record.accuracy or 0.0 for record in run.records) > (0.6 if framework == "timm" else 0.15)


@pytest.mark.parametrize("stop", [Stopped, Pruned])
def test_a_stop_passes_through_lightning(stop: type[Exception], tmp_path: Path) -> None:
    seen = []

    def on_epoch(epoch: int, row: Any) -> None:
        seen.append(dict(row))
        raise stop

    config = configured(task(tmp_path, "PyTorch Lightning"))
    if stop is Pruned:
        assert one(config, on_epoch).state == "pruned"
    else:
        with pytest.raises(Stopped):
            one(config, on_epoch)
    assert [row["epoch"] for row in seen] == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_lightning_ends_the_study_and_its_handlers_are_taken_back(
    number: int, tmp_path: Path
) -> None:
    """Lightning turns KeyboardInterrupt into SystemExit and ignores SIGINT from then on; SIGTERM raises an error."""
    sent = threading.Event()

    def on_epoch(epoch: int, row: Any) -> None:
        sent.set()
        os.kill(os.getpid(), number)

    def handler(*_: Any) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        config = configured(task(tmp_path, "PyTorch Lightning"), epochs=3)
        with pytest.raises(Stopped):
            one(config, on_epoch, stopping=sent.is_set)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
