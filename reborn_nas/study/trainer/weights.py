"""Which trained weights a run keeps: all while there is room, then the best, or the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reborn_nas.files import safe_join, write_atomic
from reborn_nas.records import DIGITS, EXPLORED, TrialRecord
from reborn_nas.study.config.objectives import is_beaten, objective_values

if TYPE_CHECKING:
    from torch import nn

__all__ = ["keep_weights"]


ROOM = 256 * 2**20
"""Bytes of weights that each folder may hold: within them all are kept, beyond them those that none beats."""


def keep_weights(
    folder: Path,
    record: TrialRecord,
    model: nn.Module,
    save_example: Callable[[Path], None] | None,
    validation: float,
    objectives: Sequence[str] = ("accuracy",),
) -> str:
    """Keep the weights while there is room; without, if no kept training beats this one, in place of some it beats.

    Screen and exploration share their room, so that the best observed training is among those that are kept; equals
    are kept too.

    Args:
        folder: the run folder.
        save_example: writes what the network makes of an example; None where there is none.
        validation: score on the validation part: it ranks, whatever else the training was judged by.
        objectives: of the exploration.

    Returns:
        The file's path relative to the run folder, "" where the weights are not kept. Beside the file lies a batch of
        images with the network's logits.
    """
    if record.phase not in (*EXPLORED, "candidate"):
        return ""
    names = objectives if record.phase in EXPLORED else ("accuracy",)
    costs = objective_values(record, names[1:])
    if costs is None:
        return ""
    from safetensors.torch import save

    group = "search-sampled" if record.phase in EXPLORED else f"{record.phase}-{record.arm}"
    home = safe_join(folder, "checkpoints", group)
    kept = {path: _rank(path, len(names)) for path in home.glob("*.safetensors")} if home.is_dir() else {}
    rank = (round(validation, DIGITS), *costs)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    missing = sum(value.nbytes for value in state.values()) + sum(map(_bytes, kept)) - ROOM
    if missing > 0 and any(is_beaten(rank, other, names) for other in kept.values()):
        return ""
    home.mkdir(parents=True, exist_ok=True)
    words = [record.key.replace("/", "-"), *(f"{cost:.9g}" for cost in costs), f"{rank[0]:.6f}"]
    name = "~".join(words) + ".safetensors"
    if save_example is not None:
        save_example((home / name).with_suffix(".example"))
    about = {"format": "pt", "digest": record.digest, "key": record.key}
    write_atomic(home / name, save(state, metadata=about))
    beaten = [path for path, other in kept.items() if is_beaten(other, rank, names)]
    for path in sorted(beaten, key=lambda one: kept[one]):
        if missing <= 0:
            break
        missing -= _bytes(path)
        path.unlink(missing_ok=True)
        path.with_suffix(".example").unlink(missing_ok=True)
    return f"checkpoints/{home.name}/{name}"


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another worker dropped it
        return 0


def _rank(path: Path, count: int) -> tuple[float, ...]:
    """Accuracy and costs as the file's name tells them; worse than any where it tells none."""
    words = path.name.removesuffix(".safetensors").split("~")
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        return (-float("inf"), *[float("inf")] * (count - 1))
    return (numbers[-1], *numbers[:-1])
