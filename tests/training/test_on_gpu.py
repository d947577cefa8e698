"""Training on a real GPU, whatever stand-ins cannot show: `python -m pytest -m gpu` takes minutes on one.

`test_trust.py` holds what is rehearsed with stand-ins on a CPU too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reborn_nas as rn
from reborn_nas.activations import spare_memory
from reborn_nas.data import Augmentation, Resident, split
from reborn_nas.training import Recipe, TrainingResult, train
from reborn_nas.training.measure.latency import measure_latency
from tests.benchmarks.networks import network, pictures
from tests.training.toys import Kept, small_net, squares

pytestmark = pytest.mark.gpu

RECIPE = Recipe(epochs=6, batch_size=40, learning_rate=0.2, precision="fp32")


def run(model: nn.Module, recipe: Recipe = RECIPE, device: str = "cuda", **more: Any) -> TrainingResult:
    """Train on patches in the corners of noise, shifted and mirrored."""
    images = squares(augmentation=Augmentation(1, False))
    own = split(images, block=0, seed=0)
    return train(
        model,
        images,
        train_indices=own.train,
        evaluate={"validation": own.validation},
        recipe=recipe,
        seed=3,
        device=device,
        **more,
    )


def losses(result: TrainingResult) -> list[float]:
    return [row["train_loss"] for row in result.curve]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_graph_trains_like_eager_steps(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 40, 40 and 36, judged in graphs of 8: also the random numbers are those of eager steps."""
    monkeypatch.setattr("reborn_nas.training.evaluation.BATCH", 8)
    eager, replayed = (run(small_net(classes=4, dropout=dropout), graph=graph) for graph in (False, True))
    assert (eager.form, replayed.form) == ("eager", "cuda-graph")
    assert losses(replayed) == pytest.approx(losses(eager), rel=1e-2)
    assert replayed.accuracy == pytest.approx(eager.accuracy, abs=0.1)
    assert losses(replayed)[-1] < 0.7 * losses(replayed)[0]


def test_a_gpu_trains_like_a_cpu() -> None:
    """The same order, augmentation, learning rates and weights; convolutions may round to TF32."""
    on_gpu, on_cpu = (run(small_net(classes=4), device=device) for device in ("cuda", "cpu"))
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=2e-2)


def test_an_epoch_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first batch of an epoch to its last, and through the judging: whatever synchronises raises."""
    monkeypatch.setattr("reborn_nas.training.evaluation.BATCH", 8)
    watched: list[str] = []

    def watching(name: str) -> Any:
        plain = getattr(Resident, name)

        def batches(self: Resident, *arguments: Any, **named: Any) -> Iterator[Any]:
            if named.get("epoch") == 0 or (name == "ordered" and not watched):
                yield from plain(self, *arguments, **named)  # capture and kernels' choice may wait
                return
            watched.append(name)
            torch.cuda.set_sync_debug_mode("error")
            try:
                yield from plain(self, *arguments, **named)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return batches

    for name in ("epoch", "ordered"):
        monkeypatch.setattr(Resident, name, watching(name))
    result = run(small_net(classes=4, dropout=0.1))
    assert result.form == "cuda-graph"
    assert watched == ["epoch", "ordered"] * 5


class Reading(nn.Module):
    """Reads the device in its forward pass, which no graph allows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (float(x.detach().sum()) > -1e9)


def test_what_cannot_be_captured_trains_eagerly_and_harms_nobody() -> None:
    """Dropout is what a broken capture would break; the next network of the process is captured again."""
    parts = list(small_net(classes=4, dropout=0.2))
    result = run(nn.Sequential(*parts[:3], Reading(), *parts[3:]))
    assert result.form.startswith("eager (no CUDA graph: ")
    plain = run(small_net(classes=4, dropout=0.2), graph=False)
    assert losses(result) == pytest.approx(losses(plain), rel=1e-2)
    assert run(small_net(classes=4, dropout=0.2)).form == "cuda-graph"


def big(form: str = "reborn k=3", *, spare: bool = False, **more: Any) -> TrainingResult:
    """Two epochs of a resnet18 at batch 64, in the GPU's own precision."""
    images = pictures(1024, 8)
    own = split(images, block=0, seed=0)
    model = network("resnet18", form, 8)
    spare_memory(model, spare)
    return train(
        model,
        images,
        train_indices=own.train,
        evaluate={"validation": own.validation},
        recipe=Recipe(epochs=2, batch_size=64),
        seed=0,
        device="cuda",
        **more,
    )


@pytest.mark.parametrize("form", ["ReLU", "CReLU", "reborn k=3", "reborn depthwise", "mix 0"])
def test_networks_are_captured_in_bf16(form: str) -> None:
    result = big(form)
    assert result.form == "cuda-graph"
    assert result.precision in ("bf16", "fp32")


def test_a_training_gives_its_memory_back() -> None:
    big()  # the images stay, and what libraries keep
    gc.collect()
    before = torch.cuda.memory_allocated()
    gc.disable()
    try:
        big()
        assert torch.cuda.memory_allocated() <= before + 2**20
    finally:
        gc.enable()


def test_sparing_blocks_need_less_and_train_alike() -> None:
    peaks, found = [], []
    for spare in (False, True):
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        found.append(losses(big(spare=spare, graph=False)))
        peaks.append(torch.cuda.max_memory_allocated() - base)
    assert peaks[1] < 0.8 * peaks[0]
    assert found[1] == pytest.approx(found[0], rel=2e-2)


def test_a_training_goes_on_where_it_was_left(tmp_path: Path) -> None:
    def stop(epoch: int, metrics: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    whole, kept = run(small_net(classes=4)), Kept()
    with pytest.raises(KeyboardInterrupt):
        run(small_net(classes=4), checkpoint=kept, on_epoch=stop)
    resumed = run(small_net(classes=4), checkpoint=kept)
    assert len(resumed.curve) == 6
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_process_trains_on_one_gpu_after_the_other() -> None:
    found = [run(small_net(classes=4), device=f"cuda:{index}") for index in (0, 1)]
    assert [one.form for one in found] == ["cuda-graph"] * 2
    assert losses(found[1]) == pytest.approx(losses(found[0]), rel=1e-2)


def test_compiled_blocks_are_captured_too() -> None:
    result = big("ReLU", compile_after=1)
    assert result.form == "cuda-graph, compiled"


@pytest.mark.parametrize("batch_size", [1, 64])
def test_latency_by_the_devices_own_clock(batch_size: int) -> None:
    """A network with twice the blocks takes longer; the last device's clock is the one asked for."""
    device = f"cuda:{torch.cuda.device_count() - 1}"
    block = rn.build_activation("reborn", channels=64)
    times = [
        measure_latency(
            nn.Sequential(nn.Conv2d(3, 64, 3), *[block] * many),
            (3, 32, 32),
            batch_size=batch_size,
            device=device,
            precision="bf16",
        ).seconds
        for many in (1, 16)
    ]
    assert 0 < 2 * times[0] < times[1]
