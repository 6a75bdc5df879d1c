"""Writer of one shard: rows go to their slots as they come, then trailer and index follow, then it is published."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.cache.code_rows import CodeRows, Measured
from store.cache.jpeg_writing import JpegChunks
from store.common.threads import ThreadTeam
from store.format import manifest
from store.format.code_encode import EncodedRow, Encoder
from store.format.indexed_layout import IndexedLayout
from store.format.jpeg import EncodedPixels
from store.format.layout import CHECKSUM_BYTES, ShardLayout, checksum
from store.format.moments import TokenMoments
from store.format.schema import FAILED, OK, PIXELS, ArrayNode
from store.format.trailer import Trailer
from store.storage.base import Sink, Storage


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Description of a shard, known before its first row.

    Attributes:
        dataset: name of the dataset.
        array: `pixels` or a teacher's name.
        shard: number of the shard.
        node: array that the shard belongs to.
        layout: layout of the array.
        prefix_tokens: number of tokens before the patches; None for pixels, which have no moments.
        identity_digest, pixels_digest, provenance: as in the trailer.
        encoder: encoder of the code that tokens are stored in; None where rows are stored as they are.
        measured: moments and distortion of all rows, where they are known and rows come as stored codes.
        first_row: number of row 0 in the whole dataset, of which this may be a part; codes depend on it.
    """

    dataset: str
    array: str
    shard: int
    node: ArrayNode
    layout: ShardLayout | IndexedLayout
    prefix_tokens: int | None
    identity_digest: str
    pixels_digest: str | None
    provenance: Mapping[str, Any]
    encoder: Encoder | None = None
    measured: Measured | None = None
    first_row: int = 0

    @property
    def rows(self) -> range:
        return self.layout.rows_of(self.shard)


