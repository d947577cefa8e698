"""The loop: it learns, repeats to the bit, reports, stops, and leaves the world as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reborn_nas.data import Augmentation, ImageSet, Resident, load_dataset, split
from reborn_nas.errors import DivergedError, TrainingError
from reborn_nas.seeds import derive_seed
from reborn_nas.training import (
    FileCheckpoint,
    Recipe,
    TrainingResult,
    draw_weights,
    estimate_epoch,
    evaluate,
    get_recipe,
    learning_rates,
    train,
)
from reborn_nas.training.measure import estimate
from reborn_nas.training.step.step import total_loss
from tests.training.toys import small_net, squares


def run(model: nn.Module, images: ImageSet, recipe: Recipe, seed: int = 1, **more: object) -> TrainingResult:
    own = split(images, block=0, seed=0)
    parts = {"validation": own.validation, "test": images.test}
    return train(model, images, train_indices=own.train, evaluate=parts, recipe=recipe, seed=seed, **more)  # type: ignore[arg-type]


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


SHORT = Recipe(epochs=3, batch_size=32, learning_rate=0.05)


def test_digits_are_learned() -> None:
    result = run(small_net(), load_dataset("digits"), get_recipe("fast", epochs=6, batch_size=64))
    assert result.accuracy["validation"] > 0.9
    assert result.accuracy["test"] > 0.9
    assert result.n == {"validation": 360, "test": 360}
    assert result.correct["validation"] == round(360 * result.accuracy["validation"])
    assert result.precision == "fp32"
    assert result.form == "eager"
    assert result.batch_size == 64


def test_the_same_seed_gives_the_same_bits() -> None:
    images = squares(augmentation=Augmentation(2, True))
    models = [small_net(classes=4, dropout=0.3) for _ in range(3)]
    results = []
    for model, seed, noise in zip(models, (1, 1, 2), (0, 99, 0), strict=True):
        torch.manual_seed(noise)  # the caller's own randomness must not matter
        results.append(run(model, images, SHORT, seed))
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))

    def numbers(result: TrainingResult) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in result.curve]

    assert numbers(results[0]) == numbers(results[1])
    assert results[0].correct == results[1].correct


def test_the_callers_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(small_net(classes=4, dropout=0.3), squares(), SHORT)
    assert torch.equal(torch.get_rng_state(), before)


def test_equals_a_plain_loop_written_out() -> None:
    """SGD as Sutskever et al. wrote it for PyTorch, one parameter at a time, on the batches of the same order."""
    images = squares()
    own = split(images, block=0, seed=0)
    recipe = Recipe(
        epochs=2, batch_size=32, learning_rate=0.05, momentum=0.8, weight_decay=1e-2, label_smoothing=0.1
    )
    trained, plain = small_net(classes=4), small_net(classes=4).train()
    result = run(trained, images, recipe, seed=6)
    buffers = [torch.zeros_like(p) for p in plain.parameters()]
    rates = iter(learning_rates(recipe, 4))
    part = Resident(images, own.train)
    losses = []
    for epoch in range(2):
        torch.manual_seed(derive_seed(6, "noise", epoch))
        total, count = 0.0, 0
        for x, y in part.epoch([32, 32, 32, 20], seed=6, epoch=epoch):
            rate = next(rates)
            loss = F.cross_entropy(plain(x), y, label_smoothing=0.1)
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            with torch.no_grad():
                for p, g, v in zip(plain.parameters(), gradients, buffers, strict=True):
                    g = g + 1e-2 * p
                    v.mul_(0.8).add_(g)
                    p -= rate * (g + 0.8 * v)
            total, count = total + float(loss.detach()) * len(y), count + len(y)
        losses.append(total / count)
    torch.testing.assert_close(weights(trained), weights(plain), atol=2e-5, rtol=1e-4)
    assert [row["train_loss"] for row in result.curve] == pytest.approx(losses, rel=1e-4)
    assert result.train_loss_sum == pytest.approx(sum(losses), rel=1e-4)


def test_accuracies_are_those_of_the_trained_network() -> None:
    images = squares()
    model = small_net(classes=4)
    result = run(model, images, SHORT)
    own = split(images, block=0, seed=0)
    mean, std = images.mean[0], images.std[0]
    assert not model.training
    for part, indices in {"validation": own.validation, "test": images.test}.items():
        with torch.no_grad():
            logits = model((images.images[indices].float() / 255 - mean) / std)
        labels = images.labels[indices]
        assert result.correct[part] == int((logits.argmax(1) == labels).sum())
        if part == "validation":
            loss = float(F.cross_entropy(logits, labels))
            assert result.curve[-1]["validation_loss"] == pytest.approx(loss, rel=1e-4)


def test_the_callback_sees_every_epoch_and_only_the_parts_of_every_epoch() -> None:
    seen: list[tuple[int, Mapping[str, float]]] = []
    result = run(small_net(classes=4), squares(), SHORT, on_epoch=lambda e, m: seen.append((e, m)))
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert set(seen[0][1]) == {
        "epoch",
        "train_loss",
        "validation_accuracy",
        "validation_loss",
        "learning_rate",
        "seconds",
    }
    assert [dict(m) for _, m in seen] == result.curve
    assert set(result.accuracy) == {"validation", "test"}


def test_the_test_images_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = Resident.ordered
    monkeypatch.setattr(
        Resident, "ordered", lambda self, batch: (looked.append(int(self._indices[0])), real(self, batch))[1]
    )
    images = squares()
    run(small_net(classes=4), images, SHORT)
    assert looked.count(int(images.test[0])) == 1


def test_what_the_callback_raises_ends_the_training() -> None:
    class Stop(Exception):
        pass

    calls = []

    def stop(epoch: int, metrics: Mapping[str, float]) -> None:
        calls.append(epoch)
        if epoch == 2:
            raise Stop

    state = torch.get_rng_state()
    with pytest.raises(Stop):
        run(small_net(classes=4), squares(), SHORT, on_epoch=stop)
    assert calls == [1, 2]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_diverging_training_stops_and_keeps_what_there_was() -> None:
    class Bomb(nn.Module):
        """Overflows from its 14th training step on, in the fourth epoch of four steps."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.steps = small_net(classes=4), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += self.training
            out: torch.Tensor = self.net(x)
            return out * (math.inf if self.steps >= 14 else 1.0)

    with pytest.raises(DivergedError, match="epoch 4 of 8") as caught:
        run(Bomb(), squares(), Recipe(epochs=8, batch_size=32, learning_rate=0.05))
    assert caught.value.epoch == 4
    result = caught.value.result
    assert result.epochs == 4
    assert len(result.curve) == 4
    assert result.accuracy["validation"] == result.curve[2]["validation_accuracy"]


