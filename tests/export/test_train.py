"""Retraining: several seeds, resumed to the same bits; a parent's weights and function as the start."""

from __future__ import annotations

import json
import statistics
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import reborn_nas as rn
from reborn_nas.backbone import build, discover, resolve
from reborn_nas.cli.main import main
from reborn_nas.data.images import earlier_fingerprint
from reborn_nas.errors import TrainingError
from reborn_nas.export import Parent, export_trained, prepare, retrain
from reborn_nas.export.parent import make_start
from reborn_nas.models.weights import load_weights
from reborn_nas.training import Recipe, evaluate, train
from tests.training.toys import squares

CHOICES = {"features.conv2.act": "reborn", "features.conv4.act": "crelu"}
ARCHITECTURE = rn.Architecture(rn.BackboneSpec("convnet5", arguments={"width": 0.0625}), CHOICES)
RECIPE = Recipe(epochs=2, batch_size=32, learning_rate=0.05)
SILU = """
from torch import nn

def make(num_classes=4, in_channels=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )
"""


def settled(folder: Path, ema: float = 0.0, **more: object):  # type: ignore[no-untyped-def]
    options = {"seeds": (3, 4), "device": "cpu", "folder": folder, **more}
    return prepare(ARCHITECTURE, squares(), replace(RECIPE, ema=ema), **options)[0]  # type: ignore[arg-type]


def test_mean_and_deviation_are_those_of_the_seeds_and_the_first_is_exported(tmp_path: Path) -> None:
    outcome = retrain(settled(tmp_path / "run"))
    shares = [one.correct / one.n for one in outcome.results]
    assert [one.seed for one in outcome.results] == [3, 4]
    assert outcome.mean == pytest.approx(statistics.mean(shares))
    assert outcome.deviation == pytest.approx(statistics.stdev(shares))
    assert "mean ± sd of 2 trainings, seeds 3, 4" in outcome.sentence
    folder = export_trained(outcome.trained, tmp_path / "out")
    card = (folder / "README.md").read_text()
    assert f"{shares[0]:.2%}" in card
    assert outcome.sentence in card
    weights = load_file(tmp_path / "run" / "seed-3.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in load_file(folder / "model.safetensors").items())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "seed-3.example", "seed-3.json", "seed-3.safetensors", "seed-4.json", "train.json",
    ]  # fmt: skip


def test_it_trains_on_the_pool_and_looks_at_the_test_images_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reborn_nas.training.loop as loop

    read, judged = [], []
    resident, judge = loop.Resident, loop.Tally.run

    def reading(images: object, indices: torch.Tensor, *a: object, **k: object) -> object:
        read.append(indices)
        return resident(images, indices, *a, **k)

    def judging(self: object, part: object, *a: object, **k: object) -> object:
        judged.append(len(part))
        return judge(self, part, *a, **k)

    monkeypatch.setattr(loop, "Resident", reading)
    monkeypatch.setattr(loop.Tally, "run", judging)
    images = squares()
    job, _ = prepare(ARCHITECTURE, images, RECIPE, seeds=[0], device="cpu", folder=tmp_path / "run")
    retrain(job)
    assert torch.equal(read[0], images.pool)
    assert torch.equal(read[1], images.test)
    assert judged == [len(images.test)]


