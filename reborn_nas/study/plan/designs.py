"""From a plan's counts to runs: which architecture, seed, split and images each training has. Pure functions.

The checks after the control are complete parts, in this order: the top three sites, each alone on the parent; extended
conv and norm + ReLU against reborn and its positive twin at all top sites of the incumbent; the top site at a second
learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reborn_nas.activations import complete
from reborn_nas.analysis import plan_confirmation, plan_control, plan_screen
from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.records import TrialRecord
from reborn_nas.seeds import derive_seed
from reborn_nas.study.plan.contrast import Contrast, Side, twin
from reborn_nas.study.plan.phases import CHECK_PARTS, KINDS, Phase

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = [
    "Run",
    "SECOND_RATE",
    "TOP_SINGLE",
    "baseline_runs",
    "candidate_runs",
    "check_labels",
    "check_runs",
    "confirm_runs",
    "control_runs",
    "screen_runs",
    "search_runs",
]


@dataclass(frozen=True)
class Run:
    """A training of the plan, as plain data.

    Args:
        key: unique in the study and stable over resumes, such as `screen/17`.
        phase: one of `records.PHASES`.
        arm: its group in the phase.
        seed: of initialisation, order and augmentation.
        block: index of the train/validation split.
        part: the part of the data that judges it: "validation", "reserve" or "test".
        architecture: `Architecture.to_dict()`; None where the sampler proposes.
        parameters: Optuna parameters, name → label.
        levels: two-level coding of a designed run, factor → 0 or 1.
        rate: factor on the recipe's learning rate.
    """

    key: str
    phase: str
    arm: str
    seed: int
    block: int = 0
    part: str = "validation"
    architecture: Mapping[str, Any] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)
    rate: float = 1.0

    def failure(
        self, number: int, reason: str, architecture: Mapping[str, Any], parameters: Mapping[str, str]
    ) -> TrialRecord:
        """The record of a run that no worker could finish."""
        return TrialRecord(
            key=self.key,
            phase=self.phase,
            arm=self.arm,
            number=number,
            state="failed",
            architecture=architecture,
            parameters=dict(parameters),
            levels=dict(self.levels),
            block=self.block,
            seed=self.seed,
            accuracy_part=self.part,
            reason=reason,
        )

    def to_attributes(self) -> dict[str, Any]:
        """User attributes of the trial: everything but the parameters."""
        attributes: dict[str, Any] = {
            "key": self.key,
            "phase": self.phase,
            "arm": self.arm,
            "seed": self.seed,
            "block": self.block,
            "part": self.part,
        }
        if self.architecture is not None:
            attributes["architecture"] = dict(self.architecture)
        if self.levels:
            attributes["levels"] = dict(self.levels)
        if self.rate != 1.0:
            attributes["rate"] = self.rate
        return attributes

    @classmethod
    def from_trial(cls, trial: FrozenTrial) -> Run:
        """The run of which `trial` is an attempt."""
        attributes = trial.user_attrs
        return cls(
            key=attributes["key"],
            phase=attributes["phase"],
            arm=attributes["arm"],
            seed=attributes["seed"],
            block=attributes["block"],
            part=attributes["part"],
            architecture=attributes.get("architecture"),
            parameters=dict(trial.params),
            levels=attributes.get("levels", {}),
            rate=attributes.get("rate", 1.0),
        )


def baseline_runs(count: int, contrast: Contrast, spec: BackboneSpec, seed: int, blocks: int) -> list[Run]:
    """The two end points of the screen, half each: level 0 everywhere and level 1 everywhere, on its splits."""
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
    """The balanced screen, one complete design after another, each with its own splits."""
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
    """Slots for which the sampler proposes architectures when they are claimed."""
    return [
        Run(f"search/{index}", "search", "sampled", _seed(seed, f"search/{index}"), block=index % blocks)
        for index in range(count)
    ]


def candidate_runs(count: int, candidate: Architecture, contrast: Contrast, seed: int) -> list[Run]:
    """Candidate and the network with the reference everywhere, half each, judged by the test images."""
    parent = contrast.reference(candidate.backbone)
    arms = {"candidate": _told(candidate, contrast), contrast.reference_arm: _told(parent, contrast)}
    return [
        Run(
            key := f"candidate/{arm}/{index}", "candidate", arm, _seed(seed, key), block=index,
            part=KINDS["candidate"].part, **told,
        )
        for index in range(count // 2)
        for arm, told in arms.items()
    ]  # fmt: skip


def confirm_runs(
    phase: Phase, incumbent: Architecture, factors: Sequence[str], contrast: Contrast, seed: int
) -> list[Run]:
    """A factorial over the top `factors` on the incumbent, with the others fixed; judged by the reserved images."""
    drawn = derive_seed(seed, "confirm") >> 32
    design = plan_confirmation(len(factors), phase.count, drawn, edition=phase.edition())
    low = dict.fromkeys(factors, contrast.low.default)
    high = {name: contrast.tested_at(incumbent, name) for name in factors}
    return list(_two_level("confirm", *design, incumbent, low, high, contrast, seed))


def control_runs(
    phase: Phase, incumbent: Architecture, factors: Sequence[str], contrast: Contrast, seed: int
) -> list[Run]:
    """Level 1's block (1) against its positive twin (0) over the top `factors` on the incumbent."""
    drawn = derive_seed(seed, "control") >> 32
    design = plan_control(len(factors), phase.count, drawn, edition=phase.edition())
    high = {name: contrast.tested_at(incumbent, name) for name in factors}
    low = {name: twin(choice) for name, choice in high.items()}
    return list(_two_level("control", *design, incumbent, low, high, contrast, seed))


