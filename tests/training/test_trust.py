"""What a GPU has to prove before it is trusted; each test is rehearsed on the CPU with stand-ins, in the slow run.

On a GPU: `python -m pytest -m gpu tests/training`. The stand-in for CUDA's graphs writes a step down operation by
operation and replays that alone.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import reborn_nas as rn
from reborn_nas.data import split
from reborn_nas.errors import DeviceLostError
from reborn_nas.training import Recipe, TrainingResult, evaluation, loop, train
from reborn_nas.training.device.selection import check_device, is_out_of_memory
from reborn_nas.training.measure.doctor import examine
from reborn_nas.training.step.graph import Recorder
from reborn_nas.training.step.step import TrainingStep
from tests.benchmarks.networks import MIXED, pictures
from tests.training import test_hidden_state as own
from tests.training.test_recorded import Recording
from tests.training.toys import Kept, small_net, squares

NETWORKS = ("resnet18", "mobilenetv3_small_050", "convnext_atto", "densenet121")
FORMS = ("relu", "reborn", "crelu", "mixed")


@dataclass(frozen=True)
class Place:
    """Where a test runs."""

    device: str

    def recorder(self) -> Recorder | None:
        """CUDA's own, or the stand-in."""
        return None if self.device == "cuda" else Recording()

    def memory(self) -> int:
        """Bytes that tensors hold."""
        gc.collect()
        if self.device == "cuda":
            return torch.cuda.memory_allocated()
        found = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
        return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in found}.values())


@pytest.fixture(
    params=[pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("cpu", marks=pytest.mark.slow)],
    ids=["gpu", "rehearsal"],
)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "cpu":
        monkeypatch.setattr(loop, "TrainingStep", partial(TrainingStep, tensor_rate=True))
    monkeypatch.setattr(evaluation, "BATCH", 16)
    return Place(request.param)


def fit(model: nn.Module, at: Place, *, graph: bool = True, size: int = 32, **more: Any) -> TrainingResult:
    """Two epochs of three steps and a rest."""
    images = pictures(128, 4) if size == 32 else more.pop("images")
    parts = split(images, block=0, seed=0)
    recipe = more.pop("recipe", Recipe(epochs=2, batch_size=24, learning_rate=1e-3, precision="fp32"))
    return train(
        model,
        images,
        train_indices=parts.train,
        evaluate={"validation": parts.validation},
        recipe=recipe,
        seed=1,
        device=at.device,
        graph=graph,
        recorder=at.recorder() if graph else None,
        **more,
    )


def losses(result: TrainingResult) -> list[float]:
    return [row["train_loss"] for row in result.curve]


def timm_network(name: str, form: str) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    if form == "relu":
        return model
    sites = rn.find_sites(model, input_size=(3, 32, 32))
    labels = MIXED if form == "mixed" else (form,)
    chosen = {
        site.name: rn.Choice.parse(labels[k % len(labels)])
        for k, site in enumerate(sites)
        if site.admits(rn.Choice.parse(labels[k % len(labels)]))
    }
    return rn.convert(model, chosen, input_size=(3, 32, 32), seed=0)


