"""Recipes and the training loop. It reports through a callback and knows nothing of who listens."""

from reborn_nas.training.checkpoint import Checkpoint, FileCheckpoint, TrainingState
from reborn_nas.training.compiled import second_rung
from reborn_nas.training.cores import available_cores, available_memory, cpu_threads, threads_each
from reborn_nas.training.estimate import Estimate, estimate_epoch
from reborn_nas.training.evaluation import evaluate
from reborn_nas.training.example import example_of, save_example
from reborn_nas.training.initial import draw_weights
from reborn_nas.training.loop import train
from reborn_nas.training.precision import cpu_has_bf16, parameter_count, resolve_precision
from reborn_nas.training.recipe import Recipe, get_recipe, recipe_names
from reborn_nas.training.result import Evaluation, TrainingResult
from reborn_nas.training.schedule import batch_sizes, learning_rates

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
    "cpu_has_bf16",
    "cpu_threads",
    "draw_weights",
    "Estimate",
    "estimate_epoch",
    "evaluate",
    "example_of",
    "get_recipe",
    "learning_rates",
    "parameter_count",
    "recipe_names",
    "resolve_precision",
    "save_example",
    "second_rung",
    "threads_each",
    "train",
]