def test_a_huge_learning_rate_diverges() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 4))
    recipe = Recipe(epochs=5, batch_size=32, learning_rate=1e25, schedule="constant")
    with pytest.raises(DivergedError, match="lower learning rate"):
        run(plain, squares(), recipe)


def test_zero_epochs_judge_the_untrained_network() -> None:
    model = small_net(classes=4)
    before = weights(model).clone()
    result = run(model, squares(), Recipe(epochs=0))
    assert torch.equal(weights(model), before)
    assert result.curve == []
    assert set(result.accuracy) == {"validation", "test"}


def test_a_batch_larger_than_the_set_is_the_whole_set_and_said() -> None:
    images = squares()
    result = run(small_net(classes=4), images, Recipe(epochs=1, batch_size=4096))
    assert result.batch_size == len(split(images, block=0, seed=0).train)
    assert "no more training images" in result.notes[0]


def test_no_training_images_and_no_parameters_are_refused() -> None:
    images = squares()
    with pytest.raises(TrainingError, match="no training images"):
        train(
            small_net(),
            images,
            train_indices=torch.tensor([], dtype=torch.long),
            evaluate={},
            recipe=SHORT,
            seed=0,
        )
    with pytest.raises(TrainingError, match="no trainable parameter"):
        run(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), images, SHORT)


def test_a_network_that_returns_maps_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"logits \(batch, classes\).*\(32, 4, 6, 6\)"):
        run(nn.Conv2d(1, 4, 3), squares(), SHORT)


