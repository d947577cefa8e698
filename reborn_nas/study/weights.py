"""Which trained weights a run keeps: the best of each arm; of a search with several objectives its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reborn_nas.files import replace_durably, safe_join
from reborn_nas.records import TrialRecord
from reborn_nas.study.objectives import is_dominated, objective_values
from reborn_nas.training.example import save_example

if TYPE_CHECKING:
    from torch import nn

    from reborn_nas.data import ImageSet

__all__ = ["keep_weights"]


def keep_weights(
    folder: Path,
    record: TrialRecord,
    model: nn.Module,
    images: ImageSet,
    validation: float,
    objectives: Sequence[str] = ("accuracy",),
) -> str:
    """Keep the weights unless a kept training of the same arm is as good in every objective; drop those it beats.

    Args:
        folder: the run folder.
        validation: accuracy on the validation images: it ranks, whatever else the training was judged by.
        objectives: of the search phase.

    Returns:
        The file's path relative to the run folder, "" where the weights are not kept. Beside the file lies a batch of
        images with the network's logits.
    """
    if record.phase not in ("search", "candidate"):
        return ""
    names = objectives if record.phase == "search" else ("accuracy",)
    costs = objective_values(record, names[1:])
    if costs is None:
        return ""
    from safetensors.torch import save_file

    home = safe_join(folder, "checkpoints", f"{record.phase}-{record.arm}")
    kept = {path: _rank(path, len(names)) for path in home.glob("*.safetensors")} if home.is_dir() else {}
    rank = (validation, *costs)
    if is_dominated(rank, kept.values(), names):
        return ""
    home.mkdir(parents=True, exist_ok=True)
    words = [record.key.replace("/", "-"), *(f"{cost:.9g}" for cost in costs), f"{validation:.6f}"]
    name = "~".join(words) + ".safetensors"
    partial = home / f".{name}.tmp"
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    save_file(state, partial, metadata={"format": "pt", "digest": record.digest, "key": record.key})
    save_example(model, images, (home / name).with_suffix(".example"))
    replace_durably(partial, home / name)
    for path, other in kept.items():
        if is_dominated(other, [rank], names):
            path.unlink(missing_ok=True)
            path.with_suffix(".example").unlink(missing_ok=True)
    return f"checkpoints/{home.name}/{name}"


def _rank(path: Path, count: int) -> tuple[float, ...]:
    """Accuracy and costs as the file's name tells them; worse than any where it tells none."""
    words = path.name.removesuffix(".safetensors").split("~")
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        return (-1.0, *[float("inf")] * (count - 1))
    return (numbers[-1], *numbers[:-1])
