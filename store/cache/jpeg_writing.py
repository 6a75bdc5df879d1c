"""Writing of the chunks of a shard whose rows are stored as JPEG: one after another, with where each ends."""

from typing import Any

import numpy as np
import numpy.typing as npt

from store.format import jpeg
from store.format.indexed_layout import IndexedLayout
from store.format.jpeg import EncodedPixels
from store.format.layout import CHECKSUM_BYTES, checksum
from store.storage.base import Sink


class JpegChunks:
    """Chunks written so far.

    Attributes:
        pixels_crc32c: uint32 [rows], crc32c of the decoded pixels, 0 where there are none.
        end_bytes: where the last chunk ends.
    """

    def __init__(self, layout: IndexedLayout, rows: int) -> None:
        self._layout = layout
        self._ends = np.zeros(rows, np.uint64)
        self.pixels_crc32c = np.zeros(rows, np.uint32)
        self.end_bytes = 0

    def put(self, sink: Sink, position: int, row: npt.NDArray[Any] | EncodedPixels) -> int:
        """Write the chunk of the row at `position`, encoded here if it is not yet; return the crc32c of its bytes."""
        encoded = row if isinstance(row, EncodedPixels) else jpeg.encoded(np.ascontiguousarray(row))
        crc = checksum(encoded.data)
        sink.write([encoded.data, crc.to_bytes(CHECKSUM_BYTES, "little")], self.end_bytes)
        self.end_bytes += len(encoded.data) + CHECKSUM_BYTES
        self._ends[position:] = self.end_bytes
        self.pixels_crc32c[position] = encoded.crc32c
        return crc

    def index(self) -> bytes:
        """Return the sharding index of the finished shard."""
        return self._layout.index(self._ends)
