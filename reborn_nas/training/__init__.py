"""Recipes and the training loop. It reports through a callback and knows nothing of who listens."""

from reborn_nas.machine import available_cores, available_memory
from reborn_nas.training.checkpoint import Checkpoint, FileCheckpoint, TrainingState
from reborn_nas.training.device.cpu import cpu_threads, threads_each
from reborn_nas.training.device.precision import cpu_has_bf16, parameter_count, resolve_precision
from reborn_nas.training.device.selection import pick_device
from reborn_nas.training.evaluation import evaluate
from reborn_nas.training.loop import train
from reborn_nas.training.measure.doctor import examine
from reborn_nas.training.measure.estimate import Estimate, estimate_epoch
from reborn_nas.training.measure.example import example_of, save_example
from reborn_nas.training.recipe.files import from_settings, is_file, read_recipe
from reborn_nas.training.recipe.presets import get_recipe, recipe_names
from reborn_nas.training.recipe.recipe import Recipe, batch_sizes, learning_rates, recipe_in_words
from reborn_nas.training.result import Evaluation, TrainingResult
from reborn_nas.training.step.compiled import second_rung
from reborn_nas.training.suits import check_recipe
from reborn_nas.training.weights import draw_weights

__all__ = [
    "Checkpoint",
    "Evaluation",
    "FileCheckpoint",
    "Recipe",
    "TrainingResult",
    "TrainingState",
    "available_cores",
    "available_memory",
    "batch_sizes",
    "check_recipe",
    "cpu_has_bf16",
    "cpu_threads",
    "draw_weights",
    "Estimate",
    "estimate_epoch",
    "evaluate",
    "examine",
    "example_of",
    "from_settings",
    "get_recipe",
    "is_file",
    "learning_rates",
    "parameter_count",
    "pick_device",
    "read_recipe",
    "recipe_in_words",
    "recipe_names",
    "resolve_precision",
    "save_example",
    "second_rung",
    "threads_each",
    "train",
]
