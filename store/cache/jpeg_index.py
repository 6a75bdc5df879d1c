"""Where the rows of shards stored as JPEG lie, and what they decode to: read once a shard, kept within a bound."""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache import row_status
from store.cache.metadata import DatasetMetadata
from store.cache.shard_tail import read_tail
from store.format.indexed_layout import IndexedLayout
from store.format.schema import PIXELS

KEPT_BYTES = 64 * 2**20  # of all shards of a dataset together: 29,000 shards of 256 rows
OBJECT_BYTES = 128


@dataclass(frozen=True, kw_only=True)
class JpegIndex:
    """Places and checksums of the rows of one shard.

    Attributes:
        rows: rows of the shard.
        ends: [rows], where the chunk of each row ends and the next begins; a failed row has none.
        pixels_crc32c: uint32 [rows], of the decoded pixels, from the trailer.
        crc32c: uint32 [rows], of the stored bytes, from the trailer; None where the index was kept.
    """

    rows: range
    ends: npt.NDArray[np.unsignedinteger]
    pixels_crc32c: npt.NDArray[np.uint32]
    crc32c: npt.NDArray[np.uint32] | None

    def place(self, position: int) -> tuple[int, int]:
        """Return where the chunk of the row at `position` of the shard begins and ends."""
        return int(self.ends[position - 1]) if position else 0, int(self.ends[position])

    @property
    def kept_bytes(self) -> int:
        return self.ends.nbytes + self.pixels_crc32c.nbytes + 2 * OBJECT_BYTES


class JpegIndexes:
    """Indexes of the pixel shards of one dataset; safe to use from several threads, and after a fork."""

    def __init__(self, metadata: DatasetMetadata, *, limit_bytes: int = KEPT_BYTES) -> None:
        self._metadata, self._limit = metadata, limit_bytes
        self._kept: OrderedDict[int, JpegIndex] = OrderedDict()  # used longest ago first
        self._bytes = 0
        self._lock, self._pid = threading.Lock(), os.getpid()

    def get(self, shard: int, *, reread: bool = False) -> JpegIndex:
        """Return the index of a shard.

        Args:
            shard: number of the shard.
            reread: read it, with all checksums, even if it is kept: the shard may have been replaced since.

        Raises:
            errors.MissingShard: the shard does not exist.
            errors.Damaged: its trailer or its index is damaged.
        """
        if not reread:
            with self._own_lock():
                if shard in self._kept:
                    self._kept.move_to_end(shard)
                    return self._kept[shard]
        index = read_index(self._metadata, shard)
        with self._own_lock():
            before = self._kept.pop(shard, None)
            self._kept[shard] = replace(index, crc32c=None)
            self._bytes += index.kept_bytes - (before.kept_bytes if before else 0)
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].kept_bytes
        return index

    def _own_lock(self) -> threading.Lock:
        if self._pid != os.getpid():  # forked while another thread had it
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock


def read_index(metadata: DatasetMetadata, shard: int) -> JpegIndex:
    """Read the index of a pixel shard; raises as `JpegIndexes.get`."""
    node, where = metadata.array(PIXELS), f"shard {shard} of '{metadata.name}/{PIXELS}'"
    layout = node.layout
    assert isinstance(layout, IndexedLayout)
    command = f"Run: codistill store verify {metadata.storage.location} --repair"
    try:
        tail = read_tail(metadata.storage, node, shard)
    except FileNotFoundError:
        raise errors.MissingShard(f"{where} does not exist. Run: {metadata.how_to_make(node)}") from None
    trailer = row_status.parse_trailer(metadata, PIXELS, shard, tail)
    ends = layout.ends(tail[-layout.index_bytes :], rows=len(trailer.rows))
    if ends is None:
        raise errors.Damaged(f"{where}: its sharding index is damaged. {command}")
    if trailer.pixels_crc32c is None:
        raise errors.Damaged(f"{where}: its trailer lacks the checksums of the decoded pixels. {command}")
    small = ends.astype(np.uint32) if int(ends[-1]) < 2**32 else ends
    return JpegIndex(rows=trailer.rows, ends=small, crc32c=trailer.crc32c, pixels_crc32c=trailer.pixels_crc32c)
