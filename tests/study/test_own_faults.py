"""Functions of a user's own that misbehave, and machines that fail under them: a clear message or a handled run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import reborn_nas as rn
from reborn_nas.errors import RebornError
from reborn_nas.records import TrialRecord
from reborn_nas.study import load_records
from reborn_nas.study.plan.designs import Run
from reborn_nas.study.search import run_search
from reborn_nas.study.setup.resolve import make_context
from reborn_nas.study.trainer.door import Stopped
from reborn_nas.study.trainer.objective import Objective
from tests.study.own_task import configured
from tests.study.test_own_training import one, with_train

NOTHING = dict.fromkeys(("screen", "exploration", "candidate", "retest", "control", "checks"), 0)


def lines(*body: str) -> str:
    return "\n    ".join(body)


def attempt(
    folder: Path,
    source: str,
    job: Run | None = None,
    stopping: Any = None,
    reborn: bool = False,
    **more: Any,
) -> TrialRecord:
    context = make_context(configured(folder, source, **more))
    run = job or Run("screen/0", "screen", "design", seed=3)
    objective = Objective(context, Path(str(context.config.run)), stopping or (lambda: False))
    levels = dict.fromkeys(context.contrast.factors, context.contrast.high.default) if reborn else {}
    return objective(run, context.contrast.architecture(context.spec, levels))


# interruptions that the function catches


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs signals")
def test_a_hanging_training_that_catches_its_interruption_has_failed(tmp_path: Path) -> None:
    body = lines(
        "import time",
        "job.report(epoch=1)",
        "try: time.sleep(60)",
        "except Exception: pass",
    )
    with pytest.raises(RebornError, match="HungError: no epoch ended for 0 s"):
        run_search(configured(tmp_path, with_train(body), hang_after=0.3, baseline=2, **NOTHING))


def test_a_training_that_catches_the_second_ctrl_c_has_no_result(tmp_path: Path) -> None:
    body = lines(
        "import os, signal, pathlib, time",
        f"flag = pathlib.Path({str(tmp_path / 'interrupted')!r})",
        "if flag.exists(): return",
        "flag.touch()",
        "try:",
        "  for _ in range(2): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.05)",
        "except BaseException: pass",
    )
    config = configured(tmp_path, with_train(body), baseline=2, **NOTHING)
    first = run_search(config)
    assert (tmp_path / "interrupted").exists()
    assert first.records == ()
    assert not first.complete
    again = run_search(config)
    assert [record.state for record in again.records] == ["complete"] * 2


def test_a_training_that_interrupts_itself_each_time_has_failed(tmp_path: Path) -> None:
    """It was given back and taken up again for ever."""
    with pytest.raises(RebornError, match=r"it raised KeyboardInterrupt\(\)"):
        run_search(configured(tmp_path, with_train("raise KeyboardInterrupt"), baseline=2, **NOTHING))


# what a function does to its process, its network and its output


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import sys; sys.exit(3)", r"it called sys\.exit\(3\)"),
        ("raise SystemExit", r"it called sys\.exit\(None\)"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import torch; torch.zeros(1, device='cuda')", "cuda|CUDA|NVIDIA"),
        ("model.new = nn.Linear(2, 2)", "other parameters, such as new.bias: train the network that it is called with"),
        ("model.conv1 = nn.Identity()", "other parameters, such as conv1.bias"),
        ("job.report(epoch=1, rmse={'a': 1})", "report: rmse is a number"),
        ("job.report(epoch=0)", "epoch is a whole number from 1 on"),
        ("job.save(model=model)", "keeps tensors, arrays, numbers, text"),
        ("job.indices(3)", "3 rows cannot be divided"),
    ],
)  # fmt: skip
def test_what_a_training_may_not_do_is_said(body: str, reason: str, tmp_path: Path) -> None:
    if "cuda" in body and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    record = one(tmp_path, with_train(body))
    assert record.state == "failed"
    import re

    assert re.search(reason, record.reason), record.reason


def test_what_a_training_may_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Print much, leave a thread and a process behind, put other weights in place, return a NumPy number or much."""
    body = lines(
        "import subprocess, sys, threading, time",
        "print('x' * 100_000, file=sys.stderr); print('y' * 100_000)",
        "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3)'])",
        "model.head = nn.Conv2d(4, 1, 1)",
    )
    many = (
        "import numpy; return {'rmse': numpy.float32(12.5), **{f'k{i}': numpy.int64(i) for i in range(3000)}}"
    )
    record = one(tmp_path, with_train(body, many))
    assert record.state == "complete"
    assert record.accuracy == pytest.approx(-0.125)
    assert record.extra["k2999"] == 2999
    assert capfd.readouterr().out.count("y") >= 100_000


def test_an_evaluation_that_changes_the_network_is_found_before_the_study(tmp_path: Path) -> None:
    forgetful = "model.head.bias.data += 1; return {'rmse': formula(model, job)}"
    found = rn.check_training(configured(tmp_path, with_train("job.report(epoch=1)", forgetful)))
    (check,) = [one for one in found.checks if one.name == "evaluate leaves the network as it is"]
    assert not check.good
    assert "it changed head.bias; begin with model.eval()" in check.said


