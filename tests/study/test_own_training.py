"""A study with a training of one's own: every phase, every way to fail, resume."""

from __future__ import annotations

import gc
import logging.config
import os
import random
import re
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from reborn_nas import Metric
from reborn_nas.errors import ConfigError, RebornError, StudyError
from reborn_nas.records import TrialRecord
from reborn_nas.study.config.config import StudyConfig
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.search import RunResult, run_search
from reborn_nas.study.setup.planning import plan_search
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.objective import Objective
from tests.study.own_task import SOURCE, configured, settings, write


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A study of every phase, judged by an error in degrees."""
    folder = tmp_path_factory.mktemp("whole")
    counts = {
        "baseline": 4,
        "screen": 8,
        "exploration": 4,
        "candidate": 4,
        "retest": 16,
        "control": 0,
        "checks": 0,
    }
    return run_search(configured(folder, **counts))


def of(run: RunResult, phase: str) -> list[TrialRecord]:
    return [record for record in run.records if record.phase == phase]


def test_every_phase_is_trained(whole: RunResult) -> None:
    assert whole.complete
    assert Counter(record.phase for record in whole.records) == {
        "baseline": 4, "screen": 8, "search": 4, "candidate": 4, "confirm": 16,
    }  # fmt: skip
    assert {record.state for record in whole.records} == {"complete"}


def test_the_candidate_has_what_makes_the_error_smaller(whole: RunResult) -> None:
    assert whole.candidate is not None
    assert whole.candidate.choice("act1").name == "reborn"
    assert whole.candidate.choice("dec").name == "original"


def test_parts_are_judged_as_planned(whole: RunResult) -> None:
    parent = next(record for record in of(whole, "candidate") if record.arm == "parent")
    assert parent.accuracy_part == "test"
    assert parent.test_accuracy == parent.accuracy
    assert parent.accuracy is not None
    assert parent.accuracy == pytest.approx(-0.2, abs=0.005)  # 20 degrees of error
    assert parent.extra["validation_score"] - parent.accuracy == pytest.approx(0.0002, rel=1e-3)
    assert {record.accuracy_part for record in of(whole, "confirm")} == {"reserve"}
    assert parent.accuracy_n == parent.test_n == 40
    assert parent.chance == -0.9


def test_the_networks_were_trained_and_further_numbers_kept(whole: RunResult) -> None:
    assert all(record.extra["bias"] > 0.4 for record in whole.records)  # 1 is added to a small start


def test_optuna_is_told_values_and_their_direction(whole: RunResult) -> None:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(whole.folder / "study.journal")))
    study = optuna.load_study(study_name=whole.name, storage=storage)
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.metric_names == ["rmse"]
    assert study.best_value == pytest.approx(14.0, abs=0.5)
    curve = study.best_trial.user_attrs
    assert curve["phase"] in ("screen", "search")


def test_weights_of_the_best_are_kept(whole: RunResult) -> None:
    best = max(of(whole, "search") + of(whole, "screen"), key=lambda record: record.accuracy or -1.0)
    path = whole.folder / best.checkpoint
    assert best.checkpoint
    assert path.is_file()
    assert path.with_suffix(".example").is_file()


def test_the_same_call_goes_on_and_a_change_is_reported(whole: RunResult) -> None:
    folder = whole.folder.parent
    counts = {
        "baseline": 4,
        "screen": 8,
        "exploration": 4,
        "candidate": 4,
        "retest": 16,
        "control": 0,
        "checks": 0,
    }
    again = run_search(configured(folder, **counts))
    assert again.complete
    assert len(again.records) == len(whole.records)
    with pytest.raises(StudyError, match=r'training.version: not set in the study, "2" now'):
        plan_search(configured(folder, version="2", **counts))
    try:
        with pytest.raises(StudyError, match=r'training.files.task.py: "[0-9a-f]{16}" in the study'):
            plan_search(configured(folder, SOURCE + "\nX = 1\n", **counts))
    finally:
        write(folder)
    with pytest.raises(StudyError, match="cannot change within a study"):
        plan_search(configured(folder, metric="rmse:higher", adopt=True, **counts))


def test_the_report_speaks_in_the_metrics_words(whole: RunResult, tmp_path: Path) -> None:
    import pandas as pd

    import reborn_nas as rn
    from reborn_nas.metric import spoken

    page = rn.report(whole, tmp_path / "report").read_text()
    text = " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    assert "Trainings are judged by RMSE, of which smaller is better." in text
    assert re.search(r"The candidate beats its parent in RMSE by \+[56]\.\d{4} degrees \[", text)
    assert "act1 improves RMSE by +5" in text
    assert "It does harm at dec" in text
    assert "RMSE against cost" in text
    for word in ("ccuracy", "percentage points", " pp", " validation images", " test images"):
        assert word not in text, word
    names = [path.name for path in (tmp_path / "report").rglob("*")]
    assert {"rmse_params.png", "curves_rmse.png"} <= set(names)
    assert not [name for name in names if "accuracy" in name]
    heads = [path.read_text().partition("\n")[0] for path in (tmp_path / "report").glob("*.csv")]
    assert not [head for head in heads if "accuracy" in head]
    trials = pd.read_csv(tmp_path / "report" / "trials.csv")
    assert trials["rmse"].between(10, 30).all()
    assert trials["test_rmse"].notna().sum() == 4
    assert set(pd.read_csv(tmp_path / "report" / "sites.csv")["unit"]) == {"degrees"}
    assert 10 < rn.recommend(whole).ci_low < rn.recommend(whole).predicted < 20
    assert spoken().is_accuracy, "nothing is left behind"


def test_a_report_that_was_kept_is_made_again_without_the_run(
    whole: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    import reborn_nas as rn
    from reborn_nas.study.store.reading import load_run

    rn.report(whole, tmp_path / "kept", keep=True)
    text = (tmp_path / "kept" / "run.json").read_text() + (tmp_path / "kept" / "records.csv").read_text()
    assert '"run"' not in text, "no place of this machine"
    monkeypatch.chdir(tmp_path)
    assert rn.report("kept").samefile(Path("kept/report/index.html"))
    for name in ("sites", "trials", "confirmation", "phases"):
        first, again = (pd.read_csv(Path("kept", place, f"{name}.csv")) for place in ("", "report"))
        pd.testing.assert_frame_equal(first.drop(columns="checkpoint", errors="ignore"),
                                      again.drop(columns="checkpoint", errors="ignore"))  # fmt: skip
    assert load_run("kept").complete
    assert load_run("kept").candidate == whole.candidate
    Path("kept", "records.csv").write_text("key,phase\nbaseline/parent/0,baseline\n")
    with pytest.raises(StudyError, match=r"holds a damaged run\.json or records\.csv"):
        rn.report("kept")


def test_a_label_keeps_its_letters() -> None:
    from reborn_nas.report.results.words import capital

    assert [capital(text) for text in ("mIoU", "top-1", "accuracy (test)")] == [
        "mIoU",
        "Top-1",
        "Accuracy (test)",
    ]


def test_status_speaks_in_the_metrics_words(whole: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    from reborn_nas.cli.main import main

    assert main(["status", str(whole.folder)]) == 0
    told = capsys.readouterr().out
    assert "effect, degrees" in told
    assert re.search(r"best observed: \S+, RMSE 1[34]\.\d+ degrees on 40 validation rows", told)
    assert "%" not in told.replace("95 % interval", "").replace("80 % power", "")


def test_where_sites_are_named_others_stay(tmp_path: Path) -> None:
    context = make_context(configured(tmp_path, sites="act*"))
    assert list(context.contrast.factors) == ["act1", "act2"]
    with pytest.raises(ConfigError, match="sites: decoder\\* matches none of the 3 sites"):
        make_context(configured(tmp_path, sites="decoder*"))


def one(folder: Path, source: str, part: str = "validation", **more: Any) -> TrialRecord:
    """The record of one training of `source`."""
    context = make_context(configured(folder, source, **more))
    run = Run("screen/0", "screen", "design", seed=3, part=part)
    return Objective(context, folder / "run")(run, context.contrast.reference(context.spec))


HEAD = SOURCE.split("def train")[0]


def with_train(body: str, evaluate: str = "return {'rmse': formula(model, job)}") -> str:
    return f"{HEAD}def train(model, job):\n    {body}\n\n\ndef evaluate(model, job):\n    {evaluate}\n"


@pytest.mark.parametrize(
    ("evaluate", "reason"),
    [
        ("pass", "evaluate returned None; return the value of rmse on job.part (validation)"),
        ("return 'good'", "evaluate returned rmse is a number, not 'good'"),
        ("return {'loss': 1.0}", "evaluate returned loss, not rmse"),
        ("return {}", "evaluate returned an empty dict, not rmse"),
        ("return [1.0, 2.0]", "evaluate returned rmse is a number, not list"),
        ("return {'rmse': 1.0, 'picture': 'a'}", "evaluate returned picture is a number"),
        ("return {'rmse': 1.0, 'n': 2.5}", "n is the number of rows"),
        ("raise ValueError('no such file')", "ValueError: no such file"),
        ("import sys; sys.exit(3)", "TrainingError: it called sys.exit(3)"),
        ("return torch.zeros(2, device='meta')", "one number, not Tensor of 2 values"),
    ],
)
def test_what_an_evaluation_may_not_return(evaluate: str, reason: str, tmp_path: Path) -> None:
    record = one(tmp_path, with_train("pass", evaluate))
    assert record.state == "failed"
    assert record.accuracy is None
    assert reason in record.reason


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "torch.tensor(float('nan'))"])
def test_a_value_that_is_not_finite_counts_as_the_worst(value: str, tmp_path: Path) -> None:
    record = one(tmp_path, with_train("pass", f"return {value}"))
    assert (record.state, record.accuracy) == ("diverged", -0.9)
    record = one(tmp_path, with_train("pass", f"return {value}"), metric="rmse:lower")
    assert record.state == "failed"
    assert record.accuracy is None
    assert "worst value" in record.reason


def test_a_number_alone_and_one_function_are_enough(tmp_path: Path) -> None:
    source = f"{HEAD}def train(model, job):\n    return formula(model, job)\n"
    record = one(tmp_path, source, "test", evaluate=None)
    assert record.state == "complete"
    assert record.test_accuracy == record.accuracy
    assert "validation_score" not in record.extra
    assert not record.checkpoint
    context = make_context(configured(tmp_path, source, evaluate=None))
    assert any("nothing shows that the test part is read once" in note for note in context.notes)


def test_a_function_of_the_model_alone(tmp_path: Path) -> None:
    record = one(tmp_path, f"{HEAD}def train(model):\n    return 12.0\n", evaluate=None)
    assert record.accuracy == pytest.approx(-0.12)


def test_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    body = (
        "import os, random, numpy; torch.manual_seed(0); random.seed(0); numpy.random.seed(0); os.chdir('/'); "
        "torch.set_num_threads(2); torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); "
        "import signal, warnings; warnings.simplefilter('error'); "
        "[signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]"
    )
    handled = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    filters = list(warnings.filters)
    before = (
        Path.cwd(),
        torch.get_num_threads(),
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1],  # noqa: NPY002
    )
    record = one(tmp_path, with_train(body, "return float(torch.rand(()))"))
    assert record.state == "complete"
    assert (Path.cwd(), torch.get_num_threads()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert random.getstate() == before[3]
    assert (np.random.get_state()[1] == before[4]).all()  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == handled
    assert warnings.filters == filters


def variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("REBORN_NAS_")}


SETTINGS = {
    "torch.set_num_threads(3)": torch.get_num_threads,
    "torch.set_default_dtype(torch.float64)": torch.get_default_dtype,
    "torch.set_default_device('meta')": torch.get_default_device,
    "torch.set_float32_matmul_precision('medium')": torch.get_float32_matmul_precision,
    "torch.use_deterministic_algorithms(True)": torch.are_deterministic_algorithms_enabled,
    "torch.autograd.set_detect_anomaly(True)": torch.is_anomaly_enabled,
    "torch.set_autocast_enabled('cpu', True)": lambda: torch.is_autocast_enabled("cpu"),
    "torch.backends.cudnn.benchmark = True": lambda: torch.backends.cudnn.benchmark,
    "numpy.seterr(all='raise')": np.geterr,
    "os.environ.update(OMP_NUM_THREADS='7', OWN_THING='1')": variables,
    "del os.environ['PATH']": variables,
    "logging.disable(logging.CRITICAL)": lambda: logging.root.manager.disable,
    "logging.config.dictConfig({'version': 1})": lambda: logging.getLogger("reborn_nas.study").disabled,
    "logging.getLogger('reborn_nas').setLevel(99)": lambda: logging.getLogger("reborn_nas").level,
    "logging.basicConfig(level=1, force=True)": lambda: (logging.root.level, list(logging.root.handlers)),
    "sys.stdout = sys.stderr = None": lambda: (sys.stdout, sys.stderr),
    "gc.disable()": gc.isenabled,
}


@pytest.mark.parametrize("change", SETTINGS)
def test_settings_of_the_process_are_put_back(change: str, tmp_path: Path) -> None:
    """Each would change the numbers of the trainings after it, or what is known of them."""
    read = SETTINGS[change]
    before = read()
    body = f"import gc, logging.config, numpy, os, sys; {change}; import json; job.log('changed')"
    record = one(tmp_path, with_train(body, "return 12.0"))
    assert record.state == "complete", record.reason
    assert read() == before


def test_seeds_decide_what_a_training_draws(tmp_path: Path) -> None:
    source = with_train(
        "import random, numpy; model.x = float(torch.rand(())) + random.random() + numpy.random.rand()",
        "return model.x",
    )
    assert one(tmp_path, source).accuracy == one(tmp_path, source).accuracy


def test_a_stop_that_the_function_swallows_still_counts(tmp_path: Path) -> None:
    from reborn_nas.study.trainer.door import Stopped

    body = "\n    ".join(
        ["for epoch in (1, 2):", "  try:", "    job.report(epoch=epoch)", "  except Exception:", "    pass"]
    )
    context = make_context(configured(tmp_path, with_train(body)))
    objective = Objective(context, tmp_path / "run")

    def stop(epoch: int, row: object) -> None:
        raise Stopped

    run = Run("screen/0", "screen", "design", seed=3)
    with pytest.raises(Stopped):
        objective(run, context.contrast.reference(context.spec), stop)


def test_a_loop_that_leaves_by_should_stop_is_not_over(tmp_path: Path) -> None:
    from reborn_nas.study.trainer.door import Stopped

    context = make_context(
        configured(tmp_path, with_train("job.save(epoch=1)\n    if job.should_stop: return"))
    )
    objective = Objective(context, tmp_path / "run", stopping=lambda: True)
    with pytest.raises(Stopped):
        objective(Run("screen/0", "screen", "design", seed=3), context.contrast.reference(context.spec))
    assert list((tmp_path / "run" / "states").iterdir()), "the next attempt goes on from it"


def test_an_interrupted_training_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    from reborn_nas.study.trainer.door import Stopped

    body = "\n    ".join([
        "state = job.load() or {'epoch': 0}",
        "model.first = state['epoch']",
        "for epoch in range(state['epoch'] + 1, job.epochs + 1):",
        "  job.save(epoch=epoch, model=model.state_dict())",
        "  job.report(epoch=epoch, rmse=10.0)",
    ])  # fmt: skip
    source = with_train(body, "return float(model.first)")
    context = make_context(configured(tmp_path, source, epochs=3))
    run, architecture = Run("screen/0", "screen", "design", seed=3), context.contrast.reference(context.spec)

    def stop(epoch: int, row: object) -> None:
        if epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        Objective(context, tmp_path / "run", stopping=lambda: True)(run, architecture, stop)
    record = Objective(context, tmp_path / "run")(run, architecture)
    assert record.accuracy == pytest.approx(-0.02)
    assert record.extra["resumed_epochs"] == 2
    assert record.epochs == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train": "absent.py:train"}, "train: file 'absent.py' does not exist"),
        ({"train": "no.such.module:train"}, "train: no Python file is found for the module 'no.such.module'"),
        ({"evaluate": "{}:judge"}, "evaluate: unknown function in .*'judge'"),
        ({"example_inputs": "{}:make"}, "holds no tensor"),
        ({"example_inputs": None}, "example_inputs: a network of your own is run with an example"),
        ({"metric": None}, "metric: a training of your own needs one"),
        ({"metric": "rmse"}, "rmse:higher, or smaller ones, rmse:lower"),
        ({"learning_rate": 0.1}, "learning_rate: belongs to the built-in training"),
        ({"pruner": "halving", "objectives": "rmse,params"}, "compares trainings by one number"),
        ({"sampler": "nsga2", "metric": "rmse:lower"}, "give the metric 'rmse' its worst value"),
        ({"init": "parent"}, "init: belongs to the built-in training"),
        ({"max_memory": "1GB"}, "max_memory: belongs to the built-in training"),
        ({"train": "task.py"}, "train: path/to/file.py:function"),
    ],
)
def test_faults_are_found_before_any_training(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    given = {key: value.format(path) if isinstance(value, str) else value for key, value in more.items()}
    with pytest.raises(ConfigError, match=message):
        make_context(configured(tmp_path, **given))


def test_settings_of_an_own_training_need_one() -> None:
    with pytest.raises(
        ConfigError, match="evaluate: belongs to a training of your own; name its function with train"
    ):
        StudyConfig(evaluate="task.py:evaluate")


def test_a_file_that_fails_as_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be imported: ZeroDivisionError"):
        make_context(configured(tmp_path, SOURCE + "\n1 / 0\n"))


def test_functions_themselves(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(model: Any, job: Any) -> float:
        seen.append(job.seed)
        return 12.0

    given = settings(tmp_path, train=train, evaluate=None, metric=Metric("rmse", higher_is_better=False))
    record = Objective(make_context(StudyConfig(**given)), tmp_path / "run")(
        Run("screen/0", "screen", "design", seed=3), make_context(StudyConfig(**given)).contrast.reference(
            make_context(StudyConfig(**given)).spec
        ),
    )  # fmt: skip
    assert seen == [3]
    assert record.accuracy == pytest.approx(-0.12)
    with pytest.raises(ConfigError, match=r"train: .* cannot be imported by name"):
        make_context(StudyConfig(**{**given, "workers": 2}))


def test_a_function_of_another_process_is_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give it again from Python"):
        make_context(configured(tmp_path, train="here:train_gone"))


def test_a_study_of_which_every_training_fails_ends_early(tmp_path: Path) -> None:
    config = configured(tmp_path, with_train("raise RuntimeError('no GPU here')"), trials=40)
    with pytest.raises(
        RebornError, match="all 8 trainings ended without a result: RuntimeError: no GPU here"
    ):
        run_search(config)


@pytest.mark.slow
def test_a_pruner_compares_values_in_their_direction(tmp_path: Path) -> None:
    body = "\n    ".join([
        "for epoch in range(1, job.epochs + 1):",
        "  job.report(epoch=epoch, rmse=formula(model, job))",
    ])  # fmt: skip
    counts = {
        "baseline": 0,
        "screen": 0,
        "exploration": 40,
        "candidate": 0,
        "retest": 0,
        "control": 0,
        "checks": 0,
    }
    config = configured(
        tmp_path, with_train(body), pruner="median", sampler="random", epochs=9, seed=1, **counts
    )
    run = run_search(config)
    pruned = [record for record in run.records if record.state == "pruned"]
    done = [record for record in run.records if record.state == "complete"]
    assert pruned
    assert done
    assert "degrees" in pruned[0].reason
    worst = min(record.accuracy or 0.0 for record in pruned)
    assert worst <= min(record.accuracy or 0.0 for record in done) + 0.01, "the larger errors were stopped"
    assert np.mean([r.accuracy for r in pruned]) < np.mean([r.accuracy for r in done])


def test_reports_with_different_numbers_make_one_curve(tmp_path: Path) -> None:
    import pandas as pd

    body = "job.report(epoch=1, loss=2.0)\n    job.report(epoch=2, rmse=11.0, extra=torch.tensor(3))"
    record = one(tmp_path, with_train(body, "return {'rmse': 10.0, f'k{job.seed}': 1.0}"))
    curve = pd.read_csv(tmp_path / "run" / record.curve)
    assert list(curve.columns) == ["epoch", "loss", "rmse", "extra"]
    assert curve["rmse"].tolist()[1] == 11.0
    assert record.extra["k3"] == 1.0


@pytest.mark.slow
def test_a_training_that_reports_nothing_is_watched_only_where_it_is_asked_for(tmp_path: Path) -> None:
    source = with_train("import time; time.sleep(2.5)", "return 12.0")
    counts = {
        "baseline": 2,
        "screen": 0,
        "exploration": 0,
        "candidate": 0,
        "retest": 0,
        "control": 0,
        "checks": 0,
    }
    calm = run_search(configured(tmp_path, source, **counts))
    assert [record.state for record in calm.records] == ["complete"] * 2
    watched = configured(
        tmp_path, with_train("import time; time.sleep(60)"), run=tmp_path / "b", hang_after=0.3, **counts
    )
    with pytest.raises(StudyError, match="no epoch ended for 0 s"):
        run_search(watched)
