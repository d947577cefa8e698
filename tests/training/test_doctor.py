"""`reborn-nas doctor` and the plan's look at the device: what is right on this CPU, and that each fault is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from reborn_nas.cli.main import main
from reborn_nas.training.device import selection
from reborn_nas.training.device.selection import describe
from reborn_nas.training.measure import doctor
from reborn_nas.training.measure.doctor import examine


def fail(text: str) -> None:
    raise RuntimeError(text)


def test_a_sound_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in found["checks"]]
    assert found["good"]
    assert names[:2] == ["device", "computes"]
    assert {"training, relu, fp32", "training, reborn, fp32", "training, crelu, fp32", "repeats"} <= set(
        names
    )


def test_a_device_that_computes_wrongly_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        doctor, "probe", lambda place: fail("CUDA error: an illegal memory access was encountered")
    )
    assert main(["doctor", "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "WRONG  computes: CUDA error: an illegal memory access was encountered"
    assert lines[-1] == "1 of 2 checks found something wrong: computes"


@pytest.mark.parametrize(
    ("name", "text"),
    [("training, reborn, fp32", "does not learn"), ("training, relu, fp32", "on the CPU in fp32")],
)
def test_a_training_that_goes_wrong_is_found(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Callable[..., Any] = doctor._train
    calls = []

    def train(kind: str, *arguments: Any) -> Any:
        result = plain(kind, *arguments)
        calls.append(kind)
        first = result.curve[0]["train_loss"]
        if kind == name.split(", ")[1] and len(calls) > 1:  # the very first one is the reference
            result.curve[-1]["train_loss"] = first + 0.1 if "learn" in text else 0.5 * first
        return result

    monkeypatch.setattr(doctor, "_train", train)
    found = {finding.name: finding for finding in examine("cpu")}
    assert not found[name].good
    assert text in found[name].text


def test_the_line_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        name, major, minor = "Tesla T4", 7, 5

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: Card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (12 * 2**30, 15 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (7, 5))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(selection, "driver_version", lambda: "560.35.03")
    expected = "Tesla T4 (sm_75), driver 560.35.03, CUDA 13.0, 12.0 of 15.0 GiB free, trains in fp16"
    assert describe(torch.device("cuda"), "fp16") == expected
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    assert describe(torch.device("cuda"), "fp32").endswith("trains in fp32, TF32 in convolutions")
