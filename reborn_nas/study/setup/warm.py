"""Warm starts: search trainings that begin at a trained parent, whose function the conversion preserves.

Such a training tells how well a ReLU optimum is repaired, not what the architecture is worth from scratch: it proposes
and never enters a claim. Its record carries `extra["warm"]`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from reborn_nas.backbone import build
from reborn_nas.data import split
from reborn_nas.errors import ConfigError, blame_machine, wait_out
from reborn_nas.files import write_atomic
from reborn_nas.seeds import derive_seed
from reborn_nas.training import train

if TYPE_CHECKING:
    import torch
    from torch import nn

    from reborn_nas.study.setup.context import StudyContext
    from reborn_nas.training import Recipe

__all__ = ["ParentWeights", "is_warm_study", "read_parent", "search_epochs", "search_recipe"]

SPLIT = 0
"""The split whose training images the parent sees; the search is judged by that split's validation images."""


def is_warm_study(context: StudyContext) -> bool:
    """Whether the search's trainings start from a trained parent."""
    return context.config.init == "parent"


def search_recipe(context: StudyContext) -> Recipe:
    """The recipe of a search training."""
    if not is_warm_study(context):
        return context.recipe
    epochs = context.config.warm_epochs or context.recipe.epochs
    return replace(context.recipe, epochs=epochs, init="default")


def search_epochs(context: StudyContext) -> int:
    """Epochs of a search training."""
    return context.config.warm_epochs or context.epochs


class ParentWeights:
    """The trained parent of a study: given by the user, else trained once and kept in the run folder.

    Args:
        context: what all trainings share.
        folder: the run folder.
    """

    def __init__(self, context: StudyContext, folder: Path) -> None:
        self._context = context
        self._given = context.config.parent
        self._path = Path(self._given) if self._given else folder / "checkpoints" / "parent.safetensors"
        self._state: dict[str, torch.Tensor] | None = None

    def ensure(self) -> None:
        """Train the parent unless it is there."""
        if not self._given and not self._path.is_file():
            self._train()

    def load_into(self, model: nn.Module) -> None:
        """Give `model`, the unconverted backbone, the parent's weights. Raises ConfigError where they do not fit."""
        if self._state is None:
            self.ensure()
            self._state = read_parent(self._path, self._context.template)
        model.load_state_dict(self._state)

    def _train(self) -> None:
        context = self._context
        seed = derive_seed(context.config.seed, "warm", "parent")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(context.spec, device="cpu", pretrained=context.config.pretrained)
        parts = split(context.images, block=SPLIT, seed=context.config.seed)
        train(
            model,
            context.images,
            train_indices=parts.train,
            evaluate={},
            every_epoch=(),
            recipe=context.recipe,
            seed=seed,
            device=context.device,
        )
        state = {
            name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()
        }
        data = save(state, metadata={"format": "pt"})
        wait_out(lambda: write_atomic(self._path, data), "the parent's weights cannot be written")


def read_parent(path: str | Path, template: nn.Module) -> dict[str, torch.Tensor]:
    """The weights in a safetensors file, or in the folder of an export, for `template`.

    Raises:
        ConfigError: the file cannot be read, or is of another network; the message says where they differ.
    """
    found = Path(path)
    found = found / "model.safetensors" if found.is_dir() else found
    try:
        state: dict[str, torch.Tensor] = load_file(found)
    except (OSError, SafetensorError) as error:
        blame_machine(error, found)
        raise ConfigError(
            f"parent: {found} cannot be read ({error}); give a safetensors file, or the folder of an export"
        ) from error
    wanted = template.state_dict()
    faults = [f"it lacks {name}" for name in wanted if name not in state]
    faults += [f"it has {name}, which the backbone does not have" for name in state if name not in wanted]
    faults += [
        f"{name} has the shape {tuple(state[name].shape)}, in the backbone {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if faults:
        more = [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
        raise ConfigError(
            f"parent: {found} is not the backbone with its original activations:", [*faults[:5], *more]
        )
    return state
