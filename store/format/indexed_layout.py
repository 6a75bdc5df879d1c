"""Layout of shards whose rows take different numbers of bytes: the sharding index says where each lies. No I/O.

A shard object is chunks, trailer, index. The chunks of the rows that are ok follow one another from byte 0 on, in the
order of the rows, without gaps; a chunk is the encoded row, then its crc32c. A failed row has no chunk.
"""

import numpy as np
import numpy.typing as npt

from store.format.layout import ABSENT, CHECKSUM_BYTES, Layout, checksum

ENTRY_BYTES = 16
Ends = npt.NDArray[np.uint64]


class IndexedLayout(Layout):
    """Layout of an array whose shards are found through their index."""

    def index(self, ends: Ends) -> bytes:
        """Return the sharding index of a shard.

        Args:
            ends: uint64 [rows of the shard], where the chunk of each row ends; a failed row ends where it begins.
        """
        entries = np.full((self.shard_rows, 2), ABSENT, dtype="<u8")
        starts = starts_of(ends)
        present = np.flatnonzero(ends > starts)
        entries[present, 0] = starts[present]
        entries[present, 1] = ends[present] - starts[present]
        data = entries.tobytes()
        return data + checksum(data).to_bytes(CHECKSUM_BYTES, "little")

    def ends(self, index: bytes, *, rows: int) -> Ends | None:
        """Return where the chunk of each row ends; None if the index is damaged or not what `index` gives.

        Args:
            index: sharding index as stored.
            rows: rows of the shard.
        """
        if len(index) != self.index_bytes:
            return None
        data = index[:-CHECKSUM_BYTES]
        if checksum(data) != int.from_bytes(index[-CHECKSUM_BYTES:], "little"):
            return None
        entries = np.frombuffer(data, "<u8").reshape(-1, 2)[:rows]
        lengths = np.where(entries[:, 1] == ABSENT, 0, entries[:, 1])
        if (lengths >> np.uint64(40)).any():  # longer than any object, and sums could overflow
            return None
        ends = np.cumsum(lengths, dtype=np.uint64)
        return ends if self.index(ends) == index else None


def starts_of(ends: Ends) -> Ends:
    """Return where the chunk of each row begins, from where each ends."""
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1]
    return starts
