"""A study that is judged by another metric than the accuracy: direction, words, errors, classes, refusals."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import reborn_nas as rn
from reborn_nas.cli.main import main
from reborn_nas.errors import ConfigError
from reborn_nas.metric import Metric
from reborn_nas.metric.classification import METRICS
from reborn_nas.records import standard_error
from reborn_nas.study import StudyConfig, load_run, plan_search
from reborn_nas.study.search import RunResult
from reborn_nas.study.store.storage import connect

COUNTS = {"common": 150, "rare": 20, "scarce": 18, "odd": 16}


def photos(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    """Grey noise; a bright corner names the class."""
    draws = np.random.default_rng(0)
    for k, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = draws.normal(100, 20, (8, 8))
            pixels[4 * (k // 2) :, 4 * (k % 2) :][:4, :4] += 80
            Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(root / name / f"{i}.png")
    return root


def settings(root: Path, **changes: Any) -> dict[str, Any]:
    given = {
        "backbone": "convnet5", "backbone_arguments": {"width": 0.125}, "dataset": f"folder:{root}", "epochs": 3,
        "metric": "log_loss", "baseline": 4, "screen": 16, "exploration": 3, "candidate": 4, "retest": 0, "control": 0,
        "checks": 0, "workers": 1, "device": "cpu", "threads": 1, "learning_rate": 0.02,
    }  # fmt: skip
    return {**given, **changes}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def losses(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return rn.search(**settings(data, run=tmp_path_factory.mktemp("losses") / "run"))


def test_a_smaller_loss_is_better_wherever_networks_are_chosen(losses: RunResult) -> None:
    """Optuna minimises it, and the best observed training is the one whose validation loss is smallest."""
    import optuna

    info = load_run(losses.folder)
    metric = info.metric
    assert metric == METRICS["log_loss"]
    study = optuna.load_study(study_name=losses.name, storage=connect(losses.plan.config.storage_url))
    assert study.direction.name == "MINIMIZE"
    assert study.metric_names == ["log_loss"]
    explored = [r for r in info.records if r.phase in ("screen", "search") and r.state == "complete"]
    values = {r.key: metric.value(float(r.accuracy or 0)) for r in explored}
    assert all(0 < value < 10 for value in values.values())
    from reborn_nas.records import best_observed

    best = best_observed(info.records)
    assert best is not None
    assert values[best.key] == pytest.approx(
        min(values.values()), abs=0.011
    )  # ranked by four digits of the score
    assert study.best_value == pytest.approx(min(values.values()), abs=1e-9)


def test_records_hold_scores_with_their_errors_and_what_a_guess_has(losses: RunResult) -> None:
    tested = [record for record in losses.records if record.phase == "candidate"]
    info = load_run(losses.folder)
    for record in tested:
        assert record.extra["se"] > 0
        assert standard_error(record, info.metric) == pytest.approx(record.extra["se"] / 100)
        assert record.chance is not None
        assert 0.5 < info.metric.value(record.chance) < np.log(4)  # the frequencies' entropy
        curve = info.curve(record.key)
        assert curve is not None
        assert record.extra["validation_score"] == pytest.approx(-curve["validation_log_loss"].iloc[-1] / 100)
        assert curve["validation_log_loss"].iloc[-1] == pytest.approx(curve["validation_loss"].iloc[-1])


def test_the_report_has_each_class_and_no_foreign_words(losses: RunResult, tmp_path: Path) -> None:
    page = rn.report(losses, tmp_path / "report").read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())
    assert "imbalanced: 'common'" in text
    assert "either log loss would move by about" in text
    assert "smaller is better" in text
    before, _, after = text.partition("Class by class: the candidate and its parent The share")
    end = after.index("interval for all classes")
    assert "pp" in after[:end]
    for word in ("accuracy", "percentage point", " pp "):
        assert word not in (before + after[end:]).replace("balanced_accuracy", ""), word
    table = pd.read_csv(tmp_path / "report" / "classes.csv")
    assert list(table["class"]) == sorted(COUNTS)
    for arm in ("parent", "candidate"):
        records = [r for r in losses.records if r.phase == "candidate" and r.arm == arm]
        files = [losses.folder / "classes" / f"{r.key.replace('/', '-')}.csv" for r in records]
        shares = np.array([(t["right"] / t["images"]).to_list() for t in map(pd.read_csv, files)])
        assert table[f"{arm}_recall"].to_list() == pytest.approx(shares.mean(axis=0).tolist())
    assert (table["parent_low"] <= table["parent_recall"]).all()
    assert (table["parent_recall"] <= table["parent_high"]).all()


def test_the_export_and_a_retraining_speak_of_the_loss(
    losses: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(losses.folder), "--out", str(tmp_path / "export")]) == 0
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| test \| \d+ \| \d\.\d{4} nats \| \d\.\d{4} nats – \d\.\d{4} nats \|", card)
    assert "| log loss over seeds | " in card
    assert "ccuracy" not in card
    capsys.readouterr()
    arguments = [
        "train",
        "--architecture",
        str(losses.folder),
        "--out",
        str(tmp_path / "trained"),
        "--seeds",
        "2",
    ]
    assert main([*arguments, "--epochs", "1", "--run", str(tmp_path / "train"), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    found = re.search(r"test log loss (\d\.\d{4}) nats ± (\d\.\d{4}) nats \(mean ± sd of 2 trainings", told)
    assert found is not None, told
    each = [json.loads((tmp_path / "train" / f"seed-{k}.json").read_text()) for k in (0, 1)]
    values = [-100 * one["score"] for one in each]
    assert float(found[1]) == pytest.approx(np.mean(values), abs=1e-4)
    assert float(found[2]) == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert "ccuracy" not in (tmp_path / "trained" / "README.md").read_text(encoding="utf-8")


def test_another_metric_is_another_study(losses: RunResult, data: Path) -> None:
    given = settings(data, run=losses.folder)
    for metric in ("macro_f1", None):
        with pytest.raises(rn.errors.RebornError, match="metric"):
            plan_search(StudyConfig(**{**given, "metric": metric, "adopt": True}))
    assert plan_search(StudyConfig(**given), measure=False).done == 27


@pytest.mark.parametrize("name", [one for one in METRICS if one not in ("log_loss", "accuracy", "top5")])
def test_a_training_is_scored_by_its_metric(name: str, data: Path, tmp_path: Path) -> None:
    """One training of each: the score is the value of the network's own logits on the test images."""
    from reborn_nas.architecture import Architecture
    from reborn_nas.study.plan.designs import Run
    from reborn_nas.study.setup.resolve import make_context
    from reborn_nas.study.trainer.objective import Objective
    from tests.training.test_scores import by_scikit_learn

    context = make_context(StudyConfig(**settings(data, metric=name, run=tmp_path)))
    run = Run("candidate/parent/0", "candidate", "parent", 5, part="test")
    record = Objective(context, tmp_path)(run, Architecture(context.spec, {}))
    assert record.state == "complete", record.reason
    from safetensors.torch import load_file

    from reborn_nas.backbone import build
    from reborn_nas.training import evaluate

    model = build(context.spec, device="cpu")
    model.load_state_dict(load_file(tmp_path / record.checkpoint))
    found = evaluate(
        model, context.images, context.images.test, keep_logits=True, precision=context.precision
    )
    assert found.logits is not None
    expected = by_scikit_learn(name, found.logits, context.images.labels[context.images.test])
    assert context.metric.value(float(record.test_accuracy or 0)) == pytest.approx(expected, abs=1e-6)
    assert context.metric.worst is not None
    assert record.chance == context.metric.worst_score


