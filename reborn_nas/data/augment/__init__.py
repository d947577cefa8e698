"""What is done to training images: crops, flips, policies, erasing, all of it drawn from the training's seed."""

from reborn_nas.data.augment.crops import Offsets, crop_flip, draw_offsets
from reborn_nas.data.augment.draws import Draws
from reborn_nas.data.augment.policies import policy_faults
from reborn_nas.data.augment.settings import (
    MIXING,
    NO_AUGMENTATION,
    PAPER_AUGMENTATION,
    Augmentation,
    augmentation_faults,
)

__all__ = [
    "MIXING",
    "NO_AUGMENTATION",
    "PAPER_AUGMENTATION",
    "Augmentation",
    "Draws",
    "Offsets",
    "augmentation_faults",
    "crop_flip",
    "draw_offsets",
    "policy_faults",
]
