"""What the two sweeps over networks share: workers that check one network each, and a table written row by row."""

from __future__ import annotations

import csv
import io
import multiprocessing
import resource
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["each", "read_rows", "written"]

T = TypeVar("T")


def each(
    check: Callable[[str], T], names: Iterable[str], *, workers: int, tasks: int
) -> Iterator[tuple[T, float]]:
    """The result of `check` for each name, in order, with the peak memory of the worker in GiB.

    Args:
        workers: how many processes work at the same time.
        tasks: after so many networks another process takes a worker's place.
    """
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=tasks) as pool:
        yield from pool.imap(partial(_measured, check), names)


def _measured(check: Callable[[str], T], name: str) -> tuple[T, float]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return check(name), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def read_rows(path: Path, key: str) -> dict[str, dict[str, str]]:
    """The rows of a table by what stands in the column `key`; none where there is no table."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def written(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """The table as CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
