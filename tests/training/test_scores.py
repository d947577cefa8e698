"""The metrics of classifiers: scikit-learn and torchmetrics are the oracles, and numbers by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as other
from sklearn import metrics as sk

from reborn_nas.data import split
from reborn_nas.errors import ConfigError, TrainingError
from reborn_nas.metric import ACCURACY, Metric
from reborn_nas.metric.classification import METRICS, guess, imbalance, read_metric, undefined
from reborn_nas.training import Recipe, train
from reborn_nas.training.evaluation import evaluate
from reborn_nas.training.losses import one_hot
from reborn_nas.training.scores import class_counts, confusion, score_error, score_value
from tests.training.test_recorded import Recording
from tests.training.toys import small_net, squares

OTHERS = [name for name in METRICS if name != "accuracy"]


def drawn(
    n: int = 300, classes: int = 7, *, absent: int | None = None, ties: bool = False, power: float = 2.0
) -> Any:
    """Logits that know something, and labels of unequal classes; `absent` is predicted, but never right."""
    draws = np.random.default_rng(0)
    shares = np.arange(1, classes + 1) ** power
    if absent is not None:
        shares[absent] = 0
    labels = torch.from_numpy(draws.choice(classes, size=n, p=shares / shares.sum()))
    logits = torch.from_numpy(draws.normal(size=(n, classes))).float()
    logits[torch.arange(n), labels] += 1
    return (logits * 2).round() / 2 if ties else logits, labels


def by_scikit_learn(name: str, logits: torch.Tensor, labels: torch.Tensor) -> float:
    C, right, guessed = logits.shape[1], labels.numpy(), logits.argmax(1).numpy()
    shares = logits.double().softmax(1).numpy()
    present = sorted(set(right.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is predicted and absent
        if name == "accuracy":
            return float(sk.accuracy_score(right, guessed))
        if name == "balanced_accuracy":
            return float(sk.balanced_accuracy_score(right, guessed))
        if name == "macro_f1":
            return float(sk.f1_score(right, guessed, labels=present, average="macro"))
        if name == "auroc":
            return float(np.mean([sk.roc_auc_score(right == k, shares[:, k]) for k in present]))
        if name == "top5":
            return float(sk.top_k_accuracy_score(right, shares, k=5, labels=range(C)))
        return float(sk.log_loss(right, shares, labels=range(C)))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "case", [{}, {"absent": 3}, {"ties": True}, {"n": 12}, {"classes": 80, "n": 900}], ids=str
)
def test_values_are_scikit_learns(name: str, case: dict[str, Any]) -> None:
    logits, labels = drawn(**case)
    if case.get("ties") and name == "top5":
        logits = logits + torch.linspace(
            0, 1e-3, logits.shape[1]
        )  # which of equals is fifth is nobody's rule
    assert float(score_value(name, logits, labels)) == pytest.approx(
        by_scikit_learn(name, logits, labels), abs=1e-12
    )


def test_a_two_class_auroc_is_the_usual_one() -> None:
    logits, labels = drawn(classes=2)
    usual = sk.roc_auc_score(labels.numpy(), logits.double().softmax(1)[:, 1].numpy())
    assert float(score_value("auroc", logits, labels)) == pytest.approx(usual, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("accuracy", lambda x, y, c: other.multiclass_accuracy(x, y, c, average="micro")),
        ("balanced_accuracy", lambda x, y, c: other.multiclass_accuracy(x, y, c, average="macro")),
        ("macro_f1", lambda x, y, c: other.multiclass_f1_score(x, y, c, average="macro")),
        ("auroc", lambda x, y, c: other.multiclass_auroc(x, y, c, average="macro", thresholds=None)),
        ("top5", lambda x, y, c: other.multiclass_accuracy(x, y, c, average="micro", top_k=5)),
    ],
)
def test_values_are_torchmetrics_where_every_class_is_there(name: str, theirs: Callable[..., Any]) -> None:
    logits, labels = drawn()
    assert len(set(labels.tolist())) == 7
    assert float(score_value(name, logits, labels)) == pytest.approx(
        float(theirs(logits, labels, 7)), abs=1e-6
    )
    assert torch.equal(confusion(logits, labels), other.multiclass_confusion_matrix(logits, labels, 7))


def test_a_class_that_is_absent_takes_no_part_in_an_average() -> None:
    """By hand: two classes of three, recalls 1/2 and 1; the third is predicted once."""
    logits = torch.eye(3)[torch.tensor([0, 2, 1])]
    labels = torch.tensor([0, 0, 1])
    assert float(score_value("balanced_accuracy", logits, labels)) == pytest.approx(0.75)
    assert float(score_value("macro_f1", logits, labels)) == pytest.approx((2 / 3 + 1) / 2)
    counts = class_counts(logits, labels)
    assert (counts.images, counts.right, counts.predicted) == ([2, 1, 0], [1, 1, 0], [1, 1, 1])


@pytest.mark.parametrize(
    ("name", "classes", "power"),
    [
        *((name, 7, 1.0) for name in METRICS),
        ("auroc", 2, 1.0),
        ("log_loss", 2, 1.0),
        ("balanced_accuracy", 7, 2.0),
    ],
)
def test_standard_errors_are_those_of_drawing_images_again(name: str, classes: int, power: float) -> None:
    """The oracle draws 300 samples of 500 images from 30,000: none of the formulas, no resampling of one sample.

    With power 2 the rarest class has about four images in a sample.
    """
    everything, labels = drawn(30_000, classes, power=power)
    draws = torch.Generator().manual_seed(1)
    values, errors = [], []
    for k in range(300):
        rows = torch.randint(len(labels), (500,), generator=draws)
        values.append(float(score_value(name, everything[rows], labels[rows])))
        if k < 8:
            errors.append(score_error(name, everything[rows], labels[rows]))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.15)


def test_the_error_of_an_auroc_with_two_images_of_most_classes() -> None:
    """300 sets of 10, 2, 2, 2, 2 and 2 images; a variance with n in its denominator is half of it there."""
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor([10, 2, 2, 2, 2, 2]))
    draws = torch.Generator().manual_seed(0)
    values, variances = [], []
    for _ in range(300):
        logits = torch.randn(len(labels), 6, generator=draws) + one_hot(labels, 6)
        values.append(float(score_value("auroc", logits, labels)))
        variances.append(score_error("auroc", logits, labels) ** 2)
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(values, ddof=1), rel=0.1)


def test_the_error_of_an_auroc_with_one_image_of_a_class_is_not_nothing() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.5]])  # the one is second of four
    area = 2 / 3
    expected = np.sqrt(area * (1 - area) + np.var([1, 0, 1], ddof=1) / 3)
    assert score_error("auroc", logits, labels) == pytest.approx(expected)


def test_the_bootstrap_is_the_same_every_time() -> None:
    logits, labels = drawn()
    assert score_error("macro_f1", logits, labels) == score_error("macro_f1", logits, labels)


def trained(name: str, recorder: Recording | None = None, **more: Any) -> Any:
    images, model = squares(), small_net(classes=4)
    own = split(images, block=0, seed=0)
    result = train(
        model, images, train_indices=own.train,
        evaluate={"validation": own.validation, "first": own.validation[:13]},
        recipe=Recipe(epochs=3, batch_size=40, learning_rate=0.01, precision="fp32"), seed=0, metric=name,
        every_epoch=("validation", "first"), recorder=recorder, **more,
    )  # fmt: skip
    return result, model, images, own


@pytest.mark.parametrize("name", [one for one in OTHERS if one != "top5"])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_training_reports_the_value_of_each_part(name: str, recorded: bool) -> None:
    """Every epoch and at the end, also where judging is replayed; what is trained is not changed by it."""
    result, model, images, own = trained(name, Recording() if recorded else None)
    for part, rows in {"validation": own.validation, "first": own.validation[:13]}.items():
        found = evaluate(model, images, rows, precision="fp32", keep_logits=True)
        assert found.logits is not None
        expected = by_scikit_learn(name, found.logits, images.labels[rows])
        assert result.curve[-1][f"{part}_{name}"] == pytest.approx(expected, abs=1e-6)
        assert result.value[part] == pytest.approx(expected, abs=1e-6)
        assert result.error[part] == pytest.approx(
            score_error(name, found.logits, images.labels[rows]), rel=1e-4
        )
    assert len({row[f"validation_{name}"] for row in result.curve}) > 1
    plain, same, _, _ = trained("accuracy")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values()))
    assert [row["train_loss"] for row in plain.curve] == [row["train_loss"] for row in result.curve]
    assert plain.value == {}
    assert f"validation_{name}" not in plain.curve[0]


def test_a_metric_that_means_nothing_on_a_part_is_refused() -> None:
    with pytest.raises(
        TrainingError, match="metric top5: with 4 classes the right one is always among the first 5"
    ):
        trained("top5")
    images = squares()
    alike = torch.nonzero(images.labels == 2).flatten()
    with pytest.raises(
        TrainingError, match=r"metric auroc: .* the images of the validation part have one class"
    ):
        train(small_net(classes=4), images, train_indices=images.pool, evaluate={"validation": alike},
              recipe=Recipe(epochs=1), seed=0, metric="auroc")  # fmt: skip
    assert undefined("balanced_accuracy", [0, 0], "test") == (
        "metric balanced_accuracy: there are no images of the test part"
    )


def test_a_guess_is_worth_what_frequencies_alone_give() -> None:
    """By hand, for classes of 6, 3 and 1 images in ten."""
    counts = [6, 3, 1]
    worst = {name: guess(metric, counts).worst for name, metric in METRICS.items()}
    assert worst == {
        "accuracy": None,
        "balanced_accuracy": pytest.approx(1 / 3),
        "macro_f1": pytest.approx((2 * 0.6 / 1.6) / 3),
        "auroc": 0.5,
        "top5": 1.0,
        "log_loss": pytest.approx(-(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1))),
    }
    logits = torch.tensor([6.0, 3.0, 1.0]).log().expand(10, 3)
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    for name in ("balanced_accuracy", "macro_f1", "auroc", "log_loss"):
        assert float(score_value(name, logits, labels)) == pytest.approx(worst[name], abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "advised"),
    [
        ([30, 10, 10], True),
        ([29, 10, 10], False),
        ([75, 25], True),
        ([60, 40], False),
        ([10] * 9 + [40], True),
    ],
)
def test_the_largest_class_beside_the_others(counts: list[int], advised: bool) -> None:
    names = [f"class {k}" for k in range(len(counts))]
    text = imbalance(ACCURACY, names, counts)
    assert bool(text) == advised
    if advised:
        assert "--metric balanced_accuracy" in text
        assert f"{max(counts)} of {sum(counts)} training images" in text
        assert "--metric" not in imbalance(METRICS["macro_f1"], names, counts)


def test_names_of_metrics() -> None:
    assert read_metric("log_loss") == METRICS["log_loss"]
    assert read_metric("miou:higher") == Metric("miou", higher_is_better=True)
    with pytest.raises(ConfigError, match=r"unknown metric 'log_los'; did you mean log_loss\?"):
        read_metric("log_los")
