"""A dataset of several parts as one: rows, images and shards are numbered through the parts in order."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.cache.dataset import Dataset
from store.cache.metadata import TeacherInfo, read_dataset_node, read_root
from store.cache.reader import Shard
from store.cache.writer import ShardWriter
from store.format import distortion, schema, statistics
from store.format.attributes import CacheAttributes
from store.format.code import Code
from store.format.distortion import Distortion
from store.format.parts import LAST_PART, PART, part_name
from store.format.schema import HIERARCHY, MISSING, PIXELS, ArrayNode, Node
from store.format.statistics import Statistics
from store.format.trailer import Trailer
from store.storage.base import Location, Storage
from store.storage.location import open_storage

Found = TypeVar("Found")

COUNTED_COLUMNS = ("row", "image_index", "dataset")  # of a manifest, which differ between a part and the whole


class JoinedDataset(Dataset):
    """The parts of a dataset behind one name. Got from a `Cache`.

    Single shards are read and written through their part. Rows of parts that lack a teacher, or are not sealed yet, are
    missing.

    Attributes:
        parts: parts in order; the first has the dataset's own name.
    """

    def __init__(self, parts: Sequence[Dataset], *, node: Node, cache: CacheAttributes) -> None:
        """Join parts.

        Args:
            parts: at least two; each begins where the one before it ends.
            node: document of the first one.
            cache: attributes of the cache.

        Raises:
            errors.Damaged: a part does not fit those before it.
        """
        first = parts[0]
        super().__init__(first.storage, first.name, node=node, cache=cache)
        self.parts = tuple(parts)
        self._row_ends = np.cumsum([part.rows for part in parts])
        self._shard_ends = np.cumsum([part.shards for part in parts])
        for before, part in itertools.pairwise(parts):
            _refuse_misfit(first, before, part)
        self.images = sum(part.images for part in parts)
        self.rows = int(self._row_ends[-1])
        self.shards = int(self._shard_ends[-1])
        self.image_list_sha256 = schema.digest([part.image_list_sha256 for part in parts])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_whole, (self.storage.location, self.name, len(self.parts))

    @property
    def teachers(self) -> tuple[str, ...]:
        """Sorted names of the teachers that any part has."""
        return tuple(sorted({name for part in self.parts for name in part.teachers}))

    def array(self, name: str) -> ArrayNode:
        """Return the node of the first part that has an array, as if it held the rows of all parts."""
        node = self._holders(name)[0].array(name)
        return replace(node, shape=(self.rows, *node.shape[1:]))

    def row_type(self, name: str, *, raw: bool = False) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """See `Dataset.row_type`."""
        return self._holders(name)[0].row_type(name, raw=raw)

    def teacher(self, name: str) -> TeacherInfo:
        """See `Dataset.teacher`.

        Raises:
            errors.Conflict: two parts have tokens of two networks under this name, or in two forms.
        """
        infos = [part.teacher(name) for part in (self._holders(name) if name != PIXELS else self.parts)]
        for part, info in zip(self._holders(name), infos, strict=True):
            digests = [None if i.code is None else i.code.digest for i in (infos[0], info)]
            if replace(info, code=None) != replace(infos[0], code=None) or digests[0] != digests[1]:
                message = f"'{part.name}/{name}' is of another network or in another form than '{self.name}/{name}'"
                raise errors.Conflict(f"{message}. Delete one: codistill store delete {self.storage.location}")
        return infos[0]

    def code(self, teacher: str) -> Code:
        """See `Dataset.code`."""
        return self._holders(teacher)[0].code(teacher)

    def identity_digest(self, array: str) -> str:
        """See `Dataset.identity_digest`; of pixels that of all parts."""
        if array == PIXELS:
            return schema.digest([part.identity_digest(PIXELS) for part in self.parts])
        return self._holders(array)[0].identity_digest(array)

    def image_list(self) -> pa.Table:
        """Return the image lists of all parts, numbered through."""
        table = pa.concat_tables([part.image_list() for part in self.parts])
        numbers = pa.array(np.arange(table.num_rows), pa.int64())
        return table.set_column(table.column_names.index("image_index"), "image_index", numbers)

    def shard_rows_of(self, shard: int) -> range:
        """Return the rows of a shard; parts end in shorter ones."""
        part, number = self.part_of_shard(shard)
        rows = part.shard_rows_of(number)
        return range(rows.start + part.first_row, rows.stop + part.first_row)

    def present(self, array: str) -> frozenset[int]:
        """Return the shards that exist, numbered through the parts."""
        holders, first, found = self._holders(array), 0, set[int]()
        for part in self.parts:
            found |= {first + shard for shard in part.present(array)} if part in holders else set()
            first += part.shards
        return frozenset(found)

    def stored_row_bytes(self, array: str) -> int:
        """See `Dataset.stored_row_bytes`; the mean over parts that have rows."""
        sizes = [(part.stored_row_bytes(array), part.rows) for part in self._holders(array)]
        rows = sum(count for size, count in sizes if size)
        return sum(size * count for size, count in sizes) // rows if rows else 0

    def part_of_shard(self, shard: int) -> tuple[Dataset, int]:
        """Return the part that holds a shard, and the shard's number in it."""
        if not 0 <= shard < self.shards:
            raise errors.InvalidInput(f"shard {shard} is not in '{self.name}', which has 0..{self.shards - 1}")
        number = int(np.searchsorted(self._shard_ends, shard, side="right"))
        return self.parts[number], shard - int(self._shard_ends[number]) + self.parts[number].shards

    def create_teacher(self, name: str, **described: Any) -> TeacherInfo:
        """See `Dataset.create_teacher`; in all parts."""
        first, *_ = [part.create_teacher(name, **described) for part in self.parts]
        return first

    def write_shard(self, *_: Any, **__: Any) -> ShardWriter:
        """Refuse: shards belong to a part."""
        raise self._of_parts()

    def read_shard(self, *_: Any, **__: Any) -> Shard:
        """Refuse: shards belong to a part."""
        raise self._of_parts()

    def read_trailer(self, *_: Any, **__: Any) -> Trailer:
        """Refuse: shards belong to a part."""
        raise self._of_parts()

    def read(
        self,
        rows: Sequence[int] | npt.NDArray[np.integer[Any]],
        names: Sequence[str],
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        verify: bool = True,
        raw: bool = False,
        places: npt.NDArray[np.integer[Any]] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """See `Dataset.read`; codes decode by the numbers of the rows in the whole dataset."""
        numbers = self._reader.row_numbers(rows)
        owner = np.searchsorted(self._row_ends, numbers, side="right")
        if not len(numbers) or (owner == owner[0]).all():
            part = self.parts[int(owner[0]) if len(owner) else 0]
            part = part if len(numbers) else self._holders(names[0] if names else PIXELS)[0]
            return self._read_of(part, numbers, names, out=out, verify=verify, raw=raw, places=places)
        targets = {name: self._target(name, len(numbers), out, raw=raw) for name in names}
        where = np.arange(len(numbers)) if places is None else np.asarray(places)
        for number in np.unique(owner).tolist():
            here = np.flatnonzero(owner == number)
            self._read_of(
                self.parts[number], numbers[here], names, out=targets, verify=verify, raw=raw, places=where[here]
            )
        return targets

    def status(self, array: str) -> npt.NDArray[np.uint8]:
        """See `Dataset.status`."""
        return np.concatenate(
            [
                np.full(part.rows, MISSING, np.uint8) if found is None else found
                for part, found in self._sealed(array, lambda part: part.status(array))
            ]
        )

    def status_of(self, array: str, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
        """See `Dataset.status_of`."""
        numbers, holders = self._reader.row_numbers(rows), self._holders(array)
        owner, result = np.searchsorted(self._row_ends, numbers, side="right"), np.full(len(numbers), MISSING, np.uint8)
        for number in np.unique(owner).tolist():
            part, here = self.parts[number], owner == number
            if part in holders:
                result[here] = part.status_of(array, numbers[here] - part.first_row)
        return result

    def pixels_digests(self) -> npt.NDArray[np.uint8] | None:
        """See `Dataset.pixels_digests`."""
        digests = [part.pixels_digests() for part in self.parts]
        known = [digest for digest in digests if digest is not None]
        return np.concatenate(known) if len(known) == len(digests) else None

    def statistics(self, teacher: str) -> Statistics:
        """See `Dataset.statistics`."""
        self.teacher(teacher)  # one network
        sealed = self._sealed(teacher, lambda part: part.statistics(teacher))
        stacked = [statistics.stacked(known.prefix, known.patch) for _, known in sealed if known is not None]
        merged = statistics.merge_stacked(np.stack(stacked))
        prefix, patch = statistics.from_stacked(merged)
        return Statistics(prefix=prefix, patch=patch)

    def distortion(self, teacher: str) -> Distortion:
        """See `Dataset.distortion`."""
        self.teacher(teacher)  # one code
        found = self._sealed(teacher, lambda part: part.distortion(teacher))
        return distortion.merge([known for _, known in found if known is not None])

    def manifest(self, columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:
        """See `Dataset.manifest`; a condition on rows, images or datasets reads all columns of later parts."""
        counted = filter is not None and any(name in str(filter) for name in COUNTED_COLUMNS)

        def read(part: Dataset) -> pa.Table:
            if part.part is None:
                return part.manifest(columns, filter)
            table = in_whole(part.manifest(None if counted else columns, None if counted else filter), part)
            if counted:
                table = table.filter(filter)
            return table.select(list(columns)) if columns is not None else table

        return pa.concat_tables([table for _, table in self._sealed(PIXELS, read) if table is not None])

    def sweep(self) -> list[str]:
        """See `Dataset.sweep`."""
        return [key for part in self.parts for key in part.sweep()]

    def delete_teacher(self, name: str) -> None:
        """See `Dataset.delete_teacher`; in all parts, the first one last."""
        for part in reversed(self._holders(name)):
            part.delete_teacher(name)

    def _holders(self, array: str) -> list[Dataset]:
        """Return the parts that have an array.

        Raises:
            errors.MissingName: none has it; the available ones are listed.
        """
        holders = [part for part in self.parts if array == PIXELS or array in part.teachers]
        if not holders:
            available = ", ".join([PIXELS, *self.teachers])
            raise errors.MissingName(f"'{self.name}' has no array '{array}'; available: {available}")
        return holders

    def _sealed(self, array: str, read: Callable[[Dataset], Found]) -> Iterator[tuple[Dataset, Found | None]]:
        """Yield what is read of each part; None for parts without the array, and for later ones that are not sealed."""
        holders = self._holders(array)
        for part in self.parts:
            found: Found | None = None
            if part in holders:
                try:
                    found = read(part)
                except errors.NotSealed:
                    if part is holders[0]:
                        raise
            yield part, found

    def _read_of(
        self, part: Dataset, numbers: npt.NDArray[np.int64], names: Sequence[str], **options: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """Read rows of one part, given by their numbers in the whole."""
        for name in names:
            if name != PIXELS and name not in part.teachers and len(numbers):
                self._holders(name)  # another name than any part has is refused as such
                rows = numbers.tolist()
                exits = f"Make them: {part.how_to_make(self.array(name))}"
                raise errors.RowsNotOk(f"'{part.name}' has no tokens of '{name}' yet. {exits}", rows)
        try:
            return part.read(numbers - part.first_row, names, **options)
        except errors.RowsNotOk as error:
            where = f" (row {part.first_row} of '{self.name}' is row 0 there)" if part.first_row else ""
            raise errors.RowsNotOk(f"{error}{where}", [row + part.first_row for row in error.rows]) from None

    def _target(
        self, name: str, rows: int, out: Mapping[str, npt.NDArray[Any]] | None, *, raw: bool
    ) -> npt.NDArray[Any]:
        if out is not None and name in out:
            return out[name]
        shape, dtype = self.row_type(name, raw=raw)
        return np.empty((rows, *shape), dtype)

    def _of_parts(self) -> errors.InvalidInput:
        names = ", ".join(f"'{part.name}'" for part in self.parts)
        return errors.InvalidInput(f"'{self.name}' has {len(self.parts)} parts, {names}: open one by Cache.part(name)")


def parts_of(dataset: Dataset) -> tuple[Dataset, ...]:
    """Return the parts of a dataset in order; itself if it is one."""
    return dataset.parts if isinstance(dataset, JoinedDataset) else (dataset,)


def by_part(
    dataset: Dataset, rows: Sequence[int] | npt.NDArray[np.int64]
) -> Iterator[tuple[Dataset, npt.NDArray[np.int64]]]:
    """Yield each part that holds some of the rows, and the positions of these among `rows`, ascending.

    A row's number in its part is its number in the dataset less the part's `first_row`.

    Args:
        dataset: dataset of the rows.
        rows: row numbers [B], within bounds.
    """
    parts = parts_of(dataset)
    owner = np.searchsorted(np.cumsum([part.rows for part in parts]), np.asarray(rows), side="right")
    for number in np.unique(owner).tolist():
        yield parts[number], np.flatnonzero(owner == number)


def open_part(storage: Storage, name: str, cache: CacheAttributes) -> Dataset:
    """Open a dataset or one of its parts by the name under which it is stored.

    Raises:
        errors.MissingName: there is none; the available datasets are listed.
    """
    return Dataset(storage, name, node=read_dataset_node(storage, name), cache=cache)


def join(first: Dataset, cache: CacheAttributes, *, parts: int | None = None) -> Dataset:
    """Return a dataset with all of its parts, found by looking for one after the other; itself if it has no more.

    Args:
        first: dataset as it was first stored.
        cache: attributes of the cache.
        parts: number of parts to join, the first among them; None joins all.

    Raises:
        errors.Damaged: a part does not fit those before it.
        errors.MissingName: there are fewer parts than asked for.
    """
    storage, found = first.storage, [first]
    while len(found) < (LAST_PART + 1 if parts is None else parts):
        name = part_name(first.name, len(found))
        if not storage.exists(f"{HIERARCHY}/{name}/zarr.json"):
            if parts is not None:
                raise errors.MissingName(f"'{name}' is gone: '{first.name}' had {parts} parts")
            break
        node = read_dataset_node(storage, name)
        if PART not in node.attributes:
            break  # a dataset of an earlier version that happens to have such a name
        found.append(Dataset(storage, name, node=node, cache=cache))
    if len(found) == 1:
        return first
    return JoinedDataset(found, node=read_dataset_node(storage, first.name), cache=cache)


def open_whole(location: Location, name: str, parts: int | None = None) -> Dataset:
    """Open one dataset of a cache with its parts; a pickled `JoinedDataset` is restored by it.

    Args:
        location: path or URL of the cache.
        name: name of the dataset.
        parts: number of parts; None for all.
    """
    storage = open_storage(location)
    cache = read_root(storage)
    return join(open_part(storage, name, cache), cache, parts=parts)


def _refuse_misfit(first: Dataset, before: Dataset, part: Dataset) -> None:
    """Refuse a part that does not begin where the one before it ends, or is of another kind."""
    assert part.part is not None
    here = {name: getattr(part, name) for name in ("group", "split", "mode", "views", "first_view")}
    expected = {name: getattr(first, name) for name in here}
    here |= {"first_row": part.part.first_row, "after": part.part.after}
    expected |= {"first_row": before.first_row + before.rows, "after": before.image_list_sha256}
    differing = schema.differences(here, expected)
    if differing:
        lines = "; ".join(differing).replace("stored", "found").replace("asked", "expected")
        raise errors.Damaged(
            f"'{part.name}' is no part of the present '{first.name}': {lines}. Was '{first.name}' made anew? Then "
            f"delete the part: codistill store delete {first.storage.location} {part.name}"
        )


def in_whole(table: pa.Table, part: Dataset) -> pa.Table:
    """Return manifest rows of a part with the numbers and the name of the whole dataset."""
    if part.part is None:
        return table
    added = {"row": part.part.first_row, "image_index": part.part.first_image}
    for place, field in enumerate(table.schema):
        if field.name in added:
            values = pa.array(table[field.name].to_numpy() + added[field.name], field.type)
            table = table.set_column(place, field, values)
        elif field.name == "dataset":
            table = table.set_column(place, field, pa.array([part.part.dataset] * table.num_rows, field.type))
    return table
