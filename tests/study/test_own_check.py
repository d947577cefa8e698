"""A training of one's own tried before a study: what holds, and every promise that one may break."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import reborn_nas as rn
from reborn_nas.cli.main import main
from reborn_nas.errors import ConfigError
from tests.study.own_task import SOURCE, configured, settings

HEAD = SOURCE.split("def train")[0]


def source(train: str, evaluate: str = "return formula(model, job)") -> str:
    return f"{HEAD}def train(model, job):\n    {train}\n\n\ndef evaluate(model, job):\n    {evaluate}\n"


TRAINED = "model.head.bias.data += 1.0"
SPLIT = "return formula(model, job) + job.split"


def test_a_training_that_holds_its_promises(tmp_path: Path) -> None:
    found = rn.check_training(configured(tmp_path, source(TRAINED, SPLIT)))
    assert found.ok, str(found)
    assert [check.name for check in found.checks] == [
        "a training runs and is judged",
        "the network that is passed in is trained",
        "the network is left where it was",
        "it trains for job.epochs",
        "the same seed gives the same value",
        "another split gives another value",
        "the test part gives another value than the validation part",
        "the network with reborn at every site trains too",
        "evaluate leaves the network as it is",
    ]
    assert found.seconds is not None
    assert "1 of 8 parameters changed" in str(found)
    assert not (tmp_path / "run").exists(), "nothing is kept"


@pytest.mark.parametrize(
    ("train", "evaluate", "said"),
    [
        ("pass", SPLIT, "no parameter changed: train the model that train is called with"),
        (TRAINED, "import time; return time.perf_counter() % 50", "draw from the generators that are seeded"),
        (TRAINED, "return 12.0", "train on job.indices"),
        (TRAINED, SPLIT.replace("formula(model, job)", "12.0"), "judge by job.indices(n)[job.part]"),
        (TRAINED + "; raise ValueError('broken')", SPLIT, "ValueError: broken"),
        (TRAINED, "pass", "evaluate returned None"),
        ("import sys; sys.exit(1)", SPLIT, "it called sys.exit(1)"),
        (
            TRAINED + "\n    if reborn(job, 'dec'): raise ValueError('too wide')",
            SPLIT,
            "ValueError: too wide",
        ),
        (TRAINED, "return float('nan')", "returned rmse nan"),
        (
            TRAINED + "\n    job.report(epoch=3)",
            SPLIT,
            "it reported epoch 3 with a budget of 1: loop over range(job.epochs)",
        ),
        (
            TRAINED + "; model.to('meta')",
            SPLIT,
            "train left the network on the device meta, where it has no weights",
        ),
        (TRAINED, "model.train(); model(example() + 1); " + SPLIT, "begin with model.eval()"),
    ],
)
def test_what_a_study_could_not_rely_on(train: str, evaluate: str, said: str, tmp_path: Path) -> None:
    found = rn.check_training(configured(tmp_path, source(train, evaluate)))
    assert not found.ok
    assert any(said in check.said for check in found.checks if not check.good), str(found)


def test_what_was_trained_and_frozen_afterwards_was_trained(tmp_path: Path) -> None:
    found = rn.check_training(configured(tmp_path, source(TRAINED + "; model.requires_grad_(False)", SPLIT)))
    assert found.ok, str(found)
    assert "1 of 8 parameters changed" in str(found)
    assert "it reports no epoch, so it is not watched for hanging" in str(found)


def test_the_budget_is_one_epoch(tmp_path: Path) -> None:
    body = f"{TRAINED}\n    assert job.epochs == 1"
    assert rn.check_training(configured(tmp_path, source(body, SPLIT), epochs=300)).ok


def test_one_function_is_tried_on_both_parts(tmp_path: Path) -> None:
    body = f"{TRAINED}\n    return formula(model, job) + job.split"
    assert rn.check_training(configured(tmp_path, source(body), evaluate=None)).ok


def test_the_built_in_training_needs_no_check() -> None:
    with pytest.raises(ConfigError, match="no training of your own to check"):
        rn.check_training()


def test_a_dry_run_tries_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(tmp_path, source("pass", SPLIT))
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["search", *words, "--dry-run"]) == 1
    told = capsys.readouterr().out
    assert "FAIL  the network that is passed in is trained" in told
    assert "of which smaller is better" in told
    settings(tmp_path, source(TRAINED, SPLIT))
    assert main(["search", *words, "--sites", "act*", "--trials", "40", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "question: reborn against original, at each of 2 of the 3 sites\n" in told
    assert re.search(
        r"\nat that rate 40 trainings take \S+ \w+ one after the other, where one of 2 epochs takes 2 times as long\n",
        told,
    )
    assert main(["search", *words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["ok"]
    assert not (tmp_path / "run").exists()


def test_where_one_epoch_teaches_nothing_the_whole_budget_tells(tmp_path: Path) -> None:
    value = "return 90.0 if job.epochs == 1 else formula(model, job) + job.split"
    assert rn.check_training(configured(tmp_path, source(TRAINED, value), epochs=3)).ok
