"""Each recipe by name against the plain loop with the same settings: images a second, and accuracy over seeds.

    python -m tests.benchmarks.recipes --data FOLDER [--images 3000] [--epochs 3] [--seeds 3] [--out FILE]

FOLDER holds `train/<class>/` and `test/<class>/` with images of 32 pixels; the trainings have `--images` of the first
and are judged by `--test-images` of the second. The plain loop is what people write with timm and torch: its
transforms image by image in a DataLoader with workers, its optimizer, `Mixup`, losses and parameter groups, bf16
autocast where ours has it; the learning rates are the recipe's. Both train the same network from the same weights, in
turns; the time is that of the epochs, without judging. `cpu_ratio` compares images a CPU second, workers included,
which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision.transforms as T
from PIL import Image
from timm.data import Mixup, create_transform
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn
from torch.utils.data import DataLoader

import reborn_nas  # noqa: F401 - registers the networks
from reborn_nas.data import NO_AUGMENTATION, ImageSet, Resident, load_dataset, plan_parts, split
from reborn_nas.data.images import assemble
from reborn_nas.training import (
    Recipe,
    batch_sizes,
    draw_weights,
    evaluate,
    get_recipe,
    learning_rates,
    recipe_names,
    resolve_precision,
    train,
)
from reborn_nas.training.mixing import Mixing
from tests.benchmarks.harness import hardware, paired, print_table

CPU = torch.device("cpu")


class Pictures(torch.utils.data.Dataset[Any]):
    """An image at a time, from memory, with the transforms of torchvision or timm."""

    def __init__(self, images: ImageSet, indices: torch.Tensor, recipe: Recipe) -> None:
        self.pixels = images.images[indices].permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels[indices].tolist()
        own = recipe.augmentation(images.augmentation)
        if own.scale is None:
            self.transform: Any = T.Compose([
                T.RandomCrop(32, padding=own.crop_padding), T.RandomHorizontalFlip(own.mirrored), T.ToTensor(),
                T.Normalize(images.mean, images.std),
            ])  # fmt: skip
        else:
            self.transform = create_transform(
                32, is_training=True, scale=own.scale, ratio=own.ratio, hflip=own.mirrored, color_jitter=None,
                auto_augment=own.aa, interpolation="bilinear", mean=images.mean, std=images.std,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[Any, int]:
        while True:
            try:
                return self.transform(Image.fromarray(self.pixels[k])), self.labels[k]
            except ValueError:  # Pillow refuses timm's posterising to 0 bits
                continue


def plain(
    model: nn.Module, images: ImageSet, indices: torch.Tensor, recipe: Recipe, seed: int, workers: int
) -> float:
    """Train `model`; seconds of the epochs."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - timm's Mixup draws from it
    data = Pictures(images, indices, recipe)
    mix, loss = _mixup(recipe, images.num_classes), _loss(recipe)
    loader = DataLoader(
        data,
        recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=mix is not None,
    )
    optimizer = _optimizer(model, recipe)
    steps = len(loader)
    rates = learning_rates(recipe, steps)
    model.train()
    start = time.perf_counter()
    for epoch in range(recipe.epochs):
        for step, (pictures, labels) in enumerate(loader):
            for group in optimizer.param_groups:
                group["lr"] = rates[epoch * steps + step]
            targets = labels
            if mix is not None:
                pictures, targets = mix(pictures, labels)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
                value = loss(model(pictures), targets)
            optimizer.zero_grad()
            value.backward()
            if recipe.clip_grad:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
            optimizer.step()
    return time.perf_counter() - start


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _mixup(recipe: Recipe, classes: int) -> Any:
    own = recipe.augment
    if not recipe.mixes:
        return None
    return Mixup(
        own.get("mixup", 0), own.get("cutmix", 0), label_smoothing=recipe.label_smoothing, num_classes=classes
    )


def _loss(recipe: Recipe) -> nn.Module:
    if recipe.loss == "bce":
        return BinaryCrossEntropy(recipe.label_smoothing, recipe.loss_args.get("target_threshold"))
    return (
        SoftTargetCrossEntropy()
        if recipe.mixes
        else nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    )


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            0.1,
            recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
    made: torch.optim.Optimizer = create_optimizer_v2(
        model, opt=recipe.optimizer, lr=0.1, weight_decay=recipe.weight_decay, momentum=recipe.momentum
    )
    return made


def ours(model: nn.Module, images: ImageSet, indices: torch.Tensor, recipe: Recipe, seed: int) -> float:
    """The same by `train`."""
    result = train(
        model, images, train_indices=indices, evaluate={}, recipe=recipe, seed=seed, every_epoch=()
    )
    return float(sum(row["seconds"] for row in result.curve))


