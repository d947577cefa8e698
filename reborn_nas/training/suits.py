"""Whether a recipe suits the images and the network that it is to train."""

from __future__ import annotations

from torch import nn

from reborn_nas.data import ImageSet
from reborn_nas.errors import TrainingError
from reborn_nas.training.losses import class_weights
from reborn_nas.training.optimisers import layers_of
from reborn_nas.training.recipe.recipe import Recipe


def check_recipe(recipe: Recipe, images: ImageSet, model: nn.Module) -> None:
    """Raise what a recipe alone does not show.

    Raises:
        TrainingError: mixing images of a single class, a policy for images that are neither grey nor RGB or of
            16 bits, weights for
            another number of classes, smoothing that lifts every class over the threshold, a layer decay for a network
            that does not name its layers.
    """
    classes, (channels, *_) = images.num_classes, images.input_size
    if recipe.mixes and classes < 2:
        raise TrainingError("augment: mixup and cutmix mix classes, and there is one; leave them out")
    augmentation = recipe.augmentation(images.augmentation)
    if augmentation.by_image and channels not in (1, 3):
        raise TrainingError(
            f"augment: aa and color_jitter change grey and RGB images, and these have {channels} channels; leave "
            "them out"
        )
    if augmentation.by_image and images.one > 255:
        raise TrainingError(
            "augment: aa and color_jitter change images of 8 bits, and these are kept in 16; leave them out"
        )
    threshold = recipe.loss_args.get("target_threshold")
    least = recipe.label_smoothing / classes
    if threshold is not None and recipe.loss == "bce" and least > threshold:
        raise TrainingError(
            f"label_smoothing: with {classes} classes every target is at least {least:.3g}, above target_threshold "
            f"{threshold:g}, so that all classes would be right; take less of it"
        )
    if recipe.class_weights is not None:
        class_weights(recipe.class_weights, images.labels[images.pool], classes)
    if recipe.layer_decay is not None:
        layers_of(model)
