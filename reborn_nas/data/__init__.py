"""Data sets by name, the use of every image, and batches on the device."""

from reborn_nas.data.augment import (
    NO_AUGMENTATION,
    PAPER_AUGMENTATION,
    Augmentation,
    Offsets,
    crop_flip,
    draw_offsets,
)
from reborn_nas.data.datasets import dataset_names, load_dataset
from reborn_nas.data.images import ImageSet, Split, resize, split
from reborn_nas.data.parts import Parts, draw_stratified, plan_parts
from reborn_nas.data.resident import Resident

__all__ = [
    "NO_AUGMENTATION",
    "PAPER_AUGMENTATION",
    "Augmentation",
    "ImageSet",
    "Offsets",
    "Parts",
    "Resident",
    "Split",
    "crop_flip",
    "dataset_names",
    "draw_offsets",
    "draw_stratified",
    "load_dataset",
    "plan_parts",
    "resize",
    "split",
]
