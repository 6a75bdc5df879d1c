"""Reader of a dataset: random rows into the caller's buffers, and whole shards for the next stage."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache import row_status
from store.cache.jpeg_index import JpegIndexes
from store.cache.jpeg_reads import JpegReader
from store.cache.metadata import DatasetMetadata
from store.cache.row_reads import ReadContext, RowRead, SlotPlans, plan_reads
from store.cache.row_status import RowStatus
from store.common.text import some
from store.common.threads import Task, ThreadTeam
from store.format.code import Code
from store.format.indexed_layout import IndexedLayout
from store.format.layout import ShardLayout
from store.format.schema import CODES, MISSING, OK, PIXELS, ArrayNode
from store.format.trailer import Trailer


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard in memory.

    Attributes:
        data: [rows of the shard, ...]; rows that failed hold 0, tokens NaN.
        status: uint8 [rows of the shard].
        digest: sha256 of the (row, crc32c) list; tokens computed from a pixel shard name its digest.
        trailer: metadata, row checksums, status and moments of the shard.
    """

    data: npt.NDArray[Any]
    status: npt.NDArray[np.uint8]
    digest: str
    trailer: Trailer


class Reader:
    """Reads one dataset; safe to use from several threads."""

    def __init__(self, metadata: DatasetMetadata) -> None:
        self._metadata = metadata
        self._team = ThreadTeam(metadata.storage.read_threads)
        self._known: dict[str, RowStatus] = {}
        self._measured: set[str] = set()  # arrays of which a shard was seen to be as large as its rows
        self._context = ReadContext(
            storage=metadata.storage,
            describe=metadata.describe,
            how_to_make=metadata.how_to_make,
            first_row=metadata.first_row,
        )

    def read(
        self,
        rows: Sequence[int] | npt.NDArray[np.integer[Any]],
        names: Sequence[str],
        *,
        out: Mapping[str, npt.NDArray[Any]] | None,
        verify: bool,
        raw: bool = False,
        places: npt.NDArray[np.integer[Any]] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """See `Dataset.read`."""
        numbers = self.row_numbers(rows)
        nodes = {name: self._metadata.array(name) for name in names}
        unexpected = sorted(set(out or ()) - set(nodes))
        if unexpected:
            raise errors.InvalidInput(f"out: {unexpected} were not asked for; asked for: {list(nodes)}")
        targets: dict[str, npt.NDArray[Any]] = {}
        positions = None if places is None else _checked_places(places, out or {}, nodes, rows=len(numbers))
        for name, node in nodes.items():
            row_shape, dtype = self._metadata.row_type(name, raw=raw)
            given = (out or {}).get(name)
            shape = (len(numbers) if positions is None or given is None else len(given), *row_shape)
            _check_target(name, shape, dtype, given)
            self._require_ok(name, node, numbers)
            self._require_bytes(name, node, numbers)
            targets[name] = np.empty(shape, dtype) if given is None else given
        tasks: list[Task] = []
        plans: SlotPlans = {}
        for name, node in nodes.items():
            code = self._code(name, node, raw=raw)
            read = RowRead(node=node, rows=numbers, out=targets[name], verify=verify, code=code, places=positions)
            tasks += self._plan(read, plans)
        self._team.run(tasks)
        return targets

    def read_shard(self, array: str, shard: int, *, verify: bool, raw: bool = False) -> Shard:
        """See `Dataset.read_shard`."""
        node = self._metadata.array(array)
        trailer = row_status.read_trailer(self._metadata, array, shard)  # lies behind the slots: they are in the file
        row_shape, dtype = self._metadata.row_type(array, raw=raw)
        data = np.empty((len(trailer.rows), *row_shape), dtype)
        ok = trailer.status == OK
        read = partial(self._read_ok_rows, node, trailer, code=self._code(array, node, raw=raw), verify=verify)
        if ok.all():
            read(data)
        else:
            data[:] = np.nan if dtype.kind == "f" else 0
            ok_rows = np.empty((int(ok.sum()), *row_shape), dtype)
            read(ok_rows)
            data[ok] = ok_rows
        return Shard(data=data, status=trailer.status, digest=trailer.digest, trailer=trailer)

    def _read_ok_rows(
        self, node: ArrayNode, trailer: Trailer, out: npt.NDArray[Any], *, code: Code | None, verify: bool
    ) -> None:
        """Read the ok rows of a shard; verified, they are what its trailer records and not just intact."""
        ok = np.flatnonzero(trailer.status == OK)
        rows, crc32c = ok + trailer.rows.start, trailer.crc32c[ok]
        read = RowRead(node=node, rows=rows, out=out, verify=verify, crc32c=crc32c, code=code)
        self._team.run(list(self._plan(read)))

    def _plan(self, read: RowRead, plans: SlotPlans | None = None) -> Iterator[Task]:
        """Yield the tasks of a read, by the form in which the array is stored; plans are those for the same rows."""
        if isinstance(read.node.layout, IndexedLayout):
            return self._jpeg.plan(read.node, read.rows, read.out, verify=read.verify, places=read.places)
        return plan_reads(read, self._context, plans)

    @cached_property
    def _jpeg(self) -> JpegReader:
        metadata, node = self._metadata, self._metadata.array(PIXELS)
        where, how_to_make = metadata.describe(node), metadata.how_to_make(node)
        return JpegReader(metadata.storage, JpegIndexes(metadata), where=where, how_to_make=how_to_make)

    def _code(self, name: str, node: ArrayNode, *, raw: bool) -> Code | None:
        """Return the code that an array is decoded with; None where it is given as it is stored."""
        return None if raw or node.form != CODES else self._metadata.code(name)

    def row_numbers(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Return row numbers as int64 [B], checked to be within the dataset."""
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            given = f"{numbers.dtype} {numbers.shape}"
            raise errors.InvalidInput(f"rows: expected a one-dimensional list of integers, found {given}")
        numbers = numbers.astype(np.int64)
        outside = numbers[(numbers < 0) | (numbers >= self._metadata.rows)]
        if len(outside):
            listed, last = some(outside.tolist()), self._metadata.rows - 1
            raise errors.InvalidInput(f"rows {listed} are not in '{self._metadata.name}', which has 0..{last}")
        return numbers

    def _require_ok(self, name: str, node: ArrayNode, rows: npt.NDArray[np.int64]) -> None:
        """Raise if a row is not ok, by the sealed status; by trailers for shards that it does not cover yet."""
        status = self._status(name, node, rows)
        if status is None or (status[rows] == OK).all():
            return
        self._known.pop(name, None)  # it may have been sealed again, or repaired
        status = self._status(name, node, rows)
        bad = np.zeros(0, np.int64) if status is None else np.unique(rows[status[rows] != OK])
        if status is not None and len(bad):
            failed = int((status[bad] != MISSING).sum())
            counts = f"{failed} failed, {len(bad) - failed} missing"
            exits = f"Ask for rows of valid_rows() only, or make them: {self._metadata.how_to_make(node)}"
            where = f"'{self._metadata.name}/{name}'"
            message = f"{where}: rows {some(bad.tolist())} are not ok ({counts}). {exits}"
            raise errors.RowsNotOk(message, bad.tolist())

    def _require_bytes(self, name: str, node: ArrayNode, rows: npt.NDArray[np.int64]) -> None:
        """Raise unless a file holds the first row in the size claimed, before memory is asked for rows of that size."""
        if isinstance(node.layout, IndexedLayout) and name not in self._measured and len(rows):
            self._jpeg.require(int(rows[0]) // node.layout.shard_rows)
            self._measured.add(name)
        if not isinstance(node.layout, ShardLayout) or name in self._measured or not len(rows):
            return
        row, layout = int(rows[0]), node.layout
        shard = row // layout.shard_rows
        with suppress(FileNotFoundError):  # reading will say so
            size = self._metadata.storage.size(node.shard_key(shard))
            if size < (row % layout.shard_rows + 1) * layout.stride:
                where = f"shard {shard} of '{self._metadata.name}/{name}'"
                command = f"codistill store verify {self._metadata.storage.location} --repair"
                raise errors.Damaged(f"{where}: cut short at or behind row {row}. Run: {command}")
        self._measured.add(name)

    def status_of(self, name: str, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
        """See `Dataset.status_of`."""
        numbers = self.row_numbers(rows)
        status = self._status(name, self._metadata.array(name), numbers)
        return np.full(len(numbers), OK, np.uint8) if status is None else status[numbers]

    def _status(self, name: str, node: ArrayNode, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8] | None:
        """Return the status of all rows, right for `rows`; None for an array that has neither status nor trailers."""
        if name not in self._known:
            status = row_status.sealed_or_missing(self._metadata, name)
            if status is None:
                return None
            self._known[name] = status
        known = self._known[name]
        if node.layout is not None:
            missing = rows[known.values[rows] == MISSING]
            if not len(missing):  # np.unique is not cheap where other threads run
                return known.values
            known.read_shards(np.unique(missing // node.layout.shard_rows).tolist(), self._team, check_pixels=True)
        return known.values


def _checked_places(
    places: npt.NDArray[np.integer[Any]],
    out: Mapping[str, npt.NDArray[Any]],
    names: Iterable[str],
    *,
    rows: int,
) -> npt.NDArray[np.int64]:
    """Return places in buffers as int64; refuse them unless every row has one of its own in every buffer."""
    positions = np.asarray(places)
    problems = [f"out has no buffer '{name}'" for name in names if name not in out]
    if positions.shape != (rows,) or positions.dtype.kind not in "iu":
        problems.append(f"expected {rows} integers, found {positions.dtype} {positions.shape}")
    elif rows:
        shortest = min((len(buffer) for buffer in out.values() if buffer.ndim), default=0)
        if positions.min() < 0 or positions.max() >= shortest or np.bincount(positions).max() > 1:
            problems.append(f"expected different numbers from 0 to {shortest - 1}")
    if problems:
        raise errors.InvalidInput(f"places: {'; '.join(problems)}")
    return positions.astype(np.int64)


def _check_target(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], given: npt.NDArray[Any] | None) -> None:
    """Refuse a buffer that does not fit."""
    if given is None:
        return
    problems = []
    if given.shape != shape or given.dtype != dtype:
        problems.append(f"expected {dtype} {shape}, found {given.dtype} {given.shape}")
    if not given.flags.c_contiguous:
        problems.append("it must be C-contiguous")
    if not given.flags.writeable:
        problems.append("it is read-only")
    if problems:
        raise errors.InvalidInput(f"out[{name!r}]: {'; '.join(problems)}")
