"""How well short trainings rank architectures: Kendall's τ between short warm, short scratch and full scratch.

Random architectures of the paper's choices are trained three ways, with the same seeds and the same division of the
images: from scratch with all epochs, from scratch with few, and with few from one trained parent whose function the
conversion preserves as far as the choice can. A ranking is that of the mean validation accuracy over the seeds. The
ceiling is τ between two seeds of full trainings: no cheaper training can be expected to agree better with one of them.

    python -m tests.benchmarks.fidelity --json FILE [--architectures 24 --seeds 2 --full 20 --short 3]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.backbone import apply, build, discover, plan, resolve
from reborn_nas.data import ImageSet, load_dataset, split
from reborn_nas.files import write_atomic
from reborn_nas.training import Recipe, train
from tests.benchmarks.harness import hardware, print_table

LABELS = ("original", "reborn", "crelu", "silu", "elu", "selu", "celu", "prelu", "leaky_relu")
WAYS = ("full scratch", "short scratch", "short warm")
RESAMPLES = 2000


def train_once(
    spec: BackboneSpec,
    choices: Mapping[str, str],
    images: ImageSet,
    *,
    epochs: int,
    seed: int,
    parent: Mapping[str, torch.Tensor] | None = None,
    learning_rate: float = 0.1,
    final: bool = False,
) -> tuple[float, float, torch.nn.Module]:
    """Accuracy, seconds and the network of one training.

    Args:
        final: train on training and validation images, judge by the test images; else by the validation images.
    """
    torch.manual_seed(seed)
    model = build(spec, device="cpu")
    if parent is not None:
        model.load_state_dict(dict(parent))
    if choices:
        init = "xavier" if parent is None else "preserve"
        steps = plan(model, Architecture(spec, dict(choices)), spec.input_size, init=init)
        model = apply(model, steps, inplace=True, seed=seed)
    parts = split(images, block=0, seed=0)
    start = time.process_time()
    result = train(
        model,
        images,
        train_indices=images.pool if final else parts.train,
        evaluate={"judged": images.test if final else parts.validation},
        every_epoch=(),
        recipe=Recipe(
            epochs=epochs,
            batch_size=64,
            learning_rate=learning_rate,
            init="default" if parent is not None else "xavier",
        ),
        seed=seed,
        device="cpu",
    )
    return float(result.accuracy["judged"]), time.process_time() - start, model


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """(way, architecture, seed) accuracies and the CPU seconds of each way."""
    images = load_dataset("digits")
    spec = resolve(options.backbone, input_size=images.input_size, num_classes=len(images.classes))
    sites = [site.name for site in discover(build(spec, device="meta"), spec.input_size).sites]
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(LABELS), size=(options.architectures, len(sites)))
    _, parent_seconds, trained = train_once(spec, {}, images, epochs=options.full, seed=10_000)
    parent = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    accuracy = np.zeros((len(WAYS), options.architectures, options.seeds))
    seconds = np.zeros(len(WAYS))
    for index, row in enumerate(drawn):
        choices = {name: LABELS[code] for name, code in zip(sites, row, strict=True) if code}
        for seed in range(options.seeds):
            for way, epochs, start in (
                (0, options.full, None),
                (1, options.short, None),
                (2, options.short, parent),
            ):
                found, took, _ = train_once(spec, choices, images, epochs=epochs, seed=seed, parent=start)
                accuracy[way, index, seed] = found
                seconds[way] += took
    return {"accuracy": accuracy, "seconds": seconds, "parent_seconds": parent_seconds}


def agreement(accuracy: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """τ between the ways' mean accuracies (W, A, S) with bootstrap intervals over architectures, and the ceiling."""
    means = accuracy.mean(axis=2)
    rows = [
        {"between": WAYS[one], "and": WAYS[other], **tau(means[one], means[other])}
        for one, other in combinations(range(len(WAYS)), 2)
    ]
    for one, other in combinations(range(accuracy.shape[2]), 2):
        for way, name in enumerate(WAYS):
            rows.append(
                {
                    "between": f"{name}, seed {one}",
                    "and": f"{name}, seed {other}",
                    **tau(accuracy[way, :, one], accuracy[way, :, other]),
                }
            )
    return rows


def tau(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> dict[str, float]:
    """Kendall's τ-b with a 95 % interval by bootstrap over architectures."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(one), size=len(one)) for _ in range(RESAMPLES)]
    found = np.array([kendalltau(one[rows], other[rows]).statistic for rows in drawn])
    low, high = np.nanquantile(found, [0.025, 0.975])
    return {
        "tau": round(float(kendalltau(one, other).statistic), 3),
        "ci_low": round(float(low), 3),
        "ci_high": round(float(high), 3),
    }


def main() -> None:
    """Measure and print, with `--json` write it too."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="convnet5")
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--full", type=int, default=20, help="epochs of a full training")
    parser.add_argument("--short", type=int, default=3, help="epochs of a short one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options)
    rows = agreement(found["accuracy"])
    trainings = options.architectures * options.seeds
    ways = [
        {
            "way": name,
            "mean accuracy": round(float(found["accuracy"][way].mean()), 4),
            "sd over architectures": round(float(found["accuracy"][way].mean(axis=1).std(ddof=1)), 4),
            "CPU seconds a training": round(float(found["seconds"][way]) / trainings, 3),
        }
        for way, name in enumerate(WAYS)
    ]
    print_table(ways, "trainings")
    print_table(rows, "Kendall's tau")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        record = {
            "benchmark": "fidelity",
            "hardware": hardware(),
            "data": "digits",
            "settings": settings,
            "parent CPU seconds": round(found["parent_seconds"], 3),
            "ways": ways,
            "tau": rows,
            "accuracy": dict(zip(WAYS, found["accuracy"].round(5).tolist(), strict=True)),
        }
        write_atomic(options.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