def test_auxiliary_heads_count_three_tenths() -> None:
    draws = torch.Generator().manual_seed(0)
    main, one, two = torch.randn(3, 8, 4, generator=draws)
    labels = torch.arange(8) % 4
    expected = sum(w * float(F.cross_entropy(o, labels)) for w, o in ((1, main), (0.3, one), (0.3, two)))
    for outputs in ((main, one, two), [main, [one, two]], {"out": main, "aux": (one, None, two)}):
        assert float(total_loss(outputs, labels)) == pytest.approx(expected, rel=1e-6)
    assert float(total_loss(main, labels)) == pytest.approx(float(F.cross_entropy(main, labels)))


def test_a_network_with_auxiliary_heads_trains() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.aux = small_net(classes=4), nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> object:
            return (self.net(x), self.aux(x.flatten(1))) if self.training else self.net(x)

    model = Two()
    before = model.aux.weight.detach().clone()
    assert run(model, squares(), SHORT).accuracy["validation"] > 0.5
    assert not torch.equal(model.aux.weight, before)


def test_a_parameter_may_get_its_first_gradient_late() -> None:
    class Late(nn.Module):
        """Its second head joins at the third step."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.late, self.steps = small_net(classes=4), nn.Linear(64, 4), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += self.training
            out: torch.Tensor = self.net(x)
            return out + self.late(x.flatten(1)) if self.steps >= 3 else out

    model = Late()
    before = model.late.weight.detach().clone()
    run(model, squares(), SHORT)
    assert not torch.equal(model.late.weight, before)


def test_bf16_trains_in_bf16_with_fp32_weights() -> None:
    seen = set()
    model = small_net(classes=4)
    model[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    result = run(model, squares(), Recipe(epochs=2, batch_size=32, precision="bf16"))
    assert result.precision == "bf16"
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_xavier_draws_all_weights_by_name() -> None:
    one, two = small_net(seed=0), small_net(seed=1)
    draw_weights(one, "xavier", 3)
    draw_weights(two, "xavier", 3)
    assert torch.equal(weights(one), weights(two))
    convolution = one[3].weight  # (16, 8, 3, 3): fan in 72, fan out 144
    bound = math.sqrt(6 / (8 * 9 + 16 * 9))
    assert float(convolution.detach().abs().max()) <= bound
    assert float(convolution.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert torch.equal(one[-1].bias, torch.zeros(10))
    assert torch.equal(one[1].weight, torch.ones(8))
    draw_weights(two, "xavier", 4)
    assert not torch.equal(weights(one), weights(two))
    # a stream for each name: the first layer starts the same in a network that differs behind it
    wide = small_net(classes=7)
    draw_weights(wide, "xavier", 3)
    assert torch.equal(wide[0].weight, one[0].weight)


def test_kaiming_makes_up_for_what_a_relu_takes() -> None:
    """Uniform within √(6 / fan in); eight layers with ReLUs keep the size of a signal that Xavier's lose."""
    model = small_net()
    draw_weights(model, "kaiming", 3)
    bound = math.sqrt(6 / 72)
    assert bound * 0.98 < float(model[3].weight.detach().abs().max()) <= bound
    sizes = {}
    for scheme in ("xavier", "kaiming"):
        deep = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(256, 256), nn.ReLU())))
        draw_weights(deep, scheme, 3)
        x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
        sizes[scheme] = float(deep(x).detach().square().mean())
    assert sizes["kaiming"] == pytest.approx(1, rel=0.7)
    assert sizes["xavier"] < 1.7 / 2**8


def test_equal_layers_do_not_start_equal() -> None:
    twins = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    draw_weights(twins, "xavier", 3)
    assert not torch.equal(twins[0].weight, twins[1].weight)


@pytest.mark.parametrize("scheme", ["xavier", "kaiming"])
def test_a_recipe_starts_there(scheme: str) -> None:
    model, drawn = small_net(classes=4), small_net(classes=4)
    draw_weights(drawn, scheme, 8)
    run(model, squares(), Recipe(epochs=0, init=scheme), seed=8)
    assert torch.equal(weights(model), weights(drawn))


