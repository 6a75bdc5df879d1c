"""Reading of rows that are stored as JPEG: one positional read for neighbours, decoded into the caller's buffers."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.jpeg_index import JpegIndex, JpegIndexes
from store.common.threads import Task
from store.format import jpeg
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.schema import ArrayNode
from store.storage.base import OpenObject, Storage

TASK_ROWS = 8  # a few milliseconds of decoding, so that threads end together


class JpegReader:
    """Reads rows of the pixels of one dataset.

    Args:
        storage: storage of the cache.
        indexes: indexes of the shards.
        where: `dataset/pixels`, for errors.
        how_to_make: command that makes its shards.
    """

    def __init__(self, storage: Storage, indexes: JpegIndexes, *, where: str, how_to_make: str) -> None:
        self._storage, self._indexes = storage, indexes
        self._where, self._how_to_make = where, how_to_make

    def plan(
        self,
        node: ArrayNode,
        rows: npt.NDArray[np.int64],
        out: npt.NDArray[Any],
        *,
        verify: bool,
        places: npt.NDArray[np.int64] | None = None,
    ) -> Iterator[Task]:
        """Yield tasks that fill `out`; independent threads may run them.

        Args:
            node: the pixels.
            rows: int64 [B], within bounds, any order, duplicates allowed.
            out: uint8 [B, H, W, 3], C-contiguous, writable; of any length with `places`.
            verify: check the crc32c of every row, as stored and as decoded.
            places: int64 [B], the place of each row in `out`; None means in order.
        """
        assert node.layout is not None
        order = np.argsort(rows, kind="stable")
        numbers = rows[order]
        targets = order if places is None else places[order]
        shards = numbers // node.layout.shard_rows
        cuts = np.flatnonzero(np.diff(shards)) + 1
        for first, last in pairwise([0, *cuts.tolist(), len(numbers)]):
            for start in range(first, last, TASK_ROWS):
                part = slice(start, min(start + TASK_ROWS, last))
                yield _JpegTask(self, node, numbers[part].tolist(), [out[i] for i in targets[part].tolist()], verify)

    def require(self, shard: int) -> None:
        """Raise unless a shard is of this array, before memory is asked for rows of the size claimed."""
        self._indexes.get(shard)

    def read(self, node: ArrayNode, rows: list[int], targets: list[Any], *, verify: bool) -> None:
        """Read rows of one shard, ascending; if one is not what was written, see whether the shard was replaced."""
        assert node.layout is not None
        shard = rows[0] // node.layout.shard_rows
        try:
            problem = self._try(node, shard, self._indexes.get(shard), rows, targets, verify=verify)
            if problem is not None:
                current = self._indexes.get(shard, reread=True)
                problem = self._try(node, shard, current, rows, targets, verify=verify)
        except FileNotFoundError as error:
            if isinstance(error, errors.CodistillError):
                raise
            message = f"shard {shard} of '{self._where}' does not exist. Run: {self._how_to_make}"
            raise errors.MissingShard(message) from None
        if problem is not None:
            raise problem

    def _try(
        self, node: ArrayNode, shard: int, index: JpegIndex, rows: list[int], targets: list[Any], *, verify: bool
    ) -> errors.CodistillError | None:
        positions = [row - index.rows.start for row in rows]
        places = [index.place(position) for position in positions]
        with self._storage.open_object(node.shard_key(shard)) as source:
            for first, last in _calls(places, self._storage.call_bytes):
                start, data = places[first][0], _bytes(source, places[first][0], places[last - 1][1])
                for i in range(first, last):
                    chunk = data[places[i][0] - start : places[i][1] - start]
                    stored = None if index.crc32c is None else int(index.crc32c[positions[i]])
                    expected = (stored, int(index.pixels_crc32c[positions[i]]))
                    problem = self._decode(shard, chunk, targets[i], row=rows[i], expected=expected, verify=verify)
                    if problem is not None:
                        return problem
        return None

    def _decode(
        self, shard: int, chunk: memoryview, target: Any, *, row: int, expected: tuple[int | None, int], verify: bool
    ) -> errors.CodistillError | None:
        """Decode one chunk; return what is wrong with it."""
        data, stored = chunk[:-CHECKSUM_BYTES], int.from_bytes(chunk[-CHECKSUM_BYTES:], "little")
        if len(chunk) <= CHECKSUM_BYTES:
            return self._damaged(shard, f"row {row} is not where its index says")
        if verify and (checksum(data) != stored or expected[0] not in (None, stored)):
            return self._damaged(shard, f"checksum of row {row} differs")
        try:
            jpeg.decode(data, target)
        except errors.InvalidInput as error:
            return self._damaged(shard, f"row {row} cannot be decoded: {error}")
        found = checksum(target) if verify else expected[1]
        return None if found == expected[1] else errors.OtherDecoder(other_pixels(self._where, row, expected[1], found))

    def _damaged(self, shard: int, what: str) -> errors.Damaged:
        command = f"codistill store verify {self._storage.location} --repair"
        return errors.Damaged(f"shard {shard} of '{self._where}': {what}. Run: {command}")


class _JpegTask:
    """Reads some rows of one shard."""

    def __init__(self, reader: JpegReader, node: ArrayNode, rows: list[int], targets: list[Any], verify: bool) -> None:
        self._reader, self._node, self._rows, self._targets, self._verify = reader, node, rows, targets, verify

    def __call__(self) -> None:
        self._reader.read(self._node, self._rows, self._targets, verify=self._verify)


def other_pixels(where: str, row: int, expected: int, found: int) -> str:
    """Return the message about a decoder that gives other pixels than were written."""
    return (
        f"row {row} of '{where}': {jpeg.decoder_name()} decodes it to other pixels than the teachers saw: "
        f"crc32c expected {expected:08x}, found {found:08x}. Install the simplejpeg or pillow that other machines use"
    )


def _calls(places: list[tuple[int, int]], call_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of places that one call reads: neighbours, up to a limit."""
    first = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i][0] > places[i - 1][1] or places[i][1] - places[first][0] > call_bytes:
            yield first, i
            first = i


def _bytes(source: OpenObject, start: int, stop: int) -> memoryview:
    """Return these bytes of an object; fewer where it ends before."""
    data = memoryview(bytearray(stop - start))
    return data[: source.read_into([data], start, len(data))] if stop > start else data