def _two_level(
    phase: str,
    design: Any,
    block: Any,
    incumbent: Architecture,
    low: Mapping[str, Choice],
    high: Mapping[str, Choice],
    contrast: Contrast,
    seed: int,
) -> Iterator[Run]:
    networks: dict[tuple[int, ...], Mapping[str, Any]] = {}
    for row, on in enumerate(map(tuple, design.astype(int).tolist())):
        levels = dict(zip(high, on))
        if on not in networks:
            changes = {
                site: (high if levels[name] else low)[name]
                for name in high
                for site in contrast.factors[name]
            }
            networks[on] = _told(incumbent.with_choices(changes), contrast)
        key = f"{phase}/{row}"
        yield Run(
            key, phase, "design", _seed(seed, key), block=int(block[row]), part=KINDS[phase].part, levels=levels,
            **networks[on],
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


def _told(architecture: Architecture, contrast: Contrast) -> dict[str, Any]:
    """A network as its runs have it: the architecture, and factor → label of the choice at its first site."""
    parameters = {name: architecture.choice(sites[0]).label for name, sites in contrast.factors.items()}
    return {"architecture": architecture.to_dict(), "parameters": parameters}


def _seed(seed: int, key: str) -> int:
    return derive_seed(seed, "trial", key)


TOP_SINGLE = 3
SECOND_RATE = 1 / 3
"""The second learning rate as a share of the recipe's; what trains at the recipe's also trains at a lower one."""

CONTROLS = ("extended_conv", "norm_relu")

Admits = Callable[[str, Choice], bool]


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
    """The parts that fit completely into `count`, judged by the reserved images.

    Args:
        incumbent: the candidate.
        top: the factors of confirmation and control.
        leading: the factors by rank, at least the first three if there are as many.
        admits: whether a site admits a choice; a control that a top site refuses is left out.
    """
    made: list[Run] = []
    parts: tuple[Callable[[], _Arms], ...] = (
        lambda: _one_by_one(incumbent, leading[:TOP_SINGLE], contrast),
        lambda: _controls(incumbent, top, contrast, admits),
        lambda: _rate(incumbent, leading[0], contrast),
    )
    for (name, size), part in zip(CHECK_PARTS, parts):
        count -= size
        if count < 0:
            break
        arms = [(arm, levels, rate, _told(network, contrast)) for arm, network, levels, rate in part()]
        for index in range(size // len(arms) * len(arms)):
            arm, levels, rate, told = arms[index % len(arms)]
            key = f"checks/{name}-{len(made)}"
            made.append(
                Run(
                    key, "checks", arm, _seed(seed, key), block=index // len(arms), part=KINDS["checks"].part,
                    levels=levels, rate=rate, **told,
                )
            )  # fmt: skip
    return made


_Arms = Iterator[tuple[str, Architecture, Mapping[str, int], float]]
"""What is compared, one of each in a split: arm, network, levels, factor on the learning rate."""


def _one_by_one(incumbent: Architecture, leading: Sequence[str], contrast: Contrast) -> _Arms:
    """The parent, and the parent with one leading factor at level 1 each."""
    parent = contrast.reference(incumbent.backbone)
    for factor in (None, *leading):
        levels = {name: int(name == factor) for name in leading}
        chosen = _with(
            parent, [factor] if factor else [], lambda name: contrast.tested_at(incumbent, name), contrast
        )
        yield "alone", chosen, levels, 1.0


def _controls(incumbent: Architecture, top: Sequence[str], contrast: Contrast, admits: Admits) -> _Arms:
    """Reborn, its positive twin and the other controls, each at all top factors at once."""
    sites = [site for name in top for site in contrast.factors[name]]
    others = [complete(Choice(name)) for name in CONTROLS]
    kept = [choice for choice in others if all(admits(site, choice) for site in sites)]
    arms: dict[str, Callable[[str], Choice]] = {
        "reborn": lambda name: contrast.tested_at(incumbent, name),
        "positive_twin": lambda name: twin(contrast.tested_at(incumbent, name)),
        **{choice.name: lambda name, choice=choice: choice for choice in kept},  # type: ignore[misc]
    }
    for arm, choice in arms.items():
        yield f"controls:{arm}", _with(incumbent, top, choice, contrast), {}, 1.0


def _rate(incumbent: Architecture, lead: str, contrast: Contrast) -> _Arms:
    """The leading factor at level 0 and at level 1 on the incumbent, at the second learning rate."""
    for level, choice in enumerate((contrast.low.default, contrast.tested_at(incumbent, lead))):
        chosen = _with(incumbent, [lead], lambda name, choice=choice: choice, contrast)  # type: ignore[misc]
        yield "rate", chosen, {lead: level}, SECOND_RATE


def _with(
    architecture: Architecture, factors: Sequence[str], choice: Callable[[str], Choice], contrast: Contrast
) -> Architecture:
    return architecture.with_choices(
        {site: choice(name) for name in factors for site in contrast.factors[name]}
    )