@pytest.mark.slow
def test_a_function_that_ends_its_process_loses_no_study(tmp_path: Path) -> None:
    """`os._exit` in the process of the search itself; the same command goes on."""
    flag = tmp_path / "left"
    body = lines("import os, pathlib", f"flag = pathlib.Path({str(flag)!r})",
                 "if not flag.exists(): flag.touch(); os._exit(9)")  # fmt: skip
    path = configured(tmp_path, with_train(body)).backbone
    assert path is not None
    file = str(path).partition(":")[0]
    words = ["search", "--backbone", f"{file}:make", "--train", f"{file}:train", "--evaluate", f"{file}:evaluate",
             "--example-inputs", f"{file}:example", "--metric", "rmse:lower", "--epochs", "2", "--workers", "1",
             "--baseline", "2", "--screen", "0", "--search", "0", "--candidate", "0", "--confirm", "0",
             "--control", "0", "--checks", "0", "--device", "cpu", "--yes", "--run", str(tmp_path / "run")]  # fmt: skip
    codes = [
        subprocess.run(
            [sys.executable, "-m", "reborn_nas.cli.main", *words], capture_output=True, check=False
        ).returncode
        for _ in range(2)
    ]
    assert codes == [9, 0]
    assert [record.state for record in load_records(tmp_path / "run")] == ["complete"] * 2


# memory, limits, the second rate, buckets


@pytest.mark.parametrize(
    "error",
    [
        "torch.OutOfMemoryError('CUDA out of memory.')",
        "RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",
    ],
)
def test_out_of_memory_is_tried_once_more_with_less(error: str, tmp_path: Path) -> None:
    body = lines(
        "job.calls = train.calls = getattr(train, 'calls', 0) + 1", f"if train.calls % 2: raise {error}"
    )
    record = attempt(tmp_path, with_train(body), reborn=True)
    assert record.state == "complete", record.reason
    assert record.extra["activation_checkpointing"] == 1.0
    record = attempt(tmp_path, with_train(f"raise {error}"), reborn=True)
    assert record.state == "failed"
    assert "out of memory" in record.reason
    record = attempt(tmp_path, with_train(body))
    assert "the network has no activation checkpointing to try again with" in record.reason


@pytest.mark.parametrize("limit", [{"max_macs": "1.01x"}, {"max_latency": "1e-9s"}])
def test_limits_hold_by_the_example_inputs(limit: dict[str, str], tmp_path: Path) -> None:
    counts = {**NOTHING, "baseline": 2, "exploration": 3}
    run = run_search(configured(tmp_path, sampler="random", **counts, **limit))
    found = [record for record in run.records if record.phase == "search"]
    assert found
    (name,) = limit
    for record in found:
        if name == "max_latency":
            assert record.state == "rejected"
            assert "latency" in record.reason
        else:
            assert record.state == "rejected" or "reborn" not in {*record.parameters.values()}


def test_the_second_rate_reaches_the_function(tmp_path: Path) -> None:
    run = Run("checks/0", "checks", "design", seed=3, rate=0.5)
    source = with_train("model.rate = job.rate", "return {'rmse': 10.0 * model.rate}")
    record = attempt(tmp_path, source, run)
    assert record.accuracy == pytest.approx(-0.05)
    assert record.extra["rate"] == 0.5


def test_a_state_in_a_bucket_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    body = lines(
        "state = job.load() or {'epoch': 0, 'model': model.state_dict()}",
        "model.load_state_dict(state['model'])",
        "model.first = state['epoch']",
        "for epoch in range(state['epoch'] + 1, job.epochs + 1):",
        "  with torch.no_grad(): model.head.bias += 1",
        "  job.save(epoch=epoch, model=model.state_dict())",
        "  if job.should_stop: return",
    )
    source = with_train(body, "return {'rmse': 10.0, 'first': model.first, 'bias': float(model.head.bias)}")
    with moto.mock_aws():
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="states")
        more = {"artifacts": "s3://states/here", "epochs": 3}
        with pytest.raises(Stopped):
            attempt(tmp_path, source, stopping=lambda: True, **more)
        assert client.list_objects_v2(Bucket="states")["KeyCount"] == 1
        record = attempt(tmp_path, source, run=tmp_path / "of another machine", **more)
    assert record.extra["first"] == 1
    assert 2.4 < record.extra["bias"] < 3.6  # three epochs, from a small start
    assert record.extra["resumed_epochs"] == 1


@pytest.mark.slow
def test_two_processes_take_functions_by_name(tmp_path: Path) -> None:
    """Spawned, each imports the functions; both print, and each result is the one that a single process gets."""
    body = lines("print('epoch', job.seed)", "for epoch in (1, 2): job.report(epoch=epoch, rmse=11.0)")
    counts = {**NOTHING, "baseline": 4}
    values = []
    for workers in (1, 2):
        config = configured(
            tmp_path, with_train(body), workers=workers, run=tmp_path / str(workers), **counts
        )
        run = run_search(config)
        assert run.complete
        values.append({record.key: record.accuracy for record in run.records})
    assert values[0] == values[1]