def test_a_broken_off_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = retrain(settled(tmp_path / "whole", ema=0.5))

    def stop(seed: int, epoch: int, metrics: object) -> None:
        if (seed, epoch) == (4, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain(settled(tmp_path / "broken", ema=0.5), on_epoch=stop)
    assert (tmp_path / "broken" / "seed-4.state").is_file()
    epochs = []
    again = retrain(settled(tmp_path / "broken", ema=0.5), on_epoch=lambda *seen: epochs.append(seen[:2]))
    assert epochs == [(4, 2)]
    assert [(one.seed, one.correct) for one in again.results] == [
        (one.seed, one.correct) for one in whole.results
    ]
    assert torch.equal(again.trained.example["logits"], whole.trained.example["logits"])
    retrain(settled(tmp_path / "broken", ema=0.5), on_epoch=lambda *seen: pytest.fail("trained again"))
    with pytest.raises(TrainingError, match=r"recipe\.ema: 0\.5 there, None now"):
        retrain(settled(tmp_path / "broken"))


def test_a_folder_of_before_the_average_was_the_recipes_goes_on(tmp_path: Path) -> None:
    retrain(settled(tmp_path / "run", ema=0.5))
    path = tmp_path / "run" / "train.json"
    settings = json.loads(path.read_text())
    settings["average"] = settings["recipe"].pop("ema")
    path.write_text(json.dumps(settings))
    retrain(settled(tmp_path / "run", ema=0.5), on_epoch=lambda *seen: pytest.fail("trained again"))
    with pytest.raises(TrainingError, match=r"recipe\.ema: 0\.5 there, 0\.6 now"):
        retrain(settled(tmp_path / "run", ema=0.6))


def test_a_folder_of_before_fingerprints_were_made_of_checksums_goes_on(tmp_path: Path) -> None:
    job = settled(tmp_path / "run")
    retrain(job)
    path = tmp_path / "run" / "train.json"
    settings = json.loads(path.read_text())
    settings["data"]["fingerprint"] = earlier_fingerprint(job.images)
    path.write_text(json.dumps(settings))
    retrain(settled(tmp_path / "run"), on_epoch=lambda *seen: pytest.fail("trained again"))
    settings["data"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match=r"data\.fingerprint"):
        retrain(settled(tmp_path / "run"))


def test_train_takes_every_setting_of_the_recipe_as_search_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "arch.json").write_text(ARCHITECTURE.to_json())
    (tmp_path / "mine.yaml").write_text("ema: 0.9\nepochs: 1\n")
    words = ["train", "--architecture", str(tmp_path / "arch.json"), "--seeds", "1",
             "--recipe", str(tmp_path / "mine.yaml"), "--momentum", "0.8",
             "--label-smoothing", "0.1", "--no-decay-norms-and-biases", "--ema", "0"]  # fmt: skip
    run = tmp_path / "run"
    assert main([*words, "--class-weights", "1,x", "--run", str(run), "--out", str(tmp_path / "a")]) == 2
    assert "class_weights: balanced, or a number for each class" in capsys.readouterr().err
    assert main([*words, "--run", str(run), "--out", str(tmp_path / "a")]) == 0
    recipe = json.loads((run / "train.json").read_text())["recipe"]
    assert (recipe["momentum"], recipe["label_smoothing"], recipe["decay_norms_and_biases"]) == (
        0.8,
        0.1,
        False,
    )
    assert not recipe.get("ema"), "0 takes the file's average away"


@pytest.mark.parametrize("own", [False, True])
def test_a_parents_function_is_where_it_starts(own: bool, tmp_path: Path) -> None:
    images = squares()
    if own:
        (tmp_path / "net.py").write_text(SILU)
        architecture = rn.Architecture(
            f"{tmp_path / 'net.py'}:make", {"2": "reborn", "4": "reborn(compression=none)"}
        )
    else:
        architecture = ARCHITECTURE
    spec = resolve(architecture.backbone, input_size=(1, 8, 8), num_classes=4)
    parent = build(spec, seed=9)
    for _ in range(3):
        parent(torch.randn(16, 1, 8, 8))
    save_file(parent.state_dict(), tmp_path / "parent.safetensors")
    given = Parent(checkpoint=tmp_path / "parent.safetensors")
    if own:
        names = [site.name for site in discover(build(spec, device="meta"), spec.input_size).sites]
        architecture = rn.Architecture(
            spec, dict(zip(names, ["reborn", "reborn(compression=none)"], strict=True))
        )
    job, notes = prepare(
        architecture, images, RECIPE, seeds=[0], device="cpu", parent=given, folder=tmp_path / "run"
    )
    start = make_start(job.architecture, given, init=job.init, seed=0)
    x = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(start.model.eval()(x), parent.eval()(x), rtol=0, atol=1e-6)
    assert job.init == "preserve"
    assert start.deviation is not None
    assert start.deviation <= 1e-6
    assert "computes what the parent does" in start.notes[0]
    if own:
        assert job.architecture.choice(names[0]).options["positive"] == "original"
        assert any("positive=original" in note for note in notes)
    else:
        assert start.undecayed == ("features.conv2.act.compress.weight", "features.conv4.act.compress.weight")
    assert retrain(job).results[0].notes == start.notes


