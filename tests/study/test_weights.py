"""Studies whose trainings start from a checkpoint: at its function, and refused where nothing would be left of it."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reborn_nas import api
from reborn_nas.api import train
from reborn_nas.architecture import Choice
from reborn_nas.backbone import build, resolve
from reborn_nas.cli.main import main
from reborn_nas.errors import ConfigError
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.search import run_search
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.objective import Objective
from tests.study.test_run import tiny

NETWORK = {"backbone": "convnet5", "backbone_arguments": {"width": 0.125}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    spec = resolve("convnet5", input_size=(1, 8, 8), num_classes=10, arguments={"width": 0.125})
    state = {f"model.{name}": value for name, value in build(spec, seed=3).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_every_training_starts_at_the_parents_function(tmp_path: Path, checkpoint: Path) -> None:
    context = make_context(tiny(tmp_path / "run", **NETWORK, checkpoint=checkpoint))
    notes = "\n".join(context.notes)
    assert f"every training starts from the weights in {checkpoint}" in notes
    assert context.settings["start"]["init"] == "preserve"
    objective = Objective(context, tmp_path / "run")
    reborn = context.contrast.architecture(
        context.spec,
        dict.fromkeys(context.contrast.factors, Choice("reborn", kernel_size=3, compression="1x1").label),
    )
    parent = build(context.spec, seed=3).eval()
    x = torch.randn(4, 1, 8, 8)
    for seed in (0, 1):
        for architecture in (context.contrast.architecture(context.spec, {}), reborn):
            made = objective._build(architecture, Run("baseline/0", "baseline", "design", seed)).eval()
            with torch.no_grad():
                torch.testing.assert_close(made(x), parent(x), rtol=1e-4, atol=1e-5)
    other = tiny(tmp_path / "run", **NETWORK)
    assert "start" not in make_context(other).settings
    state = build(context.spec, seed=4).state_dict()
    save_file(state, tmp_path / "other.safetensors")
    changed = make_context(tiny(tmp_path / "run", **NETWORK, checkpoint=tmp_path / "other.safetensors"))
    assert changed.digest != context.digest


def test_what_does_not_fit_or_is_undone_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    def refused(match: str, **more: object) -> None:
        with pytest.raises(ConfigError, match=match):
            make_context(tiny(tmp_path / "run", **{**NETWORK, "checkpoint": checkpoint, **more}))

    refused("lacks|is .* not", backbone_arguments={"width": 0.25})
    refused("there is no checkpoint", checkpoint=tmp_path / "none.pt")
    refused("draws all weights anew", recipe="paper")
    refused("draws all weights anew", init="kaiming")
    refused("one set of weights; leave out pretrained", pretrained=True)
    refused("one set of weights; leave out init: parent", init="parent")


def test_every_sentence_says_where_the_trainings_started(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_search(tiny(tmp_path / "run", **NETWORK, checkpoint=checkpoint, candidate=4))
    view = api.run_view(run)
    said = api.answer(view)
    assert len(said) >= 2
    for sentence in said:
        assert sentence.startswith(f"Fine-tuned from the weights in {checkpoint}: ")
    page = api.report(run).read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())
    assert f"Every training started from the weights in {checkpoint}, also those behind" in text
    capsys.readouterr()
    assert main(["status", str(run.folder)]) == 0
    assert f"every training started from the weights in {checkpoint}\n" in capsys.readouterr().out
    fresh = replace(view, start="")
    assert not any("started from" in line or "Fine-tuned" in line for line in api.answer(fresh))


@pytest.mark.slow
def test_a_retraining_says_that_it_starts_elsewhere(tmp_path: Path, checkpoint: Path) -> None:
    run = run_search(tiny(tmp_path / "run", **NETWORK, checkpoint=checkpoint))
    for given, expected in ((None, True), (checkpoint, False)):
        said: list[str] = []
        train(
            run.folder,
            tmp_path / f"out{expected}",
            trial="candidate",
            seeds=1,
            checkpoint=given,
            overrides={"epochs": 1},
            run=tmp_path / f"kept{expected}",
            say=said.append,
        )
        assert (
            any(f"started from {checkpoint}, these start from random weights" in note for note in said)
            == expected
        )
