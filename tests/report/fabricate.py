"""Made-up studies with planted effects, as records: what a report is tested with."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pandas as pd
from scipy.linalg import hadamard

from reborn_nas.records import PHASES, TrialRecord
from reborn_nas.report.results.view import RunView

NOISE = 0.003


def sites(count: int) -> list[dict[str, object]]:
    """Site entries: five of a small net, or the 33 of a ResNet-34."""
    if count == 5:
        shapes = [(16, 8, 8), (16, 8, 8), (32, 4, 4), (32, 4, 4), (64, 2, 2)]
        return [
            {"name": f"act{k + 1}", "index": k, "stage": [0, 0, 1, 1, 2][k], "block": "", "channels": s[0], "shape": s,
             "activation": "relu", "added_params": 11 * s[0] ** 2 + 2 * s[0],
             "added_macs": 11 * s[0] ** 2 * s[1] * s[2]}
            for k, s in enumerate(shapes)
        ]  # fmt: skip
    rows: list[dict[str, object]] = [
        {"name": "act1", "stage": 0, "block": "", "channels": 64, "shape": (64, 32, 32)}
    ]
    for stage, (blocks, channels, side) in enumerate([(3, 64, 32), (4, 128, 16), (6, 256, 8), (3, 512, 4)]):
        rows += [
            {"name": f"layer{stage + 1}.{b}.act{a}", "stage": stage, "block": f"layer{stage + 1}.{b}",
             "channels": channels, "shape": (channels, side, side)}
            for b in range(blocks) for a in (1, 2)
        ]  # fmt: skip
    for index, row in enumerate(rows[:count]):
        c, h, w = row["shape"]  # type: ignore[misc]
        row |= {
            "index": index,
            "activation": "relu",
            "added_params": 11 * c * c,
            "added_macs": 11 * c * c * h * w,
        }
    return rows[:count]


def foldover(count: int, replicates: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Balanced designs stacked, with their block index. Sylvester's orders only."""
    order = 2 ** int(np.ceil(np.log2(count + 1)))
    parts, blocks = [], []
    for replicate in range(replicates):
        half = hadamard(order)[:, 1 + rng.permutation(order - 1)[:count]] > 0
        parts += [half, ~half]
        blocks += [replicate] * (2 * order)
    return np.vstack(parts), np.array(blocks)