@pytest.fixture
def parent(tmp_path: Path) -> torch.nn.Module:
    """A trained parent of `ARCHITECTURE`; its weights lie in parent.safetensors."""
    images = squares()
    model = build(resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4), seed=9)
    train(model, images, train_indices=images.pool, evaluate={}, recipe=RECIPE, seed=0)
    save_file(model.state_dict(), tmp_path / "parent.safetensors")
    return model


def test_no_epochs_convert_and_lose_no_accuracy(parent: torch.nn.Module, tmp_path: Path) -> None:
    images, given = squares(), Parent(checkpoint=tmp_path / "parent.safetensors")
    recipe = Recipe(epochs=0, init="xavier")
    job, notes = prepare(
        ARCHITECTURE, images, recipe, seeds=[0], device="cpu", parent=given, folder=tmp_path / "run"
    )
    assert "would undo the parent's" in " ".join(notes)
    assert retrain(job).results[0].correct == evaluate(parent, images, images.test).correct


def test_weight_decay_does_not_pull_at_the_identities(parent: torch.nn.Module, tmp_path: Path) -> None:
    given = Parent(checkpoint=tmp_path / "parent.safetensors")
    recipe = Recipe(epochs=1, batch_size=32, learning_rate=1e-3, weight_decay=100.0, schedule="constant")
    job, _ = prepare(
        ARCHITECTURE, squares(), recipe, seeds=[0], device="cpu", parent=given, folder=tmp_path / "run"
    )
    weights = retrain(job).trained.weights
    kept = weights["features.conv2.act.compress.weight"][:, :4, 0, 0]
    torch.testing.assert_close(kept, torch.eye(4), rtol=0, atol=0.02)
    before = parent.features.conv3.conv.weight.norm()
    assert weights["features.conv3.conv.weight"].norm() < 0.8 * before


def test_a_choice_that_cannot_preserve_is_named(tmp_path: Path) -> None:
    spec = resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4)
    save_file(build(spec, seed=9).state_dict(), tmp_path / "model.safetensors")
    start = make_start(
        rn.Architecture(spec, {"features.conv2.act": "silu"}),
        Parent(checkpoint=tmp_path),
        init="preserve",
        seed=0,
    )
    assert start.deviation > 1e-3
    assert "features.conv2.act (relu → silu)" in " ".join(start.notes)


def test_a_checkpoint_of_other_classes_or_of_another_network(tmp_path: Path) -> None:
    spec = resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=10)
    parent = build(spec, seed=9)
    save_file(parent.state_dict(), tmp_path / "model.safetensors")
    four = ARCHITECTURE.with_backbone(resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4))
    start = make_start(four, Parent(checkpoint=tmp_path), init="preserve", seed=0)
    assert (
        "keeps its initial weights, since the parent's has other classes: head.fc.bias, head.fc.weight"
        in start.notes[0]
    )
    assert torch.equal(start.model.features.conv1.conv.weight, parent.features.conv1.conv.weight)
    state = parent.state_dict()
    for name, change, words in (
        ("less", {k: v for k, v in state.items() if "conv3.conv" not in k}, r"lacks features\.conv3\.conv"),
        ("more", {**state, "extra": torch.zeros(1)}, "has extra"),
        ("other", {**state, "features.conv1.conv.weight": torch.zeros(1)}, r"is \(1,\)"),
    ):
        save_file(change, tmp_path / f"{name}.safetensors")
        with pytest.raises(TrainingError, match=words):
            make_start(four, Parent(checkpoint=tmp_path / f"{name}.safetensors"), init="preserve", seed=0)