def measure(
    images: ImageSet,
    indices: torch.Tensor,
    judged_by: torch.Tensor,
    recipe: Recipe,
    seeds: int,
    workers: int,
    network: str,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Images a second and accuracies of both, trained on `indices` and judged by others, a pair a seed."""
    seen = {"ours": sum(batch_sizes(len(indices), recipe.batch_size)), "plain": len(indices)}
    if recipe.mixes:
        seen["plain"] -= len(indices) % recipe.batch_size
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    right: dict[str, list[float]] = {"ours": [], "plain": []}
    spent: dict[str, list[float]] = {"ours": [], "plain": []}
    for seed in range(seeds):
        start = timm.create_model(network, num_classes=images.num_classes, in_chans=3, **arguments)
        draw_weights(start, "kaiming" if recipe.init == "default" else recipe.init, seed)
        settled = replace(recipe, init="default", precision=resolve_precision(recipe.precision, CPU, start))
        order = ("ours", "plain") if seed % 2 == 0 else ("plain", "ours")
        for name in order:
            model, before = copy.deepcopy(start), cpu_seconds()
            if name == "ours":
                seconds = ours(model, images, indices, settled, seed)
            else:
                seconds = plain(model, images, indices, settled, seed, workers)
            spent[name].append((cpu_seconds() - before) / seen[name])
            rates[name].append(recipe.epochs * seen[name] / seconds)
            judged = evaluate(model, images, judged_by, "cpu", settled.precision)
            right[name].append(judged.correct / judged.n)
    ratio = paired(np.log(rates["ours"]) - np.log(rates["plain"]))
    cpu = paired(np.log(spent["plain"]) - np.log(spent["ours"]))
    gap = paired(100 * (np.array(right["ours"]) - np.array(right["plain"])), 2)
    return {
        "recipe": recipe.name, "precision": settled.precision, "images": len(indices), "epochs": recipe.epochs,
        "batch": recipe.batch_size, "seeds": seeds, "ours_per_second": [round(x) for x in rates["ours"]],
        "plain_per_second": [round(x) for x in rates["plain"]],
        "ratio": round(float(np.exp(ratio[0])), 2), "ratio_low": round(float(np.exp(ratio[1])), 2),
        "ratio_high": round(float(np.exp(ratio[2])), 2), "ours_accuracy": [round(100 * x, 2) for x in right["ours"]],
        "plain_accuracy": [round(100 * x, 2) for x in right["plain"]], "gap_points": gap,
        "cpu_ratio": [round(float(np.exp(value)), 2) for value in cpu],
    }  # fmt: skip


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "scale": {"scale": [0.35, 1.0]},
    "aa=randaugment": {"aa": "randaugment"},
    "aa=trivialaugment": {"aa": "trivialaugment"},
    "aa=rand-m6-mstd0.5-inc1": {"aa": "rand-m6-mstd0.5-inc1"},
    "color_jitter": {"color_jitter": 0.4},
    "reprob=0.25": {"reprob": 0.25, "remode": "pixel"},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "mixup of each image": {"mixup": 0.2, "mixup_mode": "elem"},
}


def augmentations(side: int, count: int) -> list[dict[str, Any]]:
    """CPU microseconds that each augmentation adds to an image of `side` pixels, beside being read and normalised."""
    labels = torch.arange(count) % 10
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
    parts = plan_parts(labels, "0123456789", name="noise", train=torch.arange(count))
    images = assemble("noise", lambda kept: pixels[kept], labels, "0123456789", parts, NO_AUGMENTATION)
    sizes = [len(images.pool) // 2] * 2

    def run(recipe: Recipe) -> float:
        data = Resident(images, images.pool, augmentation=recipe.augmentation(images.augmentation))
        best = float("inf")
        for epoch in range(4):
            start = time.process_time()
            batches = data.epoch(sizes, seed=0, epoch=epoch)
            for _ in Mixing(recipe.augment, 10, 0).batches(batches, epoch):
                pass
            best = min(best, time.process_time() - start)
        return 1e6 * best / sum(sizes)

    plain = run(Recipe())
    rows = [{"side": side, "augmentation": "none", "us_an_image": round(plain, 1)}]
    for name, augment in AUGMENTATIONS.items():
        recipe = Recipe(crop_padding=4, flip=True) if not augment else Recipe(augment=augment)
        rows.append({"side": side, "augmentation": name, "us_an_image": round(run(recipe) - plain, 1)})
    return rows


def _some(indices: torch.Tensor, count: int) -> torch.Tensor:
    """`count` of them at random, always the same."""
    drawn = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    return indices[drawn[:count]]


def main() -> None:
    """All recipes, one after another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--data", type=Path, help="without it, only the augmentations are timed")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--network", default="convnet8")
    parser.add_argument(
        "--network-args", type=json.loads, default={"width": 0.5}, help="JSON, its further arguments"
    )
    parser.add_argument("--recipes", nargs="+", default=list(recipe_names()))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.data is None:
        print_table(
            [*augmentations(32, 1200), *augmentations(224, 100)], "what an augmentation adds, CPU time"
        )
        return
    images = load_dataset(f"folder:{options.data}")
    indices = _some(split(images, block=0, seed=0).train, options.images)
    judged_by = _some(images.test, options.test_images)
    rows = []
    for name in options.recipes:
        recipe = get_recipe(name, epochs=options.epochs)
        rows.append(
            measure(
                images,
                indices,
                judged_by,
                recipe,
                options.seeds,
                options.workers,
                options.network,
                options.network_args,
            )
        )
        print(json.dumps(rows[-1]), flush=True)
    if options.out is not None:
        kept = {
            "hardware": hardware(),
            "network": {"name": options.network, **options.network_args},
            "workers": options.workers,
            "test_images": len(judged_by),
            "rows": rows,
        }
        options.out.write_text(json.dumps(kept, indent=1) + "\n")
    print_table([{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows], "recipes")


if __name__ == "__main__":
    main()
