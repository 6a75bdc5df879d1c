"""Parts of a dataset: images that were added later. Shards, seals and manifests are of a part, rows of the whole."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import store
from eval.view.opened import Opened


@dataclass(frozen=True, kw_only=True)
class DatasetPart:
    """One part of a dataset.

    Attributes:
        stored: the part as it is stored, with row and image numbers of its own.
        dataset: name of the whole dataset.
        first_row, first_image: numbers of its first row and image in the whole.
        arrays: `pixels` and the teachers that it has; one may not have been run over what was added.
    """

    stored: store.Dataset
    dataset: str
    first_row: int
    first_image: int
    arrays: frozenset[str]

    @property
    def rows(self) -> slice:
        """Rows of the whole dataset that are of this part."""
        return slice(self.first_row, self.first_row + self.stored.rows)


def parts_of(opened: Opened, dataset: str) -> tuple[DatasetPart, ...]:
    """Return the parts of a dataset in order; most have one."""
    opened.dataset(dataset)
    parts, rows, images = [], 0, 0
    for stored, arrays in opened.listing().parts[dataset]:
        part = DatasetPart(stored=stored, dataset=dataset, first_row=rows, first_image=images, arrays=arrays)
        parts.append(part)
        rows, images = rows + stored.rows, images + stored.images
    return tuple(parts)


def by_part(parts: Iterable[DatasetPart], rows: Iterable[int]) -> Iterator[tuple[DatasetPart, list[int]]]:
    """Yield each part with those of some rows of the whole that are of it, numbered in the part."""
    numbers = list(rows)
    for part in parts:
        here = [row - part.first_row for row in numbers if part.rows.start <= row < part.rows.stop]
        if here:
            yield part, here
