"""The one place where a stored row becomes an array: reading slots into the caller's buffers, checking, filling.

Another encoding of tokens (integers with scales, a rotated basis) is decoded here and nowhere else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.crew import Task
from store.layout import CHECKSUM_BYTES, Layout, checksum
from store.schema import ArrayNode
from store.storage import Storage

TASK_BYTES = 4 * 2**20  # what one thread takes at a time
CALL_BYTES = 512 * 2**10  # neighbouring rows read with one call: more would leave the cache before being checked


@dataclass(frozen=True, kw_only=True)
class Gather:
    """Rows of one array and where they go.

    Attributes:
        node: the array.
        rows: int64 [B], within bounds, any order, duplicates allowed.
        out: [B, ...] of the array's row shape and type, C-contiguous, writable.
        verify: check the crc32c of every row.
    """

    node: ArrayNode
    rows: npt.NDArray[np.int64]
    out: npt.NDArray[Any]
    verify: bool


@dataclass(frozen=True, kw_only=True)
class ReadContext:
    """Where rows are read from and what to tell people when that fails."""

    storage: Storage
    describe: Callable[[ArrayNode], str]  # 'dataset/array'
    how_to_make: Callable[[ArrayNode], str]


def tasks(gather: Gather, context: ReadContext) -> Iterator[Task]:
    """Yield what independent threads can do to fill `gather.out`: rows sorted, each task within one shard."""
    if not len(gather.rows):
        return
    layout = gather.node.layout
    if layout is None:
        yield lambda: _read_through_zarr(gather, context)
        return
    order = np.argsort(gather.rows, kind="stable")
    shards, slots = np.divmod(gather.rows[order], layout.shard_rows)
    flat = gather.out.reshape(len(gather.out), -1).view(np.uint8)
    rows_per_task = max(1, TASK_BYTES // layout.stride)
    bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
    for start, stop in pairwise(bounds):
        for first in range(start, stop, rows_per_task):
            part = slice(first, min(first + rows_per_task, stop))
            yield _SlotTask(gather, context, layout, int(shards[first]), slots[part], order[part], flat)


class _SlotTask:
    """Reads some slots of one shard."""

    def __init__(
        self,
        gather: Gather,
        context: ReadContext,
        layout: Layout,
        shard: int,
        slots: npt.NDArray[np.int64],
        targets: npt.NDArray[np.int64],
        flat: npt.NDArray[np.uint8],
    ) -> None:
        self._gather, self._context, self._layout = gather, context, layout
        self._shard, self._slots, self._targets, self._flat = shard, slots, targets, flat

    def __call__(self) -> None:
        node, layout = self._gather.node, self._layout
        crcs = np.empty((len(self._slots), CHECKSUM_BYTES), np.uint8)
        expected = crcs.view("<u4")[:, 0]
        bad: list[int] = []
        try:
            with self._context.storage.open_object(node.shard_key(self._shard)) as source:
                for start, stop in self._runs():
                    buffers: list[Any] = []
                    for i in range(start, stop):
                        buffers += (self._flat[self._targets[i]], crcs[i])
                    wanted = (stop - start) * layout.stride
                    got = source.read_into(buffers, int(self._slots[start]) * layout.stride)
                    if got != wanted:
                        raise self._damaged(f"cut short at row {self._row(start + got // layout.stride)}")
                    if self._gather.verify:
                        bad += [i for i in range(start, stop) if checksum(buffers[2 * (i - start)]) != expected[i]]
        except FileNotFoundError:
            where = f"shard {self._shard} of '{self._context.describe(node)}'"
            message = f"{where} does not exist. Run: {self._context.how_to_make(node)}"
            raise errors.MissingShard(message) from None
        if bad:
            raise self._damaged(f"checksum of row {', '.join(str(self._row(i)) for i in bad)} differs")

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of neighbouring slots that fit one call."""
        per_call = max(1, CALL_BYTES // self._layout.stride)
        start = 0
        breaks = (np.flatnonzero(np.diff(self._slots) != 1) + 1).tolist()
        for end in [*breaks, len(self._slots)]:
            while start < end:
                stop = min(start + per_call, end)
                yield start, stop
                start = stop

    def _row(self, i: int) -> int:
        return self._shard * self._layout.shard_rows + int(self._slots[min(i, len(self._slots) - 1)])

    def _damaged(self, what: str) -> errors.Damaged:
        where = f"shard {self._shard} of '{self._context.describe(self._gather.node)}'"
        command = f"codistill store verify {self._context.storage.location} --repair"
        return errors.Damaged(f"{where}: {what}. Run: {command}")


def _read_through_zarr(gather: Gather, context: ReadContext) -> None:
    """Read an array that does not promise our layout: somebody else's chunks, compression, sharding."""
    import zarr

    array = zarr.open_array(context.storage.zarr_store(gather.node.path), mode="r")
    try:
        for target, row in enumerate(gather.rows.tolist()):
            gather.out[target] = array[row]
    except ValueError as error:
        where = f"'{context.describe(gather.node)}'"
        raise errors.Damaged(f"{where}: row {row} cannot be read by zarr: {error}") from error
