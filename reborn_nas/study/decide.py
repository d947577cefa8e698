"""What the later phases ask, decided from the records of the earlier ones. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reborn_nas.architecture import Architecture, BackboneSpec, Choice
from reborn_nas.records import TrialRecord
from reborn_nas.study.contrast import Contrast, Side

__all__ = ["Candidate", "decide_candidate", "top_factors", "twin"]

TOP = 5


@dataclass(frozen=True)
class Candidate:
    """The architecture that is compared with the parent.

    Args:
        architecture: the network.
        source: "screen", "search" or "rule": what it was decided from.
        reason: one sentence for people.
    """

    architecture: Architecture
    source: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"architecture": self.architecture.to_dict(), "source": self.source, "reason": self.reason}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_dict`."""
        return cls(Architecture.from_dict(data["architecture"]), data["source"], data["reason"])


def decide_candidate(
    screen: Sequence[TrialRecord], search: Sequence[TrialRecord], contrast: Contrast, spec: BackboneSpec
) -> Candidate:
    """Level 1 where the screen's estimate is positive, in the pooled best form; without a screen the search's best."""
    usable = [record for record in screen if record.accuracy is not None and record.levels]
    if usable and contrast.factors:
        effects = _effects(usable, contrast)
        form, told = _best_form(usable, contrast)
        chosen = {name: form if effects[name] > 0 else contrast.low.default for name in contrast.factors}
        many = sum(effect > 0 for effect in effects.values())
        reason = (
            f"{contrast.high.choice} at the {many} of {len(effects)} factors whose estimate is above 0{told}"
        )
        return Candidate(contrast.architecture(spec, chosen), "screen", reason)
    done = [record for record in search if record.state == "complete" and record.accuracy is not None]
    if done:
        best = max(done, key=lambda record: (record.accuracy or 0.0, -record.params, record.key))
        architecture = Architecture.from_dict(best.architecture)
        return Candidate(architecture, "search", f"the best of {len(done)} search trials ({best.key})")
    chosen = dict.fromkeys(contrast.factors, contrast.high.default)
    return Candidate(contrast.architecture(spec, chosen), "rule", f"{contrast.high.choice} at every factor")


def top_factors(
    screen: Sequence[TrialRecord], contrast: Contrast, count: int = TOP, seed: int = 0
) -> list[str]:
    """The factors most probably among the `count` largest effects, in the contrast's order."""
    from reborn_nas.analysis import site_effects

    names = list(contrast.factors)
    if len(names) <= count:
        return names
    usable = [record for record in screen if record.accuracy is not None and record.levels]
    design, accuracy, block = _arrays(usable, names)
    table = site_effects(design, accuracy, names=names, block=block, seed=seed)
    ranked = table.sort_values(["p_top5", "effect"], ascending=False)["site"].head(count)
    top = set(ranked)
    return [name for name in names if name in top]


def twin(choice: Choice) -> Choice:
    """The positive twin of a reborn choice: the same block and options, fed with the positive phase."""
    return Choice("positive_twin", **choice.options) if choice.name == "reborn" else choice


def _arrays(records: Sequence[TrialRecord], names: Sequence[str]) -> tuple[Any, Any, Any]:
    import numpy as np

    design = np.array([[bool(record.levels[name]) for name in names] for record in records])
    accuracy = np.array([record.accuracy for record in records], dtype=float)
    return design, accuracy, np.array([record.block for record in records])


def _effects(records: Sequence[TrialRecord], contrast: Contrast) -> dict[str, float]:
    """Least-squares effect of each factor with the blocks taken out; a screen is balanced, a lost run does not hurt."""
    import numpy as np

    names = list(contrast.factors)
    design, accuracy, block = _arrays(records, names)
    blocks = (block[:, None] == np.unique(block)[None, :]).astype(float)
    matrix = np.hstack([design - 0.5, blocks])
    solution = np.linalg.lstsq(matrix, accuracy, rcond=None)[0]
    return {name: float(solution[index]) for index, name in enumerate(names)}


def _best_form(records: Sequence[TrialRecord], contrast: Contrast) -> tuple[Choice, str]:
    """The pooled best kernel and compression: of the forms, that with the largest mean effect over all factors."""
    import numpy as np

    side: Side = contrast.high
    if len(side.variants) < 2:
        return side.default, ""
    _, accuracy, block = _arrays(records, list(contrast.factors))
    forms = list(side.variants.items())
    kernels = sorted({key[0] for key, _ in forms})
    compressions = sorted({key[1] for key, _ in forms})
    labels = {choice.label: key for key, choice in forms}
    values_of: tuple[list[int] | list[str], ...] = (kernels, compressions)
    columns = [
        [
            sum(labels.get(label, (0, ""))[axis] == value for label in record.parameters.values())
            for record in records
        ]
        for axis, values in enumerate(values_of)
        for value in values
    ]
    blocks = (block[:, None] == np.unique(block)[None, :]).astype(float)
    matrix = np.hstack([np.array(columns, dtype=float).T, blocks])
    # minimum-norm solution: kernel and compression counts both add up to the number of level-1 sites
    solution = np.linalg.lstsq(matrix, accuracy, rcond=None)[0]
    kernel = kernels[int(np.argmax(solution[: len(kernels)]))]
    compression = compressions[int(np.argmax(solution[len(kernels) : len(kernels) + len(compressions)]))]
    words = [f"kernel {kernel}"] * (len(kernels) > 1) + [f"compression {compression}"] * (
        len(compressions) > 1
    )
    return side.variants[(kernel, compression)], f", with the pooled best {' and '.join(words)}"
