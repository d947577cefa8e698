"""From a plan's counts to runs: which architecture, seed, split and images each training has. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reborn_nas.analysis import confirmation_design, control_design, plan_screen
from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.seeds import derive_seed
from reborn_nas.study.plan.contrast import Contrast, Side
from reborn_nas.study.plan.phases import Phase
from reborn_nas.study.plan.runs import Run

__all__ = [
    "baseline_runs",
    "candidate_runs",
    "confirm_runs",
    "control_runs",
    "screen_blocks",
    "screen_runs",
    "search_runs",
]


def screen_blocks(phase: Phase, contrast: Contrast, seed: int) -> int:
    """Number of train/validation splits that the screen uses, at least 1."""
    return max([1, *(run.block + 1 for run in screen_runs(phase, contrast, BackboneSpec("own:any"), seed))])


def baseline_runs(count: int, contrast: Contrast, spec: BackboneSpec, seed: int, blocks: int) -> list[Run]:
    """The two end points of the screen, half each: level 0 everywhere and level 1 everywhere, over its splits."""
    runs = []
    for index in range(count // 2):
        for level, arm in enumerate((contrast.reference_arm, contrast.arms[0])):
            side = (contrast.low, contrast.high)[level]
            chosen = dict.fromkeys(contrast.factors, side.default)
            runs.append(
                _designed(
                    f"baseline/{arm}/{index}", "baseline", arm, contrast, spec, chosen,
                    seed=seed, block=index % blocks, levels=dict.fromkeys(contrast.factors, level),
                )
            )  # fmt: skip
    return runs


def screen_runs(phase: Phase, contrast: Contrast, spec: BackboneSpec, seed: int) -> list[Run]:
    """The balanced screen, one whole design after the other, each with splits of its own."""
    runs: list[Run] = []
    first_block = 0
    names = list(contrast.factors)
    varied = contrast.high if len(contrast.high.variants) > 1 else contrast.low
    for batch, size in enumerate(phase.batches):
        plan = plan_screen(
            len(names),
            size,
            seed=derive_seed(seed, "screen", batch) >> 32,
            kernels=varied.kernels,
            compressions=varied.compressions,
            edition=phase.edition(batch),
        )
        design = (
            plan.design if varied is contrast.high else ~plan.design
        )  # options vary where the row is True
        for row in range(size):
            chosen, levels = {}, {}
            for column, name in enumerate(names):
                on = bool(plan.design[row, column])
                level = int(design[row, column])
                side = (contrast.low, contrast.high)[level]
                chosen[name] = _variant(side, plan, row, column) if on else side.default
                levels[name] = level
            runs.append(
                _designed(
                    f"screen/{len(runs)}", "screen", "design", contrast, spec, chosen,
                    seed=seed, block=first_block + int(plan.block[row]), levels=levels,
                )
            )  # fmt: skip
        first_block += int(plan.block.max()) + 1
    return runs


def _variant(side: Side, plan: Any, row: int, column: int) -> Choice:
    kernel = None if plan.kernel is None or not side.kernels else int(plan.kernel[row, column])
    compression = (
        None if plan.compression is None or not side.compressions else str(plan.compression[row, column])
    )
    return side.variant(kernel, compression)


def search_runs(count: int, seed: int, blocks: int) -> list[Run]:
    """Slots that the sampler fills when they are claimed."""
    return [
        Run(f"search/{index}", "search", "sampled", _seed(seed, f"search/{index}"), block=index % blocks)
        for index in range(count)
    ]


def candidate_runs(count: int, candidate: Architecture, contrast: Contrast, seed: int) -> list[Run]:
    """Candidate and the network with the reference everywhere, half each, judged by the test images."""
    runs = []
    parent = contrast.reference(candidate.backbone)
    for index in range(count // 2):
        for arm, architecture in (("candidate", candidate), (contrast.reference_arm, parent)):
            key = f"candidate/{arm}/{index}"
            runs.append(
                Run(
                    key, "candidate", arm, _seed(seed, key), block=index, part="test",
                    architecture=architecture.to_dict(), parameters=_parameters(architecture, contrast),
                )
            )  # fmt: skip
    return runs


def confirm_runs(
    count: int, incumbent: Architecture, factors: Sequence[str], contrast: Contrast, seed: int
) -> list[Run]:
    """2^(5−1) over the top `factors` on the incumbent, the others held; judged by the reserved images."""
    design = confirmation_design(len(factors), count, seed=derive_seed(seed, "confirm") >> 32)
    low = dict.fromkeys(factors, contrast.low.default)
    high = {name: contrast.tested_at(incumbent, name) for name in factors}
    return list(_two_level("confirm", design, incumbent, low, high, contrast, seed))


def control_runs(
    phase: Phase, incumbent: Architecture, factors: Sequence[str], contrast: Contrast, seed: int
) -> list[Run]:
    """Level 1's block (1) against its positive twin (0) over the top `factors` on the incumbent."""
    from reborn_nas.study.plan.decide import twin

    drawn = derive_seed(seed, "control") >> 32
    design = control_design(len(factors), phase.count, seed=drawn, edition=phase.edition())
    high = {name: contrast.tested_at(incumbent, name) for name in factors}
    low = {name: twin(choice) for name, choice in high.items()}
    return list(_two_level("control", design, incumbent, low, high, contrast, seed))


def _two_level(
    phase: str,
    design: Any,
    incumbent: Architecture,
    low: Mapping[str, Choice],
    high: Mapping[str, Choice],
    contrast: Contrast,
    seed: int,
) -> Iterator[Run]:
    for row in range(len(design)):
        levels = {name: int(design[row, column]) for column, name in enumerate(high)}
        changes = {
            site: (high if levels[name] else low)[name] for name in high for site in contrast.factors[name]
        }
        architecture = incumbent.with_choices(changes)
        key = f"{phase}/{row}"
        yield Run(
            key, phase, "design", _seed(seed, key), block=row // 16, part="reserve",
            architecture=architecture.to_dict(), parameters=_parameters(architecture, contrast), levels=levels,
        )  # fmt: skip


def _designed(
    key: str,
    phase: str,
    arm: str,
    contrast: Contrast,
    spec: BackboneSpec,
    chosen: Mapping[str, Choice],
    *,
    seed: int,
    block: int,
    levels: Mapping[str, int],
) -> Run:
    return Run(
        key,
        phase,
        arm,
        _seed(seed, key),
        block=block,
        architecture=contrast.architecture(spec, chosen).to_dict(),
        parameters={name: choice.label for name, choice in chosen.items()},
        levels=levels,
    )


def _parameters(architecture: Architecture, contrast: Contrast) -> dict[str, str]:
    """Factor → label of what stands at its first site."""
    return {name: architecture.choice(sites[0]).label for name, sites in contrast.factors.items()}


def _seed(seed: int, key: str) -> int:
    return derive_seed(seed, "trial", key)