def check_alike(replayed: TrainingResult, eager: TrainingResult, at: Place) -> None:
    """The losses of a graph are those of eager steps; on a CPU to the bit."""
    if at.device == "cpu":
        assert losses(replayed) == losses(eager)
    else:
        assert losses(replayed) == pytest.approx(losses(eager), rel=2e-2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_trains_networks_as_eager_steps_do(name: str, form: str, place: Place) -> None:
    if place.device == "cpu" and (name, form) not in {
        ("resnet18", "mixed"),
        ("mobilenetv3_small_050", "reborn"),
    }:
        pytest.skip("rehearsed with one of them")
    eager = fit(timm_network(name, form), place, graph=False)
    replayed = fit(timm_network(name, form), place)
    assert (eager.form, replayed.form) == ("eager", "cuda-graph")
    check_alike(replayed, eager, place)


@pytest.mark.parametrize("kind", [*own.FAITHFUL, *own.UNFAITHFUL])
def test_own_modules_train_as_eager_steps_do(kind: str, place: Place) -> None:
    """Those that keep state outside of their tensors without a graph, with the reason."""
    if place.device == "cuda" and kind == "own_generator":
        pytest.skip("a generator of the CPU makes numbers for the CPU")
    if place.device == "cpu" and kind not in ("dropout", "count_calls"):
        pytest.skip("test_hidden_state.py has them all")
    images, made = squares(), []
    for graph in (False, True):
        made.append(fit(own.network(kind), place, graph=graph, size=8, images=images))
    eager, result = made
    if kind in own.FAITHFUL:
        assert result.form == "cuda-graph"
    else:
        assert result.form.startswith("eager (no CUDA graph: ")
        assert place.device == "cuda" or own.UNFAITHFUL[kind] in result.form
    check_alike(result, eager, place)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_arithmetic_is_captured(precision: str, place: Place) -> None:
    if (
        place.device == "cuda"
        and precision == "bf16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        pytest.skip("this GPU has no bf16")
    recipe = Recipe(epochs=2, batch_size=24, learning_rate=1e-3, precision=precision)
    if place.device == "cuda":
        result = fit(timm_network("resnet18", "mixed"), place, recipe=recipe)
    else:  # convolutions in fp16 take minutes on a CPU
        result = fit(own.network("dropout"), place, recipe=recipe, size=8, images=squares())
    assert (result.form, result.precision) == ("cuda-graph", precision)


def test_a_training_resumed_in_the_middle_ends_as_an_undisturbed_one(place: Place) -> None:
    def stop(epoch: int, metrics: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    whole, kept = fit(timm_network("resnet18", "reborn"), place), Kept()
    with pytest.raises(KeyboardInterrupt):
        fit(timm_network("resnet18", "reborn"), place, checkpoint=kept, on_epoch=stop)
    resumed = fit(timm_network("resnet18", "reborn"), place, checkpoint=kept)
    assert len(resumed.curve) == 2
    check_alike(resumed, whole, place)


class Greedy(nn.Module):
    """Asks for more memory than any device has, in training, in judging, or in both."""

    def __init__(self, device: str, mode: str) -> None:
        super().__init__()
        self.net, self.device, self.mode = small_net(classes=4), device, mode
        self.most = 0

    def forward(self, x: torch.Tensor) -> Any:
        self.most = max(self.most, len(x))
        if self.mode == ("training" if self.training else "judging") and (self.training or len(x) > 4):
            torch.empty(2**50, device=self.device)
        return self.net(x)


@pytest.mark.parametrize("mode", ["training", "judging"])
def test_out_of_memory_is_recognised_and_judging_goes_on_in_smaller_batches(mode: str, place: Place) -> None:
    model, images = Greedy(place.device, mode), squares()
    if mode == "judging":
        result = fit(model, place, graph=False, size=8, images=images)
        assert result.n["validation"] == len(split(images, block=0, seed=0).validation)
        return
    with pytest.raises(RuntimeError) as failed:
        fit(model, place, graph=False, size=8, images=images)
    assert is_out_of_memory(failed.value)
    check_device(place.device, failed.value)  # no reason to end the process
    assert fit(own.network("dropout"), place, size=8, images=images).form == "cuda-graph"


def test_trainings_leave_no_memory_behind(place: Place) -> None:
    def one() -> None:
        fit(own.network("dropout", "average_in_place"), place, size=8, images=images)
        fit(own.network("layer_drop"), place, size=8, images=images)  # a refused capture

    images = squares()
    for _ in range(2):
        one()
    before = place.memory()
    for _ in range(15 if place.device == "cuda" else 3):
        one()
    assert place.memory() <= before + (2**20 if place.device == "cuda" else 0)


ASSERTING = """
import sys, torch
from reborn_nas.errors import DeviceLostError
from reborn_nas.training.device.selection import check_device
if sys.argv[1] == "cuda":
    def fail():
        torch.zeros(2, device="cuda")[torch.tensor([7], device="cuda")].cpu()
else:
    from reborn_nas.training.device import selection as device
    def probe(place):
        raise RuntimeError("CUDA error: device-side assert triggered")
    device.probe = probe
    def fail():
        raise RuntimeError("CUDA error: device-side assert triggered")
try:
    fail()
except Exception as error:
    try:
        check_device("cuda", error)
    except DeviceLostError as lost:
        print("lost:", "device-side assert" in str(lost))
"""


def test_a_failed_assertion_on_the_device_is_told_from_a_fault_of_the_network(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASSERTING, place.device], capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.strip() == "lost: True", done.stderr[-2000:]


TRAINING = """
import sys
from tests.training import test_trust as trust
at = trust.Place(sys.argv[1])
print(trust.fit(trust.own.network("dropout"), at, size=8, images=trust.squares()).curve[-1]["train_loss"])
"""


def test_two_processes_train_on_one_device(place: Place) -> None:
    crew = [
        subprocess.Popen([sys.executable, "-c", TRAINING, place.device], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    first, second = (float(process.communicate()[0]) for process in crew)
    assert first == pytest.approx(second, rel=1e-2)


def test_the_plan_measures_and_names_the_device(place: Place, tmp_path: Path) -> None:
    from reborn_nas.study import StudyConfig, plan_search

    plan = plan_search(StudyConfig(run=tmp_path / "run", device=place.device, workers=1))
    assert plan.seconds is not None
    assert place.device == "cpu" or any("images a second, cuda-graph" in note for note in plan.notes)


def test_the_doctor_finds_nothing_wrong(place: Place) -> None:
    found = list(examine(place.device))
    assert [one for one in found if not one.good] == []


def test_a_lost_device_is_an_error_of_ours() -> None:
    assert issubclass(DeviceLostError, rn.RebornError)