def test_the_printed_command_names_the_metric_among_the_objectives(data: Path, tmp_path: Path) -> None:
    from reborn_nas.study.config.flags import needed_settings, resume_command

    config = StudyConfig(**settings(data, run=tmp_path, objectives="log_loss,params"))
    assert config.objectives == ("accuracy", "params")
    assert "--objectives log_loss,params" in resume_command(config)
    again = StudyConfig(**needed_settings(config))
    assert (again.objectives, again.metric) == (config.objectives, config.metric)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("top5", "with 4 classes the right one is always among the first 5"),
        ("log_los", r"unknown metric 'log_los'; did you mean log_loss\?"),
        ("iou:higher", "is judged by one of accuracy, balanced_accuracy"),
        (
            Metric("auroc", higher_is_better=True),
            "by its name; auroc:higher belongs to a training of your own",
        ),
        (7, "a metric is"),
    ],
)
def test_metrics_that_are_refused(metric: Any, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_search(StudyConfig(**settings(data, metric=metric, run=tmp_path)), measure=False)


def test_the_accuracy_by_name_is_the_default_study(data: Path, tmp_path: Path) -> None:
    from reborn_nas.study.setup.resolve import make_context

    named, default = (
        make_context(StudyConfig(**settings(data, metric=metric, run=tmp_path)))
        for metric in ("accuracy", None)
    )
    assert named.digest == default.digest
    assert named.metric == default.metric
    assert torch.equal(named.images.labels, default.images.labels)