def test_evaluate_counts_and_keeps_logits() -> None:
    images, model = squares(), small_net(classes=4)
    found = evaluate(model, images, images.test, keep_logits=True, batch_size=7)
    assert found.logits is not None
    assert found.logits.shape == (len(images.test), 4)
    assert found.correct == int((found.logits.argmax(1) == images.labels[images.test]).sum())
    assert found.n == len(images.test)
    assert found.loss == pytest.approx(
        float(F.cross_entropy(found.logits, images.labels[images.test])), rel=1e-5
    )
    assert found.accuracy == found.correct / found.n
    whole = evaluate(model, images, images.test)
    assert whole.logits is None
    assert whole.correct == found.correct
    assert model.training


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    images = squares(augmentation=Augmentation(2, True))
    recipe = Recipe(epochs=5, batch_size=32, learning_rate=0.05)
    whole = small_net(classes=4, dropout=0.3)
    expected = run(whole, images, recipe)

    class Killed(Exception):
        pass

    def kill(epoch: int, metrics: Mapping[str, float]) -> None:
        if epoch == 3:
            raise Killed

    checkpoint = FileCheckpoint(tmp_path / "state.safetensors")
    with pytest.raises(Killed):
        run(small_net(classes=4, dropout=0.3), images, recipe, on_epoch=kill, checkpoint=checkpoint)
    resumed, epochs = small_net(classes=4, seed=9, dropout=0.3), []
    result = run(resumed, images, recipe, on_epoch=lambda e, m: epochs.append(e), checkpoint=checkpoint)
    assert epochs == [4, 5]
    assert torch.equal(weights(whole), weights(resumed))
    for one, two in zip(whole.buffers(), resumed.buffers(), strict=True):
        assert torch.equal(one, two)
    assert result.correct == expected.correct
    assert [row["train_loss"] for row in result.curve] == [row["train_loss"] for row in expected.curve]
    # a finished one trains no more
    again = run(small_net(classes=4, seed=9, dropout=0.3), images, recipe, checkpoint=checkpoint)
    assert again.correct == expected.correct
    checkpoint.discard()
    assert checkpoint.load() is None


def test_anothers_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "state.safetensors")
    run(small_net(classes=4), squares(), SHORT, checkpoint=checkpoint)
    with pytest.raises(TrainingError, match="another training"):
        run(small_net(classes=4), squares(), SHORT, seed=2, checkpoint=checkpoint)
    with pytest.raises(TrainingError, match="does not fit"):
        run(small_net(classes=4, width=4), squares(), SHORT, checkpoint=checkpoint)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-50])
    with pytest.raises(TrainingError, match="cannot be read"):
        run(small_net(classes=4), squares(), SHORT, checkpoint=checkpoint)


def test_a_checkpoint_may_be_written_less_often(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "state.safetensors", every=2)
    run(small_net(classes=4), squares(), SHORT, checkpoint=checkpoint)
    state = checkpoint.load()
    assert state is not None
    assert state.epoch == 2


def test_an_estimate_touches_nothing_and_is_made_of_warm_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: a first step of 5 s and others of 1 s; a cold judging of 7 s and a warm one of 2 s."""
    images, model = squares(), small_net(classes=4)
    times = iter([5.0, 1.0, 1.0, 1.0, 7.0, 2.0])

    def clock(work: Callable[[], Any], device: torch.device) -> float:
        work()
        return next(times)

    monkeypatch.setattr(estimate, "_seconds", clock)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    seconds, speed, form = estimate_epoch(model, images, SHORT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    training, seen = len(images.pool) - images.validation_size, len(images.pool)
    assert seconds == pytest.approx(training / SHORT.batch_size + 2.0 * images.validation_size / seen)
    assert (speed, form) == (SHORT.batch_size / 1.0, "eager")


def test_real_mnist(shared_data: Path) -> None:
    images = load_dataset("mnist", data_dir=shared_data, fraction=0.05)
    result = run(small_net(), images, get_recipe("fast", epochs=2, batch_size=16))
    assert result.accuracy["test"] > 0.7