class ShardWriter:
    """Writes the rows of one shard in order; nothing is visible before `finish`.

    Use as a context manager: leaving it without `finish` removes what was written.
    """

    def __init__(self, storage: Storage, plan: ShardPlan) -> None:
        self._plan = plan
        self._rows = plan.rows
        self._next = 0
        self._crc32c = np.zeros(len(self._rows), np.uint32)
        self._status = np.zeros(len(self._rows), np.uint8)
        self._errors: dict[int, str] = {}
        self._chunks = JpegChunks(plan.layout, len(self._rows)) if isinstance(plan.layout, IndexedLayout) else None
        self._moments: TokenMoments | None = None
        self._codes: CodeRows | None = None
        if plan.encoder is not None and plan.measured is None:
            self._codes = CodeRows(plan.encoder, rows=len(self._rows))
        elif plan.encoder is None and plan.prefix_tokens is not None:
            tokens, channels = plan.node.row_shape
            self._moments = TokenMoments(
                prefix_tokens=plan.prefix_tokens, tokens=tokens, channels=channels, rows=len(self._rows)
            )
        self._team = ThreadTeam(1 if self._moments is None else 2)  # tokens are summed while they are written
        self._sink: Sink | None = storage.create(plan.node.shard_key(plan.shard))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def row(self) -> int:
        """Number of the row that comes next, in the array."""
        return self._rows.start + self._next

    @property
    def rows_bytes(self) -> int:
        """Bytes of the rows given so far as they are stored, without their checksums."""
        rows = int((self._status == OK).sum())
        if self._chunks is not None:
            return self._chunks.end_bytes - rows * CHECKSUM_BYTES
        return rows * self._slots.row_bytes

    @property
    def _slots(self) -> ShardLayout:
        assert isinstance(self._plan.layout, ShardLayout), "rows stored as JPEG have no slots"
        return self._plan.layout

    def append(self, row: npt.NDArray[Any] | EncodedPixels | EncodedRow) -> None:
        """Write the next row.

        Args:
            row: values, of the array's row shape and data type; may be reused when the call returns. Pixels that are
                stored as JPEG may be encoded already. For a teacher with a code: the true tokens, float16 [N, C], which
                are encoded here, or what a device encoded.

        Raises:
            errors.InvalidInput: another shape or type, a value that is not finite, or no row left.
        """
        sink = self._open_sink()
        if self._codes is not None:
            written = self._put_codes(sink, row)
        elif self._chunks is not None and isinstance(row, EncodedPixels):
            self._crc32c[self._next] = self._chunks.put(sink, self._next, row)
            written = True
        else:
            written = self._put(sink, self._checked(row))
        if not written:
            message = "a value is not finite (float16 overflow?). Call fail(reason) for such a row"
            raise errors.InvalidInput(f"{self._where()}: {message}")
        self._status[self._next] = OK
        self._next += 1

    def fail(self, reason: str) -> None:
        """Record that the next row failed; its slot stays empty.

        Args:
            reason: text for people, `kind: details`; `seal` counts the kinds.

        Raises:
            errors.InvalidInput: no reason, or no row left.
        """
        if not reason:
            raise errors.InvalidInput(f"{self._where()}: a failed row needs a reason")
        self._open_sink()
        self._errors[self.row] = reason
        self._status[self._next] = FAILED
        self._next += 1

    def finish(self, manifest: pa.Table | None = None) -> bool:
        """Write trailer and index, sync and publish.

        Args:
            manifest: manifest rows of a pixel shard (`store.format.manifest.SCHEMA`); None for tokens.

        Returns:
            False if another writer published this shard first; this one is discarded.

        Raises:
            errors.InvalidInput: rows are missing, or the manifest is not that of this shard.
        """
        sink = self._open_sink(finishing=True)
        trailer = self._trailer(manifest).encode()
        if self._chunks is not None:
            sink.write([trailer, self._chunks.index()], self._chunks.end_bytes)
        else:
            sink.write([trailer, self._slots.index(self._status == OK)], self._slots.slots_bytes(self._plan.shard))
        published = sink.publish()
        self._sink = None
        self._team.close()
        return published

    def discard(self) -> None:
        """Remove what was written; nothing happens after `finish`."""
        if self._sink is not None:
            self._sink.discard()
            self._sink = None
        self._team.close()

    def _open_sink(self, *, finishing: bool = False) -> Sink:
        count = len(self._rows)
        if self._sink is None:
            raise errors.InvalidInput(f"{self._where()}: the shard is finished or discarded")
        if finishing and self._next < count:
            raise errors.InvalidInput(f"{self._where()}: {self._next} of {count} rows given. Append or fail the others")
        if not finishing and self._next >= count:
            raise errors.InvalidInput(f"{self._where()}: all {count} rows were given already")
        return self._sink

    def _checked(self, row: npt.NDArray[Any] | EncodedPixels | EncodedRow) -> npt.NDArray[Any]:
        node = self._plan.node
        if not isinstance(row, np.ndarray):
            found = "a JPEG file" if isinstance(row, EncodedPixels) else "encoded tokens"
            raise errors.InvalidInput(f"{self._where()}: expected {node.dtype} {node.row_shape}, found {found}")
        if row.shape != node.row_shape or row.dtype != node.dtype:
            given = f"{row.dtype} {row.shape}"
            raise errors.InvalidInput(f"{self._where()}: expected {node.dtype} {node.row_shape}, found {given}")
        return np.ascontiguousarray(row, dtype=node.dtype.newbyteorder("<"))

    def _put_codes(self, sink: Sink, row: npt.NDArray[Any] | EncodedPixels | EncodedRow) -> bool:
        """Encode a row and write its slot; False, and nothing written, if a token is not finite."""
        assert self._codes is not None
        if isinstance(row, EncodedPixels):
            raise errors.InvalidInput(f"{self._where()}: expected tokens, found a JPEG file")
        try:
            codes = self._codes.add(row, self._plan.first_row + self.row)
        except errors.InvalidInput as error:
            raise errors.InvalidInput(f"{self._where()}: {error}") from None
        return codes is not None and self._put(sink, codes)

    def _put(self, sink: Sink, row: npt.NDArray[Any]) -> bool:
        """Write a row's slot; False, and nothing written, if a token is not finite."""
        if self._chunks is not None:
            self._crc32c[self._next] = self._chunks.put(sink, self._next, row)
            return True
        data = row.reshape(-1).view(np.uint8)
        offset = self._next * self._slots.stride
        crc, finite = 0, True

        def write() -> None:
            sink.write([data], offset)

        def validate() -> None:
            nonlocal crc, finite
            crc = checksum(data)  # first: it reads in order, which brings the row into the processor's cache
            finite = self._moments is None or self._moments.add(row)

        self._team.run([write, validate])
        if not finite:
            sink.undo_last_write(offset)
            return False
        sink.write([crc.to_bytes(CHECKSUM_BYTES, "little")], offset + len(data))
        self._crc32c[self._next] = crc
        return True

    def _where(self) -> str:
        return f"shard {self._plan.shard} of '{self._plan.dataset}/{self._plan.array}', row {self.row}"

    def _trailer(self, table: pa.Table | None) -> Trailer:
        plan = self._plan
        if (table is None) == (plan.array == PIXELS):
            raise errors.InvalidInput(f"{self._where()}: a manifest is required for pixels and refused for tokens")
        manifest_bytes = None
        if table is not None:
            checked = manifest.check_rows(table, rows=self._rows, dataset=plan.dataset, status=self._status)
            manifest_bytes = manifest.parquet_bytes(checked)
        measured = self._codes.measured() if self._codes is not None else plan.measured
        moments = self._moments.result() if self._moments is not None else None
        return Trailer(
            dataset=plan.dataset,
            array=plan.array,
            shard=plan.shard,
            rows=self._rows,
            crc32c=self._crc32c,
            status=self._status,
            errors=self._errors,
            identity_digest=plan.identity_digest,
            pixels_digest=plan.pixels_digest,
            provenance=dict(plan.provenance),
            moments=moments if measured is None else measured.moments,
            manifest_bytes=manifest_bytes,
            pixels_crc32c=None if self._chunks is None else self._chunks.pixels_crc32c,
            distortion=None if measured is None else measured.distortion,
        )
