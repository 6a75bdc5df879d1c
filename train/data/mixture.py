"""The mixture of a run: the usable rows of one or several caches, by group, and the teachers of their tokens.

Shapes: B images of the global batch, C channels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from store import Cache, Dataset, TeacherInfo
from store.common.stateless_random import Int64
from store.common.text import some
from store.errors import InvalidInput
from store.format.code import CodeSpec
from train.data.sampler import BatchSample

# A range where no row is left out: it takes no memory.
RowList = range | np.ndarray[tuple[int, ...], np.dtype[np.uint32]]

ONE_CODE = "They are decoded with one matrix: train on one of them, or make the caches with one code"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The usable rows of one dataset, and the teachers whose tokens are read for them.

    Attributes:
        cache: number of the cache in the mixture.
        dataset: dataset of that cache.
        rows: usable rows, ascending.
        reads: names of the teachers whose tokens are read for these rows.
    """

    cache: int
    dataset: Dataset
    rows: RowList
    reads: tuple[str, ...]

    def rows_at(self, indices: Int64) -> Int64:
        """Return the rows at `indices` of the list of usable rows."""
        if isinstance(self.rows, range):
            return indices + self.rows.start
        return self.rows[indices].astype(np.int64)

    def codes(self, teachers: Iterable[str]) -> dict[str, CodeSpec]:
        """Return the codes of those teachers that are read here and stored in a code."""
        return stored_codes(self.dataset, [name for name in teachers if name in self.reads])


def stored_codes(dataset: Dataset, teachers: Iterable[str]) -> dict[str, CodeSpec]:
    """Return the codes of those teachers of a dataset that are stored in a code, by teacher."""
    stored = {name: dataset.teacher(name).code for name in teachers}
    return {name: code for name, code in stored.items() if code is not None}


@dataclass(frozen=True, kw_only=True)
class CachedForm:
    """The forms in which the sources of a loader hold one teacher's tokens.

    Attributes:
        tokens: some source holds float16 tokens, or none holds any.
        code: code of the sources that hold codes; None if there is none.
    """

    tokens: bool
    code: CodeSpec | None


def cached_forms(sources: Sequence[Source], teachers: Iterable[str]) -> dict[str, CachedForm]:
    """Return the forms of each teacher's tokens.

    Raises:
        InvalidInput: two sources hold one teacher's tokens in different codes.
    """
    forms: dict[str, CachedForm] = {}
    by_source = [source.codes(teachers) for source in sources]
    for name in teachers:
        codes = {number: codes[name] for number, codes in enumerate(by_source) if name in codes}
        if len({code.digest for code in codes.values()}) > 1:
            holders = [(f"'{sources[number].dataset.name}'", code.digest) for number, code in codes.items()]
            raise InvalidInput(different_codes(name, holders))
        tokens = any(name in source.reads and number not in codes for number, source in enumerate(sources))
        forms[name] = CachedForm(tokens=tokens or not codes, code=next(iter(codes.values()), None))
    return forms


def different_codes(teacher: str, holders: Sequence[tuple[str, str]]) -> str:
    """Return the message for a teacher whose tokens are stored in several codes.

    Args:
        teacher: name of the teacher.
        holders: (what holds codes, digest of the code) of each that does.
    """
    by_code: dict[str, list[str]] = {}
    for holder, digest in holders:
        by_code.setdefault(digest[:12], []).append(holder)
    listed = "; ".join(f"{digest} in {some(names)}" for digest, names in by_code.items())
    return f"teacher '{teacher}' is stored in different codes: {listed}. {ONE_CODE}"


@dataclass(frozen=True, kw_only=True)
class RowSelection:
    """Rows to read, in order.

    Attributes:
        source: int64 (B,), number of the source.
        row: int64 (B,), row of that source's dataset.
        slot: int64 (B,), position in the global batch.
    """

    source: Int64
    row: Int64
    slot: Int64

    def __getitem__(self, part: "slice | Int64") -> "RowSelection":
        return RowSelection(source=self.source[part], row=self.row[part], slot=self.slot[part])

    def __len__(self) -> int:
        return len(self.row)

    def by_source(self) -> "RowSelection":
        """Return the same rows sorted by source, so that the rows of a dataset are read together."""
        return self[np.argsort(self.source, kind="stable")]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The training rows, the held-out rows and the teachers of one or several caches.

    Attributes:
        caches: opened caches.
        image_size: side of the stored pixels, px.
        teachers: name -> teacher, sorted.
        groups: name of a group -> its sources, sorted; datasets of one name are neighbours whatever their cache.
        held_out: sources that fidelity is measured on, with all their usable rows.
        reference: name of a group -> the sources that the exact statistics of the targets are computed over.
    """

    caches: tuple[Cache, ...]
    image_size: int
    teachers: Mapping[str, TeacherInfo]
    groups: Mapping[str, tuple[Source, ...]]
    held_out: tuple[Source, ...]
    reference: Mapping[str, tuple[Source, ...]]

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Sources of all groups, in group order."""
        return tuple(source for sources in self.groups.values() for source in sources)

    @cached_property
    def group_rows(self) -> dict[str, int]:
        """Number of usable rows of each group."""
        return {name: sum(len(source.rows) for source in sources) for name, sources in self.groups.items()}

    @cached_property
    def patch_grid(self) -> tuple[int, int]:
        """Patch rows and columns, the same for all teachers."""
        return next(iter(self.teachers.values())).patch_grid

    @cached_property
    def _ends(self) -> list[tuple[int, Int64]]:
        """For each group, the number of its first source, and the end of each source in the group's list of rows."""
        first, ends = 0, []
        for sources in self.groups.values():
            ends.append((first, np.cumsum([len(source.rows) for source in sources], dtype=np.int64)))
            first += len(sources)
        return ends

    def locate(self, sample: BatchSample) -> RowSelection:
        """Return the source and the row of each image of a batch."""
        source, row = np.empty_like(sample.group), np.empty_like(sample.group)
        for group, (first, ends) in enumerate(self._ends):
            of_group = np.flatnonzero(sample.group == group)
            number = np.searchsorted(ends, sample.index[of_group], side="right")  # of the source within the group
            source[of_group] = first + number
            begins = np.concatenate([[0], ends[:-1]])
            indices = sample.index[of_group] - begins[number]
            for one in np.unique(number):
                of_source = number == one
                row[of_group[of_source]] = self.sources[first + one].rows_at(indices[of_source])
        return RowSelection(source=source, row=row, slot=np.arange(len(row), dtype=np.int64))

    def teacher_groups(self) -> dict[str, tuple[str, ...]]:
        """Groups that each teacher specialises in, as recorded with its tokens."""
        return {name: teacher.groups for name, teacher in self.teachers.items()}


def select_evenly(source: Source, *, number: int, rows: int) -> RowSelection:
    """Return at most `rows` of a source's usable rows, spread evenly.

    Args:
        source: source to select from.
        number: number of that source, for the selection.
        rows: largest number of rows.
    """
    count = min(rows, len(source.rows))
    indices = np.arange(count, dtype=np.int64) * len(source.rows) // max(count, 1)
    return RowSelection(
        source=np.full(count, number, dtype=np.int64), row=source.rows_at(indices), slot=np.arange(count)
    )
