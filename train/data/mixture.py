"""What a run trains on: the usable rows of one or several caches, by group, checked to belong together.

Shapes: B images of the global batch, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from store import Cache, Dataset, TeacherInfo
from train.data.sampler import Draw
from train.stateless_random import Int64

RowList = (
    range | np.ndarray[tuple[int, ...], np.dtype[np.uint32]]
)  # a range where no row is left out: it costs no memory


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows of one dataset that may be read together.

    Attributes:
        cache: which of the mixture's caches.
        dataset: the dataset.
        rows: the usable rows, ascending.
        reads: teachers whose tokens are read for these rows.
    """

    cache: int
    dataset: Dataset
    rows: RowList
    reads: tuple[str, ...]

    def rows_at(self, places: Int64) -> Int64:
        """The rows at `places` in the list of usable rows."""
        if isinstance(self.rows, range):
            return places + self.rows.start
        return self.rows[places].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class RowSelection:
    """Rows to read, in order.

    Attributes:
        source: int64 (B,), which of the sources.
        row: int64 (B,), row of that source's dataset.
        slot: int64 (B,), place in the global batch.
    """

    source: Int64
    row: Int64
    slot: Int64

    def __getitem__(self, part: "slice | Int64") -> "RowSelection":
        return RowSelection(source=self.source[part], row=self.row[part], slot=self.slot[part])

    def __len__(self) -> int:
        return len(self.row)

    def by_source(self) -> "RowSelection":
        """The same rows with those of a dataset side by side, so that they are read in one go."""
        return self[np.argsort(self.source, kind="stable")]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The training rows, the held-out rows and the teachers of one or several caches.

    Attributes:
        caches: opened.
        image_size: of the stored pixels, px.
        teachers: by name, sorted.
        groups: sources of each group, by name, sorted; datasets of one name lie side by side whatever their cache.
        held_out: sources that fidelity is measured on, with all their usable rows.
        reference: sources that the exact statistics of the targets are over, by group.
    """

    caches: tuple[Cache, ...]
    image_size: int
    teachers: Mapping[str, TeacherInfo]
    groups: Mapping[str, tuple[Source, ...]]
    held_out: tuple[Source, ...]
    reference: Mapping[str, tuple[Source, ...]]

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The sources of all groups, in group order."""
        return tuple(source for sources in self.groups.values() for source in sources)

    @cached_property
    def group_rows(self) -> dict[str, int]:
        """Usable rows of each group."""
        return {name: sum(len(source.rows) for source in sources) for name, sources in self.groups.items()}

    @cached_property
    def patch_grid(self) -> tuple[int, int]:
        """Patch rows and columns, the same for all teachers."""
        return next(iter(self.teachers.values())).patch_grid

    @cached_property
    def _ends(self) -> list[tuple[int, Int64]]:
        """For each group, the number of its first source and where each of its sources ends."""
        first, ends = 0, []
        for sources in self.groups.values():
            ends.append((first, np.cumsum([len(source.rows) for source in sources], dtype=np.int64)))
            first += len(sources)
        return ends

    def locate(self, draw: Draw) -> RowSelection:
        """Find the source and row of each image of a batch."""
        source, row = np.empty_like(draw.group), np.empty_like(draw.group)
        for group, (first, ends) in enumerate(self._ends):
            mine = np.flatnonzero(draw.group == group)
            inside = np.searchsorted(ends, draw.index[mine], side="right")
            source[mine] = first + inside
            begins = np.concatenate([[0], ends[:-1]])
            places = draw.index[mine] - begins[inside]
            for number in np.unique(inside):
                here = inside == number
                row[mine[here]] = self.sources[first + number].rows_at(places[here])
        return RowSelection(source=source, row=row, slot=np.arange(len(row), dtype=np.int64))

    def own_teachers(self) -> dict[str, tuple[str, ...]]:
        """The groups that each teacher calls its own, as noted with its tokens."""
        return {name: teacher.groups for name, teacher in self.teachers.items()}


def even_picks(source: int, held_out: Source, *, rows: int) -> RowSelection:
    """At most `rows` of a source's usable rows, spread evenly."""
    count = min(rows, len(held_out.rows))
    places = np.arange(count, dtype=np.int64) * len(held_out.rows) // max(count, 1)
    return RowSelection(
        source=np.full(count, source, dtype=np.int64), row=held_out.rows_at(places), slot=np.arange(count)
    )
