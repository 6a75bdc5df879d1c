"""What the trailer of a shard says of its rows; those that were read last stay in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import store
from eval.view.opened import Opened
from store import errors
from store.format import manifest

TRAILER_BYTES = 16 * 2**10
FEW_BYTES = 2**18  # of all paths of a shard in the file, whose repeats then fit in memory too
PATH = manifest.SCHEMA.names.index("path")


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What the trailer of a shard says of its rows.

    Attributes:
        start: first row.
        status: uint8 [rows]; empty if the shard does not exist or cannot be read.
        errors: reasons by failed row.
        manifest_bytes: manifest rows as Parquet; None for tokens, and where there are none.
        where: name of the shard, for errors.
        damage: why the trailer cannot be read; empty if it can.
    """

    start: int
    status: npt.NDArray[np.uint8]
    errors: Mapping[int, str] = field(default_factory=dict)
    manifest_bytes: bytes | None = None
    where: str = ""
    damage: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes in memory, about."""
        return TRAILER_BYTES + 3 * len(self.manifest_bytes or b"")

    def manifest(self) -> pa.Table | None:
        """Return the manifest rows; None where there are none.

        Raises:
            errors.Damaged: they are not manifest rows of this shard.
        """
        if self.manifest_bytes is None:
            return None
        rows = range(self.start, self.start + len(self.status))
        return manifest.parse_rows(self.manifest_bytes, rows=rows, where=self.where)

    def path(self, row: int) -> str:
        """Return the path of a row's image; empty where it is not recorded."""
        return str(self._paths[row - self.start]) if 0 <= row - self.start < len(self._paths) else ""

    @cached_property
    def _paths(self) -> list[str]:
        """The paths alone, in a tenth of the time of the whole manifest."""
        if self.manifest_bytes is None:
            return []
        try:
            file = pq.ParquetFile(pa.BufferReader(self.manifest_bytes), page_checksum_verification=True)
            metadata = file.metadata
            if metadata.num_row_groups == 1 and metadata.num_rows == len(self.status):
                column = metadata.row_group(0).column(PATH)
                if column.path_in_schema == "path" and 0 <= column.total_uncompressed_size <= FEW_BYTES:
                    return list(file.read(columns=["path"], use_threads=False)["path"].to_pylist())
            table = self.manifest()
        except (errors.Damaged, pa.ArrowException, OSError):
            return []
        return [] if table is None else list(table["path"].to_pylist())


def shard_record(opened: Opened, dataset: store.Dataset, array: str, shard: int) -> ShardRecord:
    """Return what the trailer of a shard of a part says; those of absent shards are looked for again each time."""
    key = ("trailer", dataset.name, array, shard)
    known: ShardRecord | None = opened.memory.get(key)
    if known is None:
        known = _read(dataset, array, shard)
        if len(known.status):
            opened.memory.put(key, known, known.size_bytes)
    return known


def _read(dataset: store.Dataset, array: str, shard: int) -> ShardRecord:
    start, none = shard * dataset.shard_rows, np.zeros(0, np.uint8)
    try:
        trailer = dataset.read_trailer(array, shard)
    except errors.MissingShard:
        return ShardRecord(start=start, status=none)
    except errors.Damaged as error:
        return ShardRecord(start=start, status=none, damage=str(error))
    where = f"manifest rows in the trailer of shard {shard} of '{dataset.name}/{array}'"
    data = trailer.manifest_bytes
    return ShardRecord(start=start, status=trailer.status, errors=trailer.errors, manifest_bytes=data, where=where)
