"""The study's two-level question: a tested activation (level 1) against its reference (level 0) at each factor."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reborn_nas.activations import complete
from reborn_nas.architecture import ORIGINAL, Architecture, BackboneSpec, Choice
from reborn_nas.backbone import Site
from reborn_nas.space import SearchSpace

__all__ = ["Contrast", "Side", "make_contrast", "members_of", "twin"]

DEFAULT_VARIANT = ("kernel_size", "compression")


@dataclass(frozen=True)
class Side:
    """One side of the contrast.

    Args:
        choice: as the user named it.
        variants: (kernel size, compression) → completed choice. One entry ("", "") if there is nothing to vary.
    """

    choice: Choice
    variants: Mapping[tuple[int, str], Choice]

    @property
    def default(self) -> Choice:
        """The default variant: the paper's kernel 3 and compression 1×1 if available."""
        for key, variant in self.variants.items():
            if key == (3, "1x1"):
                return variant
        return next(iter(self.variants.values()))

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes to balance; empty if there is at most one."""
        found = sorted({kernel for kernel, _ in self.variants})
        return tuple(found) if len(found) > 1 else ()

    @property
    def compressions(self) -> tuple[str, ...]:
        """Compressions to balance; empty if there is at most one."""
        found = sorted({compression for _, compression in self.variants})
        return tuple(found) if len(found) > 1 else ()

    def variant(self, kernel: int | None, compression: str | None) -> Choice:
        """The variant with these options; None selects the default."""
        own = next(key for key, choice in self.variants.items() if choice == self.default)
        return self.variants[
            (own[0] if kernel is None else kernel, own[1] if compression is None else compression)
        ]


@dataclass(frozen=True)
class Contrast:
    """The two-level question, and the factors at which it is asked.

    Args:
        low, high: level 0, the reference, and level 1, the tested activation.
        factors: factor (a parameter of the search space) → its sites.
        left_out: factor → why the question is not asked there.
    """

    low: Side
    high: Side
    factors: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]

    @property
    def arms(self) -> tuple[str, str]:
        """Names of the tested activation and of its reference: ("reborn", "original")."""
        return str(self.high.choice), str(self.low.choice)

    @property
    def reference_arm(self) -> str:
        """The arm of the runs that have the reference at every factor: "parent" if that is the unchanged backbone."""
        return "parent" if self.low.choice == ORIGINAL else str(self.low.choice)

    def reference(self, spec: BackboneSpec) -> Architecture:
        """The backbone with the reference at every factor: the study's parent."""
        return self.architecture(spec, dict.fromkeys(self.factors, self.low.default))

    def tested_at(self, incumbent: Architecture, factor: str) -> Choice:
        """The choice of level 1 at a factor: the incumbent's form if it has one, else the default form."""
        held = incumbent.choice(self.factors[factor][0])
        own = held.name == self.high.choice.name and held not in self.low.variants.values()
        return held if own else self.high.default

    def labels(self) -> tuple[str, ...]:
        """Every label that a factor may have in a designed run."""
        return tuple(
            dict.fromkeys(choice.label for side in (self.low, self.high) for choice in side.variants.values())
        )

    def architecture(self, spec: BackboneSpec, chosen: Mapping[str, Choice]) -> Architecture:
        """The backbone with `chosen` (factor → choice) at the factors' sites, the originals elsewhere."""
        return Architecture(
            spec, {site: choice for name, choice in chosen.items() for site in self.factors[name]}
        )


def make_contrast(
    tested: Choice, reference: Choice, space: SearchSpace, sites: Sequence[Site], spec: BackboneSpec
) -> Contrast:
    """The contrast of `tested` against `reference` at every parameter of `space` whose sites all admit both.

    If an activation is named without options and the space offers several forms of it, those that every factor admits
    are its variants, and kernel size and compression are balanced inside the screen.
    """
    low, high = reference, tested
    by_name = {site.name: site for site in sites}
    groups = members_of(space, sites, spec)
    labels = space.site_parameters(sites)
    factors: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    offered = [labels[name] for name in groups]
    wanted = {side: _forms(side, offered, required=False) for side in (low, high)}
    for name, members in groups.items():
        reason = ""
        for side in (low, high):
            forms = [form for form in wanted[side] if form.label in labels[name]] or [_complete(side)]
            for member in members:
                if all(_refusal(by_name[member], form) for form in forms):
                    reason = f"{side}: {_refusal(by_name[member], forms[0])}"
        if reason:
            left_out[name] = reason
        else:
            factors[name] = members
    everywhere = [by_name[member] for members in factors.values() for member in members]
    kept_labels = [labels[name] for name in factors]
    return Contrast(
        _side(low, kept_labels, everywhere), _side(high, kept_labels, everywhere), factors, left_out
    )


def twin(choice: Choice) -> Choice:
    """The positive twin of a reborn choice: the same block and options, fed with the positive phase."""
    return Choice("positive_twin", **choice.options) if choice.name == "reborn" else choice


def members_of(space: SearchSpace, sites: Sequence[Site], spec: BackboneSpec) -> dict[str, tuple[str, ...]]:
    """Parameter of the sites → its sites: those whose choice it sets."""
    members = {}
    for name, labels in space.site_parameters(sites).items():
        versions = [space.architecture({name: label}, sites, spec) for label in labels[:2]]
        members[name] = tuple(
            site.name for site in sites if versions[0].choice(site.name) != versions[1].choice(site.name)
        )
    return members


def _forms(side: Choice, labels: Sequence[Sequence[str]], required: bool) -> list[Choice]:
    """The forms of `side` that the space offers: at every factor (`required`) or at any."""
    if side == ORIGINAL or side.items:
        return []
    offered = [{label for label in row if Choice.parse(label).name == side.name} for row in labels]
    if not offered:
        return []
    common = set.intersection(*offered) if required else set.union(*offered)
    return [Choice.parse(label) for row in labels for label in row if label in common]


def _side(side: Choice, labels: Sequence[Sequence[str]], sites: Sequence[Site]) -> Side:
    forms = {form.label: form for form in _forms(side, labels, required=True)}
    fitting = [form for form in forms.values() if not any(_refusal(site, form) for site in sites)]
    variants = {_options(form): form for form in fitting if _is_plain(form)}
    kernels = sorted({kernel for kernel, _ in variants})
    compressions = sorted({compression for _, compression in variants})
    grid = list(itertools.product(kernels, compressions))
    if not grid:
        only = _complete(side)
        return Side(side, {_options(only): only})
    if not all(key in variants for key in grid):  # without a full grid, one form is used
        first = next(iter(variants))
        return Side(side, {first: variants[first]})
    return Side(side, {key: variants[key] for key in grid})


def _is_plain(form: Choice) -> bool:
    """Only kernel and compression vary inside the screen; other options keep their default."""
    default = dict(_complete(Choice(form.name)).items)
    return all(form.options.get(key) == value for key, value in default.items() if key not in DEFAULT_VARIANT)


def _options(form: Choice) -> tuple[int, str]:
    options = form.options
    kernel = options.get("kernel_size", 0)
    return (int(kernel), str(options.get("compression", "")))


def _complete(choice: Choice) -> Choice:
    return choice if choice == ORIGINAL else complete(choice)


def _refusal(site: Site, choice: Choice) -> str | None:
    return None if choice == ORIGINAL else site.refusal(choice)