class Bomb:
    """Whoever unpickles it without care makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_checkpoint_of_torch_save_is_read_and_a_hostile_one_is_not_run(tmp_path: Path) -> None:
    spec = resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4)
    architecture = ARCHITECTURE.with_backbone(spec)
    parent, other = build(spec, seed=9).eval(), build(spec, seed=8)
    state = parent.state_dict()
    wrapped = {"module." + key: value for key, value in state.items()}
    kept = {
        "state_dict": other.state_dict(),
        "state_dict_ema": wrapped,
        "args": Namespace(lr=1.0),
        "epoch": 3,
    }
    x = torch.randn(4, 1, 8, 8)
    for name, content in (("plain.pth", state), ("timm.pth.tar", kept)):
        torch.save(content, tmp_path / name)
        start = make_start(architecture, Parent(checkpoint=tmp_path / name), init="preserve", seed=0)
        with torch.no_grad():
            torch.testing.assert_close(start.model.eval()(x), parent(x), rtol=0, atol=1e-6)
    torch.save({"state_dict": state, "more": Bomb(tmp_path / "ran")}, tmp_path / "hostile.pth")
    (tmp_path / "other.pth").write_bytes(b"\x80\x04K\x01.")
    for name in ("hostile.pth", "other.pth"):
        with pytest.raises(TrainingError, match="may run code"):
            make_start(architecture, Parent(checkpoint=tmp_path / name), init="preserve", seed=0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("model_state_dict", ""),
        ("state_dict", "model."),  # Lightning
        ("state_dict", "_orig_mod.module."),
        ("model", "module."),
        ("model_ema", ""),
        (None, "net.backbone."),
    ],
)
def test_weights_are_found_where_trainings_keep_them(tmp_path: Path, key: str | None, prefix: str) -> None:
    spec = resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4)
    architecture = ARCHITECTURE.with_backbone(spec)
    parent = build(spec, seed=9).eval()
    state = {prefix + name: value for name, value in parent.state_dict().items()}
    state["loss.weight"] = torch.ones(4)
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "last.ckpt")
    if not prefix:
        with pytest.raises(TrainingError, match=r"has loss\.weight, which the backbone has not"):
            make_start(architecture, Parent(checkpoint=tmp_path / "last.ckpt"), init="preserve", seed=0)
        del state["loss.weight"]
        torch.save({key: state, "epoch": 3}, tmp_path / "last.ckpt")
    start = make_start(architecture, Parent(checkpoint=tmp_path / "last.ckpt"), init="preserve", seed=0)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(start.model.eval()(x), parent(x), rtol=0, atol=1e-6)
    notes = "\n".join(start.notes)
    assert ("not loaded from the checkpoint" in notes) == bool(prefix)
    assert ("averaged weights" in notes) == (key == "model_ema")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    spec = resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4)
    state = build(spec, seed=9).state_dict()
    name = next(key for key in state if key.endswith("weight"))
    state[name].view(-1)[3] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(TrainingError, match=rf"not finite, in {name}"):
        make_start(
            ARCHITECTURE.with_backbone(spec),
            Parent(checkpoint=tmp_path / "nan.safetensors"),
            init="preserve",
            seed=0,
        )


def test_quantised_weights_are_refused_and_counters_may_be_absent(tmp_path: Path) -> None:
    spec = resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4)
    architecture, parent = ARCHITECTURE.with_backbone(spec), build(spec, seed=9).eval()
    state = parent.state_dict()
    name = next(key for key in state if key.endswith("weight"))
    save_file({**state, name: state[name].to(torch.int8)}, tmp_path / "int.safetensors")
    with pytest.raises(TrainingError, match=rf"holds {name} as torch\.int8"):
        make_start(architecture, Parent(checkpoint=tmp_path / "int.safetensors"), init="preserve", seed=0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    own = network.state_dict()
    old = {key: value + 1 for key, value in own.items() if "num_batches" not in key}
    torch.save(old, tmp_path / "old.pth")
    assert load_weights(network, tmp_path / "old.pth", ()) == []
    assert all(torch.equal(network.state_dict()[key], value) for key, value in old.items())


def test_a_missing_classifier_and_other_channels_are_reported(tmp_path: Path) -> None:
    colour = resolve(ARCHITECTURE.backbone, input_size=(3, 8, 8), num_classes=4)
    grey = resolve(ARCHITECTURE.backbone, input_size=(1, 8, 8), num_classes=4)
    parent = build(colour, seed=9).eval()
    state = parent.state_dict()
    last = list(state)[-1].rpartition(".")[0]
    headless = {key: value for key, value in state.items() if not key.startswith(f"{last}.")}
    save_file(headless, tmp_path / "headless.safetensors")
    save_file(state, tmp_path / "colour.safetensors")
    start = make_start(
        ARCHITECTURE.with_backbone(colour),
        Parent(checkpoint=tmp_path / "headless.safetensors"),
        init="preserve",
        seed=0,
    )
    assert any("keeps its initial weights, since the checkpoint lacks it" in note for note in start.notes)
    given = Parent(checkpoint=tmp_path / "colour.safetensors")
    start = make_start(ARCHITECTURE.with_backbone(grey), given, init="preserve", seed=0)
    assert any("summed over its 3, as timm does" in note for note in start.notes)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():  # a grey image in all three channels
        expected = parent(x.expand(4, 3, 8, 8))
        torch.testing.assert_close(start.model.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_the_command_from_an_architectures_file_to_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "arch.json").write_text(ARCHITECTURE.to_json())
    arguments = ["train", "--architecture", str(tmp_path / "arch.json"), "--epochs", "1", "--seeds", "1", "--run",
                 str(tmp_path / "run"), "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(arguments) == 0
    assert "test accuracy" in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    example = load_file(tmp_path / "out" / "example.safetensors")
    with torch.no_grad():
        assert torch.equal(model(example["input"]), example["logits"])
    assert main(arguments) == 2, "the folder is not empty"
    assert main([*arguments, "--force", "--ema", "0.5"]) == 2
    assert "recipe.ema: None there, 0.5 now" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "new")]
    assert main(["train", "--architecture", "reborn", *out]) == 2
    assert "--backbone" in capsys.readouterr().err
    assert main(["train", "--architecture", str(tmp_path / "none.json"), *out]) == 2
    assert main(["train", "--architecture", str(tmp_path / "out"), "--seeds", "0", *out]) == 2
    other = ["--run", str(tmp_path / "other"), "--checkpoint", str(tmp_path / "out"), *out]
    assert main(["train", "--architecture", str(tmp_path / "arch.json"), *other]) == 2
    assert "not a checkpoint of this backbone" in capsys.readouterr().err
    assert not (tmp_path / "other").exists(), "a checkpoint that does not fit leaves no folder behind"
    evil = rn.Architecture(f"{tmp_path / 'net.py'}:make", {"relu@0": "reborn"})
    (tmp_path / "net.py").write_text("raise SystemExit('executed')")
    (tmp_path / "own.json").write_text(evil.to_json())
    assert main(["train", "--architecture", str(tmp_path / "own.json"), *out]) == 2
    assert "--backbone" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text(json.dumps({"version": 99}))
    assert main(["train", "--architecture", str(tmp_path / "bad.json"), *out]) == 2
    assert "99" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
