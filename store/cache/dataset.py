"""Datasets of a cache: reading rows, writing shards, and the sealed tables, above what is recorded of a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.cache import deletion, row_status, sealed_tables
from store.cache.metadata import DatasetMetadata, TeacherInfo, read_dataset_node, read_root
from store.cache.reader import Reader, Shard
from store.cache.seal_record import DIGEST_BYTES, read_record
from store.cache.writer import ShardPlan, ShardWriter
from store.format import schema
from store.format.attributes import CacheAttributes
from store.format.schema import OK, PIXELS, Node
from store.format.statistics import Statistics
from store.format.trailer import Trailer
from store.storage.base import Location, Storage
from store.storage.location import open_storage


class Dataset(DatasetMetadata):
    """A list of images, several views of each, and the tokens that teachers make of them. Got from a `Cache`.

    An array is named `pixels` or by its teacher. All methods may be called from several threads.
    """

    def __init__(self, storage: Storage, name: str, *, node: Node, cache: CacheAttributes) -> None:
        super().__init__(storage, name, node=node, cache=cache)
        self._reader = Reader(self)

    def __repr__(self) -> str:
        return f"Dataset('{self.name}', {self.rows} rows, teachers {list(self.teachers)}, in '{self.storage.location}')"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.storage.location, self.name)

    def create_teacher(
        self,
        name: str,
        *,
        identity: Mapping[str, Any],
        groups: Sequence[str],
        patch_grid: tuple[int, int],
        prefix_tokens: int,
        channels: int,
    ) -> TeacherInfo:
        """Create the tokens array of a teacher; nothing happens if it exists and is the same.

        The array is float16 [row, token, channel]: prefix tokens, then patches row by row.

        Args:
            name: teacher name, unique in the dataset.
            identity: architecture, weights and preprocessing, plain JSON; enforced.
            groups: groups of datasets that this teacher specialises in.
            patch_grid: (rows, cols) of patch tokens.
            prefix_tokens: tokens before the patches (CLS, registers).
            channels: values of a token.

        Raises:
            errors.Conflict: it exists with another identity, shape or groups; both values are shown.
            errors.InvalidInput: the name is not allowed or a size is not positive.
        """
        schema.check_name("teacher", name)
        tokens = prefix_tokens + patch_grid[0] * patch_grid[1]
        attributes = {
            "identity": schema.plain_json(dict(identity)),
            "groups": list(groups),
            "patch_grid": list(patch_grid),
            "prefix_tokens": prefix_tokens,
        }
        shape = (self.rows, tokens, channels)
        document = schema.array_document(
            shape=shape,
            dtype=np.dtype(np.float16),
            dimension_names=schema.TOKENS_DIMENSIONS,
            shard_rows=self.shard_rows,
            attributes=attributes,
        )
        path = schema.array_path(self.name, name)
        self.storage.put_if_absent(f"{schema.HIERARCHY}/{self.name}/{name}/zarr.json", schema.group_document())
        self.storage.put_if_absent(f"{path}/zarr.json", document)
        node = self.array(name)
        stored = {**{key: node.attributes.get(key) for key in attributes}, "shape": list(node.shape)}
        differing = schema.differences(stored, {**attributes, "shape": list(shape)})
        if differing:
            exits = "Give the teacher another name, or make another cache"
            raise errors.Conflict(f"'{self.name}/{name}' exists and differs. {'; '.join(differing)}. {exits}")
        return self.teacher(name)

    def write_shard(
        self, array: str, shard: int, *, provenance: Mapping[str, Any], pixels_digest: str | None = None
    ) -> ShardWriter:
        """Begin a shard; use the writer as a context manager and `finish` it.

        Args:
            array: `pixels` or a teacher.
            shard: number of the shard.
            provenance: versions, device and the like, plain JSON; shown, never enforced.
            pixels_digest: digest of the pixel shard that tokens are computed from; required for tokens.

        Raises:
            errors.InvalidInput: no such shard, or `pixels_digest` is absent for tokens or given for pixels.
        """
        self.shard_rows_of(shard)
        if (pixels_digest is None) != (array == PIXELS):
            where = f"shard {shard} of '{self.name}/{array}'"
            raise errors.InvalidInput(f"{where}: pixels_digest is required for tokens and refused for pixels")
        node = self.array(array)
        if node.layout is None:
            raise errors.UnsupportedFormat(f"'{self.name}/{array}' was not created by codistill: it is read-only")
        plan = ShardPlan(
            dataset=self.name,
            array=array,
            shard=shard,
            node=node,
            layout=node.layout,
            prefix_tokens=None if array == PIXELS else self.teacher(array).prefix_tokens,
            identity_digest=self.identity_digest(array),
            pixels_digest=pixels_digest,
            provenance=schema.plain_json(dict(provenance)),
        )
        return ShardWriter(self.storage, plan)

    def read_shard(self, array: str, shard: int, *, verify: bool = True) -> Shard:
        """Return a whole shard; needs no seal.

        Args:
            array: `pixels` or a teacher.
            shard: number of the shard.
            verify: check the crc32c of every row.

        Raises:
            errors.MissingShard: it does not exist; the message names the command that makes it.
            errors.Damaged: a checksum differs, or it belongs elsewhere.
        """
        return self._reader.read_shard(array, shard, verify=verify)

    def read_trailer(self, array: str, shard: int) -> Trailer:
        """Return the trailer of a shard, checked to belong where it was found.

        Raises:
            errors.MissingShard: it does not exist; the message names the command that makes it.
            errors.Damaged: it is cut short, its checksum differs, or it belongs elsewhere.
        """
        return row_status.read_trailer(self, array, shard)

    def read(
        self,
        rows: Sequence[int] | npt.NDArray[np.integer[Any]],
        names: Sequence[str],
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        verify: bool = True,
    ) -> dict[str, npt.NDArray[Any]]:
        """Return rows of several arrays, in the order asked for.

        Args:
            rows: integers [B], any order, duplicates allowed.
            names: `pixels` and teachers.
            out: buffers [B, ...] by name to read into, C-contiguous; allocated for names that have none.
            verify: check the crc32c of every row.

        Returns:
            Arrays [B, ...] by name: uint8 [B, H, W, 3] pixels, float16 [B, N, C] tokens.

        Raises:
            errors.RowsNotOk: rows are missing or failed; `.rows` lists them.
            errors.MissingShard: a shard was removed since it was sealed.
            errors.Damaged: a checksum differs.
            errors.InvalidInput: a row is out of bounds or a buffer does not fit.
        """
        return self._reader.read(rows, names, out=out, verify=verify)

    def status(self, array: str) -> npt.NDArray[np.uint8]:
        """Return the sealed status of every row: 0 missing, 1 ok, 2 failed.

        Raises:
            errors.NotSealed: the message names the command.
        """
        self.array(array)
        return sealed_tables.read_status(self.storage, dataset=self.name, array=array, rows=self.rows)

    def valid_rows(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the numbers of the rows that are ok in pixels and in all `names`, ascending.

        Raises:
            errors.NotSealed: the message names the command.
        """
        valid = self.status(PIXELS) == OK
        for name in sorted(set(names) - {PIXELS}):
            valid &= self.status(name) == OK
        return np.flatnonzero(valid)

    def pixels_digests(self) -> npt.NDArray[np.uint8] | None:
        """Return the digest of every sealed pixel shard, uint8 [shards, 32], zeros where there is none.

        None if they are not known: the record of the seal was deleted, or codistill did not write the pixels.
        """
        record = read_record(self.storage, dataset=self.name, array=PIXELS)
        usable = record is not None and record.pixels_digests.shape == (self.shards, DIGEST_BYTES)
        return record.pixels_digests if record is not None and usable else None

    def statistics(self, teacher: str) -> Statistics:
        """Return the moments of a teacher's stored tokens over all ok rows.

        Raises:
            errors.NotSealed: the message names the command.
        """
        channels = self.teacher(teacher).channels
        return sealed_tables.read_statistics(self.storage, dataset=self.name, teacher=teacher, channels=channels)

    def manifest(self, columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:
        """Return the sealed manifest, rows ascending (rows of shards not sealed are absent).

        Args:
            columns: names of `store.format.manifest.SCHEMA`; None takes all.
            filter: pyarrow expression over any column, or None.

        Raises:
            errors.NotSealed: the message names the command.
        """
        return sealed_tables.read_manifest(self.storage, dataset=self.name, columns=columns, filter=filter)

    def sweep(self) -> list[str]:
        """Remove temporary objects of dead writers in this dataset; return the keys removed."""
        return self.storage.sweep(f"{schema.HIERARCHY}/{self.name}")

    def delete_teacher(self, name: str) -> None:
        """Delete a teacher's tokens and sealed tables, so that they can be computed again.

        Raises:
            errors.MissingName: it has no tokens here; the available ones are listed.
        """
        deletion.delete(self.storage, f"{self.name}/{name}")
        self._arrays.pop(name, None)


def open_dataset(location: Location, name: str) -> Dataset:
    """Open one dataset of a cache; a pickled `Dataset` is restored by it.

    Raises:
        errors.MissingCache: there is no cache.
        errors.MissingName: it has no dataset of this name; the available ones are listed.
    """
    storage = open_storage(location)
    cache = read_root(storage)
    return Dataset(storage, name, node=read_dataset_node(storage, name), cache=cache)
