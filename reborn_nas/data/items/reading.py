"""`Items`: the items of Datasets, read one by one, with what makes a Dataset unusable noticed on the way."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np

from reborn_nas.data.files.headers import HEADER
from reborn_nas.data.files.layout import Layout
from reborn_nas.data.files.levels import array_header
from reborn_nas.data.files.opening import BATCH, BrokenImagesError
from reborn_nas.data.files.settle import settle
from reborn_nas.data.items.given import Part
from reborn_nas.data.items.identity import digest_of
from reborn_nas.data.items.item import as_array, as_label, image_and_label, pixels_in
from reborn_nas.errors import DataError, blame_machine

__all__ = ["BROKEN", "Items", "Rows"]

PROBES = 16
"""Items of each part that are read twice before all others."""

BROKEN = -1
"""The label of an item that could not be read."""

Table = np.ndarray[Any, Any]
T = TypeVar("T")


class Rows(Sequence[str]):
    """The names of items by their rows, made when they are asked for."""

    def __init__(self, counts: Sequence[tuple[str, int]], rows: Table | None = None) -> None:
        self._words = [word for word, _ in counts]
        self._ends = list(accumulate(count for _, count in counts))
        self._rows = np.arange(self._ends[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, k: Any) -> Any:
        row = int(self._rows[k])
        part = int(np.searchsorted(self._ends, row, side="right"))
        return f"item {row - (self._ends[part - 1] if part else 0)} of the {self._words[part]} part"


class Items:
    """Images for a cache: the items of all parts, one after the other.

    Args:
        what: names the data set in messages.
        source: names its cache.
        parts: the Datasets.
        known: what they are known by in place of what they hold; "" looks.

    Raises:
        DataError: a Dataset that does not return labelled images, or returns other ones when it is asked again.
    """

    def __init__(self, what: str, source: str, parts: Sequence[Part], *, known: str = "") -> None:
        self.what, self.source, self.parts = what, source, parts
        held = known or digest_of(
            [part.dataset for part in parts]
        )  # before anything is read, which may change them
        self._running: tuple[int, Iterator[Any]] = (-1, iter(()))
        self._dropped: dict[int, str] = {}
        self._heard = _Heard()
        self.counts = [(part.word, part.count or self._counted(part)) for part in parts]
        self._first = [0, *accumulate(count for _, count in self.counts)]
        self.names = Rows(self.counts)
        self.headers = np.zeros(len(self), HEADER)
        self.labels = np.full(len(self), BROKEN, np.int64)
        self._probed: dict[int, bytes] = {}
        self._probed = self._probe()
        if held is None:  # what it holds cannot be read, so all that it returns is
            held = self._contents()
        text = repr((self.source, self.counts, held, sorted(self._probed.items())))
        self.key = hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return self._first[-1]

    def settle(
        self, rows: Table, headers: Table, size: tuple[int, int] | None, notes: list[str], resize: str
    ) -> Layout:
        """The layout of the items `rows`, each of which has been read, or has a header that is stored."""
        read = self.labels[rows] != BROKEN
        headers[read] = self.headers[rows][read]
        return settle(Rows(self.counts, rows), headers, size, notes, resize)  # type: ignore[arg-type]

    def provisional(self, size: tuple[int, int] | None, resize: str) -> Layout:
        """The layout of all items, if they are like those that were read first."""
        rows = np.array(sorted(self._probed))
        return self.settle(rows, np.zeros(len(rows), HEADER), size, [], resize)

    def recall(self, labels: Table, headers: Table) -> None:
        """Compare what is read from now on with what was stored."""
        unread = self.labels == BROKEN
        self.labels[unread], self.headers[unread] = labels[unread], headers[unread]

    def pixels(self, row: int, header: Any, layout: Layout) -> Table:
        """One item's image in a layout; its header and label are kept."""
        return pixels_in(self._read(row)[0], layout)

    def each(self, count: int, work: Callable[[int], T]) -> Iterator[list[tuple[int, T]]]:
        """`work` on 0 … count − 1, one after the other: a Dataset need not bear threads.

        Raises:
            BrokenImagesError: items that cannot be read, after all have been tried.
        """
        broken: list[tuple[Any, str]] = []
        for first in range(0, count, BATCH):
            good = []
            for k in range(first, min(first + BATCH, count)):
                try:
                    good.append((k, work(k)))
                except BrokenImagesError as error:
                    broken += error.broken
            yield good
        self._running = (-1, iter(()))
        broken += [(f"what comes before {self.names[row]}", text) for row, text in self._dropped.items()]
        if broken:
            raise BrokenImagesError(broken)

    def _place(self, row: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._first, row, side="right")) - 1
        return part, row - self._first[part]

    def _read(self, row: int, *, known: bool = False) -> tuple[Table, bytes]:
        """An item's image (H, W, C), compared with what was read of it before.

        Args:
            known: whether a digest of the item is wanted beside it.
        """
        where = f"{self.what}: {self.names[row]}"
        image, label = image_and_label(self._item(row), where)
        number = as_label(label, where)
        try:
            values, flags = as_array(image, where)
            header = np.array(array_header(values, flags), HEADER)
        except DataError:
            raise
        except Exception as error:  # a picture is decoded only now; values that are not finite
            blame_machine(error, where)
            raise BrokenImagesError([(self.names[row], str(error) or type(error).__name__)]) from error
        found = b""
        if known or row in self._probed:
            digest = hashlib.sha256(repr((values.shape, values.dtype.str, number)).encode())
            digest.update(np.ascontiguousarray(values).data)
            found = digest.digest()
        again = self.labels[row] != BROKEN
        same = not again or (self.labels[row] == number and self.headers[row] == header)
        if not same or self._probed.get(row, found) != found:
            self._refuse_change(where)
        self.headers[row], self.labels[row] = header, number
        return values, found

    def _refuse_change(self, where: str) -> None:
        raise DataError(
            f"{where} is another one each time it is read; all trainings of a study need the same images. Leave random "
            "transforms out of the Dataset (--augment has those of timm, drawn anew in every epoch), and shuffling out "
            "of an iterable"
        )

    def _item(self, row: int) -> Any:
        number, k = self._place(row)
        part, name = self.parts[number], self.names[row]
        try:
            with self._heard as warnings:
                item = self._next(number, row) if part.iterable else part.dataset[k]
        except (IndexError, StopIteration) as error:
            reason = f" ({type(error).__name__}: {error})" if str(error) else ""
            length = f"len() of the {part.word} part is {self.counts[number][1]}"
            raise DataError(f"{self.what}: {length}, but there is no item {k}{reason}") from error
        except DataError:
            raise
        except Exception as error:
            blame_machine(error, f"{self.what}: {name}")
            reason = f"{type(error).__name__}: {error}"
            if part.iterable:  # which cannot go on after an error
                raise DataError(f"{self.what}: {name} cannot be read ({reason})") from error
            raise BrokenImagesError([(name, reason)]) from error
        if warnings and not part.iterable:  # this is not the item that was asked for
            raise BrokenImagesError([(name, "; ".join(warnings))])
        if warnings:
            self._dropped[row] = "; ".join(warnings)
        return item

    def _next(self, number: int, row: int) -> Any:
        """The item of an iterable that is `row`: the next one, or one after beginning anew."""
        first = self._first[number]
        at, running = self._running
        if not first <= at <= row:
            at, running = first, iter(self.parts[number].dataset)
        for _ in range(row - at):
            next(running)
        self._running = (-1, iter(()))
        item = next(running)
        if row + 1 < self._first[number + 1]:
            self._running = (row + 1, running)
        elif self.parts[number].count is not None and next(running, None) is not None:
            raise DataError(
                f"{self.what}: len() of the {self.parts[number].word} part is {self.parts[number].count}, but more "
                "items come out of it"
            )
        return item

    def _counted(self, part: Part) -> int:
        with self._heard:
            count = sum(1 for _ in part.dataset)
        if not count:
            raise DataError(f"{self.what}: the {part.word} part is empty: no item comes out of it")
        return count

    def _probe(self) -> dict[int, bytes]:
        """Row → digest of some items of each part, each read twice; without those that cannot be read."""
        found: dict[int, bytes] = {}
        broken: BrokenImagesError | None = None
        for number, part in enumerate(self.parts):
            first, count = self._first[number], self.counts[number][1]
            few = min(count, PROBES)
            rows = first + (
                np.arange(few) if part.iterable else np.unique(np.linspace(0, count - 1, few).astype(int))
            )
            for _ in range(2):
                for row in map(int, rows):
                    try:
                        digest = self._read(row, known=True)[1]
                    except BrokenImagesError as error:
                        broken = error
                        continue
                    if found.setdefault(row, digest) != digest:
                        self._refuse_change(f"{self.what}: {self.names[row]}")
        if not found:
            assert broken is not None
            raise broken
        return found

    def _contents(self) -> str:
        """A digest of everything that comes out of the Datasets, and of what cannot be read of them."""
        digest = hashlib.sha256()
        try:
            for _ in self.each(len(self), lambda row: digest.update(self._read(row, known=True)[1])):
                pass
        except BrokenImagesError as error:
            digest.update(repr(error.broken).encode())
        return digest.hexdigest()


class _Heard(logging.Handler):
    """Listens to timm while it reads, as it replaces or drops what cannot be read with a warning only."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger("timm.data")
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.texts.append(record.getMessage())

    def __enter__(self) -> list[str]:
        self.texts = []
        self._logger.addHandler(self)
        return self.texts

    def __exit__(self, *_: Any) -> None:
        self._logger.removeHandler(self)
