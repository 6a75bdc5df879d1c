"""Reading of rows: slots of shards go straight into the caller's buffers and are checked there.

This is the one place where a stored row becomes an array; codes are decoded here and nowhere else.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.common.threads import Task
from store.format.code import Code
from store.format.layout import CHECKSUM_BYTES, ShardLayout, checksum
from store.format.schema import ArrayNode
from store.storage.base import Storage

TASK_BYTES = 4 * 2**20  # bytes that one thread reads at a time
CALL_ROWS = 256  # two buffers a row, within what one system call takes
SCRATCH_BYTES = 2**20  # codes that one thread reads before it decodes them
DECODED_VALUES = 2**21  # values that one thread decodes at a time


@dataclass(frozen=True, kw_only=True)
class RowRead:
    """Rows of one array, and the memory that they are read into.

    Attributes:
        node: array to read.
        rows: int64 [B], within bounds, any order, duplicates allowed.
        out: [B, ...] of the array's row shape and type, C-contiguous, writable; of any length with `places`.
        verify: check the crc32c of every row.
        crc32c: uint32 [B], checksums that verified rows must have, from a trailer; None checks those in the slots.
        code: code that rows are decoded with, `out` being float16 [B, N, C]; None gives rows as they are stored.
        places: int64 [B], the place of each row in `out`, each once; None means in order.
    """

    node: ArrayNode
    rows: npt.NDArray[np.int64]
    out: npt.NDArray[Any]
    verify: bool
    crc32c: npt.NDArray[np.uint32] | None = None
    code: Code | None = None
    places: npt.NDArray[np.int64] | None = None

    def place_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the places in `out` of the rows at `positions` of `rows`."""
        return positions if self.places is None else self.places[positions]


@dataclass(frozen=True, kw_only=True)
class ReadContext:
    """Storage that rows are read from, and texts for errors.

    Attributes:
        storage: storage of the cache.
        describe: function that returns `dataset/array` of an array.
        how_to_make: function that returns the command that makes the shards of an array.
        first_row: number of row 0 in the whole dataset, of which this may be a part; codes depend on it.
    """

    storage: Storage
    describe: Callable[[ArrayNode], str]
    how_to_make: Callable[[ArrayNode], str]
    first_row: int = 0


@dataclass(frozen=True, kw_only=True)
class SlotPlan:
    """Which slots are read in which order, in rows, so that arrays of about one size share it.

    Attributes:
        order: int64 [B], sorts the rows.
        rows: int64 [B], the sorted rows.
        calls: (start, stop, slot) of each system call: sorted rows from start to stop, side by side from that slot on.
        tasks: (first call, behind the last call, shard) of each task.
    """

    order: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    calls: list[tuple[int, int, int]]
    tasks: list[tuple[int, int, int]]


SlotPlans = dict[tuple[int, int, int], SlotPlan]
"""Plans for the rows of one read, by the rows of a shard, of a system call and of a task."""


def plan_reads(read: RowRead, context: ReadContext, plans: SlotPlans | None = None) -> Iterator[Task]:
    """Yield tasks that fill `read.out`; independent threads may run them.

    Everything is planned here and in one go: between two copies of a megabyte no Python code is left in the processor's
    caches, so that each statement in the loop over rows would cost many times its usual price.

    Args:
        read: rows to read.
        context: where they are read from.
        plans: plans of other arrays for the same rows, which are used and added to.
    """
    layout = read.node.layout
    if read.code is not None:
        yield from _decoding_tasks(read, read.code, context)
        return
    if layout is None:
        yield lambda: _read_through_zarr(read, context)
        return
    assert isinstance(layout, ShardLayout), "rows stored as JPEG have no slots"
    if not len(read.rows):
        return
    plan = _slot_plan(read.rows, layout, context.storage.call_bytes, plans={} if plans is None else plans)
    targets = list(read.out.reshape(len(read.out), -1).view(np.uint8))
    buffers: list[Any] = [None] * (2 * len(plan.rows))
    buffers[0::2] = [targets[target] for target in read.place_of(plan.order).tolist()]
    expected: list[npt.NDArray[np.uint32]] = []
    if read.verify:
        crcs = np.empty((len(plan.rows), CHECKSUM_BYTES), np.uint8)
        buffers[1::2] = list(crcs)
        expected = [crcs.view("<u4")[:, 0], *([] if read.crc32c is None else [read.crc32c[plan.order]])]
    else:
        buffers[1::2] = [np.empty(CHECKSUM_BYTES, np.uint8)] * len(plan.rows)  # nobody looks at them
    for first, last, shard in plan.tasks:
        yield _SlotTask(read, context, layout, plan.rows, buffers, expected, plan.calls[first:last], shard)


