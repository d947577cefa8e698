"""The benchmarks' own arithmetic, that rivals train the same function, and that each of them runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from reborn_nas.data import load_dataset, split
from reborn_nas.training import get_recipe
from tests.benchmarks import epoch, networks, recipes, time_to_accuracy, trials_per_hour
from tests.benchmarks.__main__ import CPU, GPU, LONG
from tests.benchmarks.harness import Timing, alternate, goal, hardware_slug, print_table
from tests.benchmarks.loops import LoaderLoop, OurLoop
from tests.benchmarks.memory import Meter
from tests.benchmarks.trials import Trial


def test_rivals_take_turns_and_figures_are_medians() -> None:
    order: list[str] = []
    now = 0.0

    def run(name: str) -> None:
        nonlocal now
        order.append(name)
        now += 1 if name == "a" else 2 + len(order) % 3

    found = alternate({"a": lambda: run("a"), "b": lambda: run("b")}, repeats=2, warmup=1, clock=lambda: now)
    assert "".join(order) == "ab" + "abbaabbaab"  # never fewer than five rounds; the order is turned round
    assert found["a"] == Timing(1, 1, 1, 1, 5)
    # b is number 2, 3, 6, 7, 10 after the warm-up's two: 2 + (2, 0, 0, 0, 1) % …
    seconds = [2 + (number % 3) for number in (4, 5, 8, 9, 12)]
    assert found["b"].median == sorted(seconds)[2]
    assert found["b"].fastest == min(seconds)


def test_goals_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert goal("x", 1.5, 1.4)["met"] is True
    assert goal("x", 1.5, 1.4, at_least=False)["met"] is False
    assert goal("x", None, 1.4) == {"goal": "x ≥ 1.4", "measured": None, "met": None}
    print_table([{"a": 1.23456, "b": None}, {"a": True, "c": "x"}], "title")
    assert capsys.readouterr().out.split() == ["title", "a", "b", "c", "1.235", "–", "–", "yes", "–", "x"]
    assert hardware_slug().replace("-", "").replace(".", "").isalnum()


@pytest.mark.parametrize("form", ["reborn k=3", "CReLU", "mix 3"])
def test_the_literal_network_is_the_same_function(form: str) -> None:
    model = networks.network("convnet5", form, 10).double().train()
    twin = networks.literal(model)
    assert [type(m) for m in twin.modules()] != [type(m) for m in model.modules()]
    x = torch.randn(4, *networks.SIZE, dtype=torch.float64)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-9, atol=1e-9)
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())


def test_mixes_are_fixed_and_differ() -> None:
    first, again, other = (networks.network("convnet5", f"mix {k}", 10) for k in (1, 1, 2))
    assert str(first) == str(again) != str(other)
    listed = Counter(networks.thirty())
    assert sum(listed.values()) == 30
    assert (listed.pop("ReLU"), listed.pop("reborn k=3")) == (5, 5)
    assert len(listed) == 20


def test_macs_by_hand() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(8192, 2)
    )
    assert networks.macs(model) == 3 * 8 * 9 * 1024 + 8192 * 2


def test_both_loops_train() -> None:
    images = networks.pictures(24, 4)
    model = networks.parent("convnet5", 4)
    for loop in (
        LoaderLoop(model, images, 8, torch.device("cpu")),
        OurLoop(model, images, 8, torch.device("cpu")),
    ):
        trained = loop.model if isinstance(loop, LoaderLoop) else loop.run.model
        before = next(trained.parameters()).detach().clone()
        loop(4)  # one more than an epoch has
        assert not torch.equal(before, next(trained.parameters()))
        loop.close()


def test_bytes_by_hand() -> None:
    with Meter() as meter:
        x = torch.empty(100, device="meta")  # 400 bytes
        y = x + 1
        assert meter.live == 800
        del x
        assert meter.live == 400
        z = y.view(10, 10)  # the same memory
        del y
        assert (meter.live, meter.peak) == (400, 800)
        del z
        assert meter.live == 0


def test_goals_of_an_epoch_need_a_gpu() -> None:
    assert all(row["met"] is None for row in epoch.goals([]))
    rows = [
        {"backbone": "resnet34", "batch": 128, "form": form, "rival": rival, "img/s": rate, "peak MiB": peak}
        for form, rival, rate, peak in (
            ("ReLU", "loader, 0 workers", 10.0, 3.0),
            ("ReLU", "ours", 90.0, 2.0),
            ("reborn k=3, sparing", "ours", 30.0, 3.9),
        )
    ]
    found = {row["goal"]: row["measured"] for row in epoch.goals(rows)}
    assert found["resnet34 ReLU: times loader, 0 workers ≥ 8"] == 9.0
    assert found["resnet34 ReLU: s an epoch ≤ 1.4"] == pytest.approx(50_000 / 90, abs=1e-3)
    assert found["resnet34 reborn k=3, sparing: memory, times ReLU's ≤ 2"] == 1.95


def test_trainings_an_hour_by_hand() -> None:
    """10 s of which 1 s is fixed, 3 epochs: an epoch takes 3 s, 30 of them 91 s."""
    line = trials_per_hour.row("ours", Trial("net", "mix 7", 10.0, 1.0, "eager"), 3, 30)
    assert line["an hour"] == pytest.approx(3600 / 91)
    assert line["fixed share"] == pytest.approx(1 / 91)
    plain = trials_per_hour.row("plain loop", Trial("net", "mix 7", 20.0, 2.0, ""), 3, 30)
    kinds = trials_per_hour.summary([line, plain, line])
    assert [(one["kind"], one["rival"], one["n"]) for one in kinds] == [
        ("mix", "ours", 2),
        ("mix", "plain loop", 1),
    ]
    assert kinds[0]["× plain loop"] == pytest.approx(2)
    found = {one["goal"]: one["measured"] for one in trials_per_hour.goals(kinds, [line, plain], True)}
    assert found["resnet34 mix: trainings an hour ≥ 57"] == pytest.approx(3600 / 91, abs=1e-3)
    assert found["resnet34 ReLU: trainings an hour ≥ 85"] is None
    assert found["fixed cost of a training, share ≤ 0.03"] == pytest.approx(1 / 91, abs=1e-3)


def test_accuracies_are_compared_over_five_seeds() -> None:
    """Means 99.0 and 98.9 %, standard deviation 0.1 each: 0.1 ± 2.306 · 0.1 · √(2/5) points."""
    steps = (-0.1, -0.1, 0.0, 0.1, 0.1)
    rows = [
        {
            "dataset": "mnist",
            "rival": rival,
            "final accuracy": (mean + step) / 100,
            "s to target": s,
            "s in all": 9.0,
        }
        for rival, mean, s in (("fp32 loop", 99.0, 4.0), ("ours", 98.9, None))
        for step in steps
    ]
    (found,) = time_to_accuracy.goals(rows, ["mnist"])
    assert (found["measured"], found["met"]) == (0.1, True)
    assert found["95 %"] == "-0.05..+0.25"
    assert time_to_accuracy.goals(rows[:9], ["mnist"])[0]["met"] is None
    loop, ours = time_to_accuracy.summary(rows)
    assert (loop["s to target"], loop["reached"], ours["reached"]) == (4.0, 5, 0)
    assert ours["accuracy"] == pytest.approx(0.989)


def test_every_benchmark_is_in_the_list() -> None:
    folder = Path(__file__).parent
    assert all((folder / f"{name}.py").is_file() for name in {*GPU, *CPU, *LONG})


def test_results_name_their_hardware_and_no_paths() -> None:
    for path in (Path(__file__).parent / "results").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        if path.name.startswith(("cpu-", "gpu-")):
            assert json.loads(text)["hardware"]["torch"]
        assert not re.search(r"(?<![\w.])/\w+/", text), f"{path.name} names a folder of somebody's machine"


TINY = {
    "memory": ["--backbone", "resnet18", "--batch", "16"],
    "block": ["--batch", "1", "--precision", "fp32"],
    "cpu": ["--backbones", "convnet5", "--forms", "ReLU", "mix 0", "--batch", "4"],
    "epoch": [
        "--backbones",
        "convnet5",
        "--forms",
        "mix 0",
        "--batch",
        "4",
        "--rivals",
        "loader, 0 workers",
        "ours",
    ],
    "trials_per_hour": ["--backbone", "convnet5", "--trials", "1", "--images", "64", "--batch", "16"],
    "step_overhead": ["--backbone", "convnet5", "--form", "ReLU", "--batch", "4"],
    "time_to_accuracy": [
        *("--backbone", "convnet5", "--form", "ReLU", "--batch", "16", "--dataset", "mnist"),
        *("--fraction", "0.005", "--epochs", "1", "--seeds", "1"),
    ],
}


def check_one_runs(name: str, device: str, folder: Path, *more: str) -> None:
    """A benchmark of almost no work ends well and leaves its figures."""
    out = folder / "found.json"
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *TINY[name], *more, "--json", str(out)]
    command += [] if name == "memory" else ["--threads", "1", "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["rows"]
    assert found["benchmark"] == name
    assert "torch" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name not in LONG])
def test_each_runs(name: str, tmp_path: Path) -> None:
    check_one_runs(name, "cpu", tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in TINY if name not in LONG])
def test_each_runs_on_a_gpu(name: str, tmp_path: Path) -> None:
    check_one_runs(name, "cuda", tmp_path)


@pytest.mark.slow
def test_the_one_on_real_data_runs(tmp_path: Path, shared_data: Path) -> None:
    check_one_runs("time_to_accuracy", "cpu", tmp_path, "--data", str(shared_data))


def test_each_recipe_and_the_plain_loop_train(tmp_path: Path) -> None:
    """One step of each, with the same settings, on noise."""
    from PIL import Image

    draws = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 6)):
        for label in "ab":
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    images = load_dataset(f"folder:{tmp_path}")
    indices = split(images, block=0, seed=0).train
    for name in ("fast", "a3"):
        recipe = get_recipe(name, epochs=1, batch_size=16)
        row = recipes.measure(images, indices, images.test, recipe, 2, 0, "convnet5", {"width": 0.0625})
        assert len(row["ours_per_second"]) == len(row["plain_accuracy"]) == 2
        assert min(*row["ours_per_second"], *row["plain_per_second"], row["cpu_ratio"][0]) > 0
    rows = recipes.augmentations(8, 40)
    assert [row["augmentation"] for row in rows] == ["none", *recipes.AUGMENTATIONS]
