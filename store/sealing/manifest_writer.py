"""Writer of a dataset's sealed manifest: one Parquet file, streamed in row groups, reusing rows already sealed."""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store import errors
from store.cache import sealed_tables
from store.format.manifest import GROUP_ROWS, SCHEMA, reason_kind
from store.format.schema import manifest_key
from store.storage.base import Sink, Storage


class ManifestFile:
    """A manifest being written, from the manifest rows of shards in ascending order.

    Attributes:
        reasons: number of failed rows so far, by kind of reason.
    """

    def __init__(self, storage: Storage, *, dataset: str, shard_rows: int) -> None:
        self.reasons: Counter[str] = Counter()
        self._storage, self._dataset, self._shard_rows = storage, dataset, shard_rows
        self._shards_per_group = max(1, GROUP_ROWS // shard_rows)
        self._group: dict[int, pa.Table | None] = {}
        self._sink = storage.create_replacement(manifest_key(dataset))
        self._bytes = _SinkFile(self._sink)
        self._file = pa.PythonFile(self._bytes, mode="w")
        self._writer = pq.ParquetWriter(self._file, SCHEMA, compression="zstd", write_page_checksum=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._sink.discard()

    def add(self, shard: int, rows: pa.Table | None) -> None:
        """Add a shard; `rows` None copies its rows from the sealed manifest."""
        if self._group and shard // self._shards_per_group != next(iter(self._group)) // self._shards_per_group:
            self._write_group()
        self._group[shard] = rows

    def publish(self) -> str:
        """Put the file in place of the older one; return its sha256."""
        self._write_group()
        self._writer.close()
        self._file.close()
        self._sink.publish()
        return self._bytes.sha256.hexdigest()

    def _write_group(self) -> None:
        if not self._group:
            return
        sealed = self._sealed_rows(min(self._group), max(self._group)) if None in self._group.values() else {}
        parts = [sealed[shard] if rows is None else rows for shard, rows in self._group.items()]
        try:
            table = pa.concat_tables(parts).combine_chunks()
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        except pa.ArrowInvalid as error:
            shards = f"{min(self._group)}..{max(self._group)}"
            message = f"manifest rows of shards {shards} of '{self._dataset}' are not of this version: {error}"
            raise errors.UnsupportedFormat(message) from error
        reasons = table["error"].drop_null().to_pylist()
        self.reasons.update(reason_kind(reason) for reason in reasons)
        self._group = {}

    def _sealed_rows(self, first: int, last: int) -> Mapping[int, pa.Table]:
        """Return the rows of sealed shards between two, by shard."""
        start, stop = first * self._shard_rows, (last + 1) * self._shard_rows
        within = (pc.field("row") >= start) & (pc.field("row") < stop)
        table = sealed_tables.read_manifest(self._storage, dataset=self._dataset, filter=within)
        table = table.replace_schema_metadata(None)
        shards = table["row"].to_numpy() // self._shard_rows
        bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
        return {int(shards[low]): table.slice(low, high - low) for low, high in pairwise(bounds) if high > low}


class _SinkFile(io.RawIOBase):
    """A sink as the file object that pyarrow writes to, in order.

    Attributes:
        sha256: sum of what was written.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._position = 0
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._sink.write([data], self._position)
        self.sha256.update(data)
        self._position += size
        return size