def _slot_plan(rows: npt.NDArray[np.int64], layout: ShardLayout, call_bytes: int, *, plans: SlotPlans) -> SlotPlan:
    """Return the plan of an array, one of `plans` or a new one, which is added."""
    per_call = min(max(1, call_bytes // layout.stride), CALL_ROWS)
    sizes = (layout.shard_rows, per_call, max(1, TASK_BYTES // layout.stride))
    if sizes not in plans:
        plans[sizes] = _plan_slots(rows, *sizes)
    return plans[sizes]


def _plan_slots(rows: npt.NDArray[np.int64], shard_rows: int, per_call: int, per_task: int) -> SlotPlan:
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    starts = _call_starts(rows, shard_rows, per_call)
    first_rows, blocks = starts.tolist(), starts // per_task
    shards, slots = np.divmod(rows[starts], shard_rows)
    new_task = (shards[1:] != shards[:-1]) | (blocks[1:] != blocks[:-1])
    bounds = [0, *(np.flatnonzero(new_task) + 1).tolist(), len(first_rows)]
    return SlotPlan(
        order=order,
        rows=rows,
        calls=list(zip(first_rows, [*first_rows[1:], len(rows)], slots.tolist(), strict=True)),
        tasks=list(zip(bounds, bounds[1:], shards[bounds[:-1]].tolist(), strict=False)),
    )


def _call_starts(rows: npt.NDArray[np.int64], shard_rows: int, per_call: int) -> npt.NDArray[np.int64]:
    """Return where in the sorted rows each call begins: neighbouring slots of a shard, up to a limit."""
    positions = np.arange(len(rows))
    joined = (rows[1:] - rows[:-1] == 1) & (rows[1:] % shard_rows != 0)
    if per_call == 1 or not joined.any():
        return positions
    apart = np.append(True, ~joined)
    run_start = np.maximum.accumulate(np.where(apart, positions, 0))
    return np.flatnonzero((positions - run_start) % per_call == 0)


class _SlotTask:
    """Reads some slots of one shard: `reads` are (start, stop, slot), from start to stop in the sorted rows."""

    def __init__(
        self,
        read: RowRead,
        context: ReadContext,
        layout: ShardLayout,
        rows: npt.NDArray[np.int64],
        buffers: list[Any],
        expected: list[npt.NDArray[np.uint32]],
        reads: list[tuple[int, int, int]],
        shard: int,
    ) -> None:
        self._read, self._context, self._layout = read, context, layout
        self._rows, self._expected, self._reads = rows, expected, reads
        spare = 0 if read.verify else CHECKSUM_BYTES  # the checksum of the last row of a call is not even read
        stride, skipped = layout.stride, bool(spare)
        self._calls = [
            (buffers[2 * a : 2 * b - skipped], slot * stride, (b - a) * stride - spare) for a, b, slot in reads
        ]
        self._shard = shard

    def __call__(self) -> None:
        node, verify = self._read.node, self._read.verify
        actual: list[int] = []
        try:
            with self._context.storage.open_object(node.shard_key(self._shard)) as source:
                read_into = source.read_into
                for buffers, offset, length in self._calls:
                    if read_into(buffers, offset, length) != length:
                        self._raise_cut_short(offset)
                    if verify:
                        actual += [checksum(buffer) for buffer in buffers[::2]]
        except FileNotFoundError:
            where = f"shard {self._shard} of '{self._context.describe(node)}'"
            message = f"{where} does not exist. Run: {self._context.how_to_make(node)}"
            raise errors.MissingShard(message) from None
        if verify:
            self._check(actual)

    def _check(self, actual: list[int]) -> None:
        part = slice(self._reads[0][0], self._reads[-1][1])
        wrong = np.any([crcs[part] != np.array(actual, np.uint32) for crcs in self._expected], axis=0)
        differing = self._rows[part][wrong]
        if len(differing):
            raise self._damaged(f"checksum of row {', '.join(str(row) for row in np.unique(differing))} differs")

    def _raise_cut_short(self, offset: int) -> None:
        first = self._shard * self._layout.shard_rows + offset // self._layout.stride
        raise self._damaged(f"cut short at or behind row {first}")

    def _damaged(self, what: str) -> errors.Damaged:
        where = f"shard {self._shard} of '{self._context.describe(self._read.node)}'"
        command = f"codistill store verify {self._context.storage.location} --repair"
        return errors.Damaged(f"{where}: {what}. Run: {command}")


def _decoding_tasks(read: RowRead, code: Code, context: ReadContext) -> Iterator[Task]:
    """Yield tasks that each read some rows, check them and decode them into `read.out`."""
    order = np.argsort(read.rows, kind="stable")
    share = -(-len(order) // context.storage.read_threads)
    block = max(1, min(share, SCRATCH_BYTES // math.prod(read.node.row_shape)))
    for start in range(0, len(order), block):
        yield partial(_read_and_decode, read, code, context, order[start : start + block])


def _read_and_decode(read: RowRead, code: Code, context: ReadContext, targets: npt.NDArray[np.int64]) -> None:
    """Read the rows that belong at `targets` of `read.out`, and decode a few at a time: memory is bounded."""
    rows = read.rows[targets]
    codes = np.empty((len(rows), *read.node.row_shape), read.node.dtype)
    crc32c = None if read.crc32c is None else read.crc32c[targets]
    for task in plan_reads(replace(read, rows=rows, out=codes, crc32c=crc32c, code=None, places=None), context):
        task()
    per_call = max(1, DECODED_VALUES // math.prod(read.out.shape[1:]))
    for start in range(0, len(rows), per_call):
        part = slice(start, start + per_call)
        places, numbers = read.place_of(targets[part]), rows[part] + context.first_row
        if (np.diff(places) == 1).all():
            code.decode(codes[part], numbers, out=read.out[places[0] : places[-1] + 1])
        else:
            read.out[places] = code.decode(codes[part], numbers)


def _read_through_zarr(read: RowRead, context: ReadContext) -> None:
    """Read an array that was not written by codistill: any chunks, compression or sharding."""
    from store.storage.zarr_adapter import open_array  # zarr is slow to import, and our own arrays do not need it

    where, done = f"'{context.describe(read.node)}'", 0
    try:
        array = open_array(context.storage, read.node.path)
        places = read.place_of(np.arange(len(read.rows))).tolist()
        for row in read.rows.tolist():  # in the order asked for
            read.out[places[done]] = array[row]
            done += 1
    except errors.CodistillError:
        raise
    except Exception as error:  # zarr has no closed set of errors for metadata and chunks that it cannot use
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise errors.Damaged(f"{where}: row {read.rows[done]} cannot be read by zarr: {reason}") from error
