"""The checks after the control: top sites alone, what else the block might be, and another learning rate.

Whole parts, in this order: the top three sites each alone on the parent; extended conv and norm + ReLU beside reborn
and its positive twin at all top sites of the incumbent at once; the top site again at a second learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from reborn_nas.activations import complete
from reborn_nas.architecture import Architecture, Choice
from reborn_nas.seeds import derive_seed
from reborn_nas.study.plan.contrast import Contrast
from reborn_nas.study.plan.decide import twin
from reborn_nas.study.plan.runs import Run

__all__ = ["CHECK_PARTS", "SECOND_RATE", "TOP_ALONE", "check_labels", "check_runs", "whole_checks"]

CHECK_PARTS = (("alone", 16), ("controls", 32), ("rate", 16))
"""Name and trainings of each part."""

TOP_ALONE = 3
SECOND_RATE = 1 / 3
"""The second learning rate as a share of the recipe's: lower, so that what trains at the first trains at it too."""

CONTROLS = ("extended_conv", "norm_relu")

Admits = Callable[[str, Choice], bool]


def whole_checks(count: int) -> int:
    """The smallest number of whole parts' trainings of at least `count`; all of them above that."""
    total = 0
    for _, size in CHECK_PARTS:
        if total >= count:
            break
        total += size
    return total


def check_labels() -> tuple[str, ...]:
    """Labels that a factor may have in a check and in no other phase."""
    return tuple(complete(Choice(name)).label for name in CONTROLS)


def check_runs(
    count: int,
    incumbent: Architecture,
    top: Sequence[str],
    leading: Sequence[str],
    contrast: Contrast,
    seed: int,
    admits: Admits,
) -> list[Run]:
    """The parts that fit whole into `count`, judged by the reserved images.

    Args:
        incumbent: the candidate.
        top: the factors of confirmation and control.
        leading: the factors by rank, the first three of them at least where there are so many.
        admits: whether a site takes a choice; a control that a top site refuses is left out.
    """
    made: list[Run] = []
    parts: tuple[Callable[[int], _Made], ...] = (
        lambda size: _alone(size, incumbent, leading[:TOP_ALONE], contrast),
        lambda size: _controls(size, incumbent, top, contrast, admits),
        lambda size: _rate(size, incumbent, leading[0], contrast),
    )
    for (name, size), part in zip(CHECK_PARTS, parts):
        count -= size
        if count < 0:
            break
        for arm, block, architecture, levels, rate in part(size):
            key = f"checks/{name}-{len(made)}"
            made.append(
                Run(
                    key, "checks", arm, derive_seed(seed, "trial", key), block=block, part="reserve",
                    architecture=architecture.to_dict(), levels=levels, rate=rate,
                    parameters={f: architecture.choice(sites[0]).label for f, sites in contrast.factors.items()},
                )
            )  # fmt: skip
    return made


_Made = Iterator[tuple[str, int, Architecture, Mapping[str, int], float]]


def _alone(size: int, incumbent: Architecture, leading: Sequence[str], contrast: Contrast) -> _Made:
    """The parent, and each leading factor alone at level 1 on it; equal numbers, one of each in a split."""
    parent = contrast.reference(incumbent.backbone)
    arms: list[str | None] = [None, *leading]
    for index in range(size // len(arms) * len(arms)):
        factor = arms[index % len(arms)]
        levels = {name: int(name == factor) for name in leading}
        chosen = _with(
            parent, [factor] if factor else [], lambda name: contrast.tested_at(incumbent, name), contrast
        )
        yield "alone", index // len(arms), chosen, levels, 1.0


def _controls(
    size: int, incumbent: Architecture, top: Sequence[str], contrast: Contrast, admits: Admits
) -> _Made:
    """Reborn, its positive twin and the other controls at all top factors at once."""
    sites = [site for name in top for site in contrast.factors[name]]
    others = [complete(Choice(name)) for name in CONTROLS]
    kept = [choice for choice in others if all(admits(site, choice) for site in sites)]
    arms: dict[str, Callable[[str], Choice]] = {
        "reborn": lambda name: contrast.tested_at(incumbent, name),
        "positive_twin": lambda name: twin(contrast.tested_at(incumbent, name)),
        **{choice.name: lambda name, choice=choice: choice for choice in kept},  # type: ignore[misc]
    }
    names = list(arms)
    for index in range(size // len(names) * len(names)):
        arm = names[index % len(names)]
        yield f"controls:{arm}", index // len(names), _with(incumbent, top, arms[arm], contrast), {}, 1.0


def _rate(size: int, incumbent: Architecture, lead: str, contrast: Contrast) -> _Made:
    """The leading factor at level 0 and at level 1 on the incumbent, at the second learning rate."""
    for index in range(size):
        level = index % 2
        choice = contrast.tested_at(incumbent, lead) if level else contrast.low.default
        chosen = _with(incumbent, [lead], lambda name, choice=choice: choice, contrast)  # type: ignore[misc]
        yield "rate", index // 2, chosen, {lead: level}, SECOND_RATE


def _with(
    architecture: Architecture, factors: Sequence[str], choice: Callable[[str], Choice], contrast: Contrast
) -> Architecture:
    return architecture.with_choices(
        {site: choice(name) for name in factors for site in contrast.factors[name]}
    )
