"""The images of a study: a data set by its name, or what a function of the user's own returns."""

from __future__ import annotations

from typing import Any

from reborn_nas.data import ImageSet, load_dataset
from reborn_nas.errors import DataError, RebornError, blame_machine
from reborn_nas.seeds import kept_generators, seed_everything
from reborn_nas.study.config.functions import is_factory
from reborn_nas.study.setup.own import load_function

__all__ = ["load_images"]


def load_images(dataset: Any, **how: Any) -> ImageSet:
    """The data set that a setting names, with the arguments of `load_dataset`.

    Raises:
        RebornError: there is no such data set or function, or what it returns cannot be used.
    """
    if not isinstance(dataset, str) or not is_factory(dataset):
        return load_dataset(dataset, **how)
    function = load_function(dataset, "dataset")
    try:
        with kept_generators():  # so that each process of a study has the same random_split
            seed_everything(0)
            made = function()
    except RebornError:
        raise
    except Exception as error:
        blame_machine(error, f"data set {dataset!r}")
        raise DataError(
            f"data set {dataset!r}: its function failed: {type(error).__name__}: {error}"
        ) from error
    if made is None or isinstance(made, str):
        raise DataError(
            f"data set {dataset!r}: its function returned {made!r}, not torch Datasets: one for training, or "
            '{"train": …, "validation": …, "test": …}'
        )
    return load_dataset(made, name=dataset, **how)