def planted(count: int, seed: int = 0) -> np.ndarray:
    """Effects in [0, 1] units of accuracy: a few of half a point, the rest small, one harmful."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(0, 0.0004, count)
    effects[: min(4, count)] += [0.011, 0.007, 0.0005, 0.004][: min(4, count)]
    if count > 4:
        effects[-1] = -0.0065
    if count > 20:
        effects[[6, 12, 20]] += [0.006, 0.0048, 0.0035]
    return effects


def records(count: int = 5, *, replicates: int = 2, search: int = 16, seed: int = 0, names: list[str] | None = None,
            noise: float = NOISE, confirm: bool = True, epochs: int = 30) -> list[TrialRecord]:  # fmt: skip
    """A whole study's trials: baseline, screen, search, candidate, confirm, control."""
    rng = np.random.default_rng(seed)
    table = sites(count)
    names = names or [str(row["name"]) for row in table]
    effects = planted(count, seed)
    made: list[TrialRecord] = []

    def add(phase: str, arm: str, on: np.ndarray, *, block: int = 0, mean: float = 0.0, levels: bool = False,
            part: str = "validation", n: int = 5000, label: str = "reborn(compression=1x1,kernel_size=3)",
            test: bool = False, fine: list[str] | None = None) -> None:  # fmt: skip
        number = sum(record.phase == phase for record in made)
        accuracy = float(np.clip(0.86 + mean + effects @ on + rng.normal(0, noise), 0, 1))
        labels = fine or [label] * count
        choices = {name: labels[k] for k, name in enumerate(names) if on[k]}
        cost = [int(row["added_params"]) for row in table]  # type: ignore[call-overload]
        macs = [int(row["added_macs"]) for row in table]  # type: ignore[call-overload]
        made.append(
            TrialRecord(
                key=f"{phase}/{number}", phase=phase, arm=arm, number=number, state="complete",
                architecture={"version": 1, "backbone": {"source": "timm:resnet34"}, "choices": choices},
                parameters=choices, levels={name: int(on[k]) for k, name in enumerate(names)} if levels else {},
                block=block, seed=int(rng.integers(2**62)), accuracy=accuracy, accuracy_part=part, accuracy_n=n,
                test_accuracy=accuracy - 0.004 if test else None, test_n=10000 if test else 0,
                train_loss_sum=float(40 - 20 * accuracy), epochs=epochs, seconds=float(20 + rng.random()),
                overhead_seconds=0.1, params=21_300_000 + int(on @ cost), macs=1_160_000_000 + int(on @ macs),
                device="cuda:0", digest="0" * 12, curve=f"curves/{phase}-{number}.csv",
                started="2026-01-02T03:04:05Z", finished="2026-01-02T03:04:25Z",
                environment={"python": "3.12", "torch": "2.11"},
            )
        )  # fmt: skip

    none, every = np.zeros(count), np.ones(count)
    shifts = rng.normal(0, 0.004, replicates)
    for index in range(8):
        block = index % replicates
        add("baseline", "parent", none, block=block, mean=shifts[block])
        add("baseline", "reborn", every, block=block, mean=shifts[block])
    design, blocks = foldover(count, replicates, rng)
    for on, block in zip(design, blocks):
        forms = [f"reborn(compression=1x1,kernel_size={k})" for k in rng.choice([1, 3, 5], count)]
        add(
            "screen",
            "design",
            on.astype(float),
            block=int(block),
            mean=shifts[block],
            levels=True,
            fine=forms,
        )
    for _ in range(search):
        add("search", "sampled", (rng.random(count) < 0.6).astype(float))
    best = (effects > 0).astype(float)
    for _ in range(8):
        add("candidate", "parent", none, part="reserve", test=True)
        add("candidate", "candidate", best, part="reserve", test=True)
    if confirm:
        top = np.argsort(-effects)[:5]
        for level in range(32):
            bits = [(level >> k) & 1 for k in range(4)]
            bits.append(1 - sum(bits) % 2)
            on = best.copy()
            on[top] = bits[: len(top)]
            made_before = len(made)
            add("confirm", "design", on, part="reserve")
            made[made_before].levels.update({names[s]: int(on[s]) for s in top})  # type: ignore[attr-defined]
        for row in np.tile(hadamard(8)[:, 1:4] > 0, (6, 1)):
            made_before = len(made)
            add("control", "design", none, part="reserve")
            made[made_before].levels.update(  # type: ignore[attr-defined]
                {names[s]: int(row[k]) for k, s in enumerate(top[:3])}
            )
    return made


def curves(key: str) -> pd.DataFrame:
    """A plausible learning curve, another one for each key."""
    rng = np.random.default_rng(crc32(key.encode()))
    epoch = np.arange(1, 31)
    accuracy = 0.86 - 0.5 * np.exp(-epoch / 6) + rng.normal(0, 0.004, 30)
    return pd.DataFrame(
        {"epoch": epoch, "train_loss": 2 * np.exp(-epoch / 9) + 0.1, "validation_accuracy": accuracy}
    )


def view(count: int = 5, *, title: str = "resnet34-cifar100", **options: object) -> RunView:
    """A whole made-up run."""
    made = records(count, **options)  # type: ignore[arg-type]
    table = sites(count)
    for row, name in zip(table, options.get("names") or []):  # type: ignore[call-overload]
        row["name"] = name
    phases = [
        {"phase": name, "planned": sum(record.phase == name for record in made)} for name in PHASES[:-1]
    ]
    return RunView(
        title=title, records=made, sites=table, phases=phases, curves=curves,
        config={"backbone": "timm:resnet34", "dataset": "cifar100", "recipe": "fast", "epochs": 30, "seed": 0},
        environment={"python": "3.12.7", "torch": "2.11", "gpu": "NVIDIA H200"},
        notes=("The stem is the small-image one (3×3, stride 1, no pooling).",),
        command="reborn-nas search --backbone resnet34 --dataset cifar100 --trials 300",
    )  # fmt: skip
