"""Layout of shards: pure arithmetic of shards, slots and the sharding index. No input or output.

A shard object is slots, trailer, index. Slot r lies at `r * stride` with stride = row bytes + 4 (the crc32c),
whether or not other rows failed, so that a row is found without reading the index.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import crc32c
import numpy as np
import numpy.typing as npt

from store import errors

CHECKSUM_BYTES = 4
ABSENT = 2**64 - 1


def checksum(data: Any) -> int:
    """Return the crc32c of a contiguous buffer, without holding the interpreter lock."""
    return int(crc32c.crc32c(data, gil_release_mode=1))


def shard_count(rows: int, shard_rows: int) -> int:
    """Return the number of shards that `rows` rows take; the last shard may have fewer than `shard_rows`."""
    return -(-rows // shard_rows)


def rows_of_shard(shard: int, *, rows: int, shard_rows: int, owner: str) -> range:
    """Return the rows of a shard.

    Args:
        shard: number of the shard, from 0.
        rows: rows in all.
        shard_rows: rows of a full shard.
        owner: name of the array or dataset in the error.

    Raises:
        errors.InvalidInput: there is no such shard.
    """
    shards = shard_count(rows, shard_rows)
    if not 0 <= shard < shards:
        raise errors.InvalidInput(f"{owner} has no shard {shard}, it has {shards}, counted from 0")
    return range(shard * shard_rows, min((shard + 1) * shard_rows, rows))


def any_in_shard(rows: npt.NDArray[np.bool_], shard_rows: int) -> npt.NDArray[np.bool_]:
    """Return bool [shards]: whether any row of a shard is True in `rows`, bool [rows]."""
    return np.asarray(np.logical_or.reduceat(rows, np.arange(0, len(rows), shard_rows)))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of one array of rows, whatever the form of its shards.

    Attributes:
        rows: rows of the array.
        row_bytes: bytes of one row in memory.
        shard_rows: rows of a full shard; the last shard may have fewer.
    """

    rows: int
    row_bytes: int
    shard_rows: int

    @classmethod
    def of(cls, shape: Sequence[int], dtype: np.dtype[Any], shard_rows: int) -> Self:
        """Return the layout of an array of this shape.

        Raises:
            errors.InvalidInput: a size is not positive.
        """
        if shard_rows < 1 or len(shape) < 2 or min(shape) < 1:
            raise errors.InvalidInput(f"shape {tuple(shape)} with {shard_rows} rows a shard: all must be positive")
        return cls(rows=shape[0], row_bytes=math.prod(shape[1:]) * dtype.itemsize, shard_rows=shard_rows)

    @property
    def shards(self) -> int:
        return shard_count(self.rows, self.shard_rows)

    @property
    def index_bytes(self) -> int:
        """Bytes of the sharding index with its crc32c; it always has `shard_rows` entries."""
        return self.shard_rows * 16 + CHECKSUM_BYTES

    def rows_of(self, shard: int) -> range:
        """Return the rows of a shard.

        Raises:
            errors.InvalidInput: there is no such shard.
        """
        return rows_of_shard(shard, rows=self.rows, shard_rows=self.shard_rows, owner="the array")


class ShardLayout(Layout):
    """Layout whose rows all take the same number of bytes: slots of a fixed stride."""

    @property
    def stride(self) -> int:
        """Bytes from one slot to the next."""
        return self.row_bytes + CHECKSUM_BYTES

    def slots_bytes(self, shard: int) -> int:
        """Return the bytes of all slots of a shard; its trailer begins there."""
        return len(self.rows_of(shard)) * self.stride

    def index(self, present: npt.NDArray[np.bool_]) -> bytes:
        """Return the sharding index of a shard.

        Args:
            present: bool [rows of the shard], False where the row failed.
        """
        entries = np.full((self.shard_rows, 2), ABSENT, dtype="<u8")
        rows = np.flatnonzero(present).astype(np.uint64)
        entries[rows, 0] = rows * np.uint64(self.stride)
        entries[rows, 1] = self.stride
        data = entries.tobytes()
        return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")
