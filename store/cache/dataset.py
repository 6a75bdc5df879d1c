"""Datasets of a cache: reading rows, writing shards, and the sealed tables, above what is recorded of a dataset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import errors
from store.cache import code_files, deletion, row_status, sealed_tables
from store.cache.code_rows import Measured
from store.cache.metadata import DatasetMetadata, TeacherInfo, read_dataset_node, read_root
from store.cache.reader import Reader, Shard
from store.cache.row_selection import Row, Rows, as_row_numbers, html_of, position
from store.cache.seal_record import DIGEST_BYTES, read_record
from store.cache.writer import ShardPlan, ShardWriter
from store.format import schema
from store.format.attributes import CacheAttributes
from store.format.code import Code
from store.format.code_encode import Encoder
from store.format.distortion import Distortion
from store.format.schema import CODES, OK, PIXELS, TOKENS, Node
from store.format.statistics import Statistics
from store.format.trailer import Trailer
from store.storage.base import Location, Storage
from store.storage.location import open_storage


@dataclass(frozen=True, kw_only=True)
class RowArray:
    """Shape of a teacher's array, and the form of its rows: `tokens` or `codes`."""

    form: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.form == CODES else np.float16)

    @property
    def dimensions(self) -> tuple[str, ...]:
        return schema.CODES_DIMENSIONS if self.form == CODES else schema.TOKENS_DIMENSIONS


class Dataset(DatasetMetadata):
    """A list of images, several views of each, and the tokens that teachers make of them. Got from a `Cache`.

    An array is named `pixels` or by its teacher. All methods may be called from several threads.
    """

    def __init__(self, storage: Storage, name: str, *, node: Node, cache: CacheAttributes) -> None:
        super().__init__(storage, name, node=node, cache=cache)
        self._reader = Reader(self)
        self._encoders: dict[str, Encoder] = {}

    def __repr__(self) -> str:
        return f"Dataset('{self.name}', {self.rows} rows, teachers {list(self.teachers)}, in '{self.storage.location}')"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.storage.location, self.name)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self[:])

    @overload
    def __getitem__(self, key: int) -> Row: ...

    @overload
    def __getitem__(self, key: slice | range | Sequence[int] | npt.NDArray[Any]) -> Rows: ...

    def __getitem__(self, key: Any) -> Row | Rows:
        """Return one row, or a view of those that a slice, numbers or a mask name; nothing is read yet.

        `dataset[5]["pixels"]` reads one array of one row, `dataset[:8].read()` several rows of all arrays.
        """
        if isinstance(key, slice | range) or (np.ndim(key) and not isinstance(key, str)):
            return Rows(self, as_row_numbers(self.rows, key, owner=self.name))
        return Row(self, position(key, self.rows, owner=f"Dataset '{self.name}'"))

    def _repr_html_(self) -> str:
        return html_of(self)

    def create_teacher(
        self,
        name: str,
        *,
        identity: Mapping[str, Any],
        groups: Sequence[str],
        patch_grid: tuple[int, int],
        prefix_tokens: int,
        channels: int,
        code: Code | None = None,
    ) -> TeacherInfo:
        """Create the array of a teacher; nothing happens if it exists and is the same.

        The array is float16 [row, token, channel]: prefix tokens, then patches row by row. With a code it is uint8
        [row, byte], the same tokens in that code, and the code is stored beside it.

        Args:
            name: teacher name, unique in the dataset.
            identity: architecture, weights and preprocessing, plain JSON; enforced.
            groups: groups of datasets that this teacher specialises in.
            patch_grid: (rows, cols) of patch tokens.
            prefix_tokens: tokens before the patches (CLS, registers).
            channels: values of a token.
            code: code to store the tokens in; None stores them as float16.

        Raises:
            errors.Conflict: it exists with another identity, shape, groups or code; both values are shown.
            errors.InvalidInput: the name is not allowed, a size is not positive, or the code is one for other tokens.
        """
        schema.check_name("teacher", name)
        attributes: dict[str, Any] = {
            "identity": schema.plain_json(dict(identity)),
            "groups": list(groups),
            "patch_grid": list(patch_grid),
            "prefix_tokens": prefix_tokens,
        }
        array = RowArray(form=TOKENS, shape=(self.rows, prefix_tokens + patch_grid[0] * patch_grid[1], channels))
        if code is not None:
            sizes = {"patch_grid": list(patch_grid), "prefix_tokens": prefix_tokens, "channels": channels}
            code_files.refuse_other_sizes(code, sizes, teacher=f"'{self.name}/{name}'")
            attributes |= code_files.attributes_of(code)
            array = RowArray(form=CODES, shape=(self.rows, code.row_bytes))
        document = schema.array_document(
            shape=array.shape,
            dtype=array.dtype,
            dimension_names=array.dimensions,
            shard_rows=self.shard_rows,
            attributes=attributes,
        )
        if not any(self._forms(name)):
            path = schema.array_path(self.name, name, array.form)
            self.storage.put_if_absent(f"{schema.HIERARCHY}/{self.name}/{name}/zarr.json", schema.group_document())
            self.storage.put_if_absent(f"{path}/zarr.json", document)
        self._refuse_other_teacher(name, array, attributes)
        if code is not None:
            code_files.write_code(self.storage, code, dataset=self.name, teacher=name)
            self.code(name)  # whole and the one recorded: nothing may be written in another
        return self.teacher(name)

    def _refuse_other_teacher(self, name: str, array: RowArray, asked: dict[str, Any]) -> None:
        """Compare a teacher that was created, perhaps by another, with what was asked for."""
        node = self.array(name)
        stored = {key: node.attributes.get(key) for key in asked}
        for attributes in (stored, asked):  # how a code was found may differ, what it is may not
            attributes["code"] = (attributes.get("code") or {}).get("digest")
        differing = schema.differences(
            {**stored, "shape": list(node.shape), "stored as": node.form},
            {**asked, "shape": list(array.shape), "stored as": array.form},
        )
        if differing:
            exits = "Give the teacher another name, or make another cache"
            raise errors.Conflict(f"'{self.name}/{name}' exists and differs. {'; '.join(differing)}. {exits}")

    def write_shard(
        self,
        array: str,
        shard: int,
        *,
        provenance: Mapping[str, Any],
        pixels_digest: str | None = None,
        measured: Measured | None = None,
    ) -> ShardWriter:
        """Begin a shard; use the writer as a context manager and `finish` it.

        Args:
            array: `pixels` or a teacher.
            shard: number of the shard.
            provenance: versions, device and the like, plain JSON; shown, never enforced.
            pixels_digest: digest of the pixel shard that tokens are computed from; required for tokens.
            measured: for a teacher with a code, moments and distortion of all rows, known from an earlier shard; the
                writer then takes codes as they are stored. None has the writer take tokens, encode and measure them.

        Raises:
            errors.InvalidInput: no such shard, or `pixels_digest` is absent for tokens or given for pixels.
            errors.Damaged: the code is damaged.
        """
        self.shard_rows_of(shard)
        if (pixels_digest is None) != (array == PIXELS):
            where = f"shard {shard} of '{self.name}/{array}'"
            raise errors.InvalidInput(f"{where}: pixels_digest is required for tokens and refused for pixels")
        node = self.array(array)
        if node.layout is None:
            raise errors.UnsupportedFormat(f"'{self.name}/{array}' was not created by codistill: it is read-only")
        plan = ShardPlan(
            encoder=self.encoder(array) if node.form == CODES else None,
            measured=measured,
            dataset=self.name,
            array=array,
            shard=shard,
            node=node,
            layout=node.layout,
            prefix_tokens=None if array == PIXELS else self.teacher(array).prefix_tokens,
            identity_digest=self.identity_digest(array),
            pixels_digest=pixels_digest,
            provenance=schema.plain_json(dict(provenance)),
            first_row=self.first_row,
        )
        return ShardWriter(self.storage, plan)

    def encoder(self, teacher: str) -> Encoder:
        """Return the encoder of the code that a teacher's tokens are stored in; raises as `code`."""
        if teacher not in self._encoders:
            self._encoders[teacher] = Encoder(self.code(teacher))
        return self._encoders[teacher]

    def read_shard(self, array: str, shard: int, *, verify: bool = True, raw: bool = False) -> Shard:
        """Return a whole shard; needs no seal.

        Args:
            array: `pixels` or a teacher.
            shard: number of the shard.
            verify: check the crc32c of every row.
            raw: give codes as they are stored, instead of decoded tokens.

        Raises:
            errors.MissingShard: it does not exist; the message names the command that makes it.
            errors.Damaged: a checksum differs, or it belongs elsewhere.
        """
        return self._reader.read_shard(array, shard, verify=verify, raw=raw)

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
        raw: bool = False,
        places: npt.NDArray[np.integer[Any]] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Return rows of several arrays, in the order asked for.

        Args:
            rows: integers [B], any order, duplicates allowed.
            names: `pixels` and teachers.
            out: buffers [B, ...] by name to read into, C-contiguous; allocated for names that have none.
            verify: check the crc32c of every row.
            raw: give the codes of teachers that have a code as they are stored; others are not changed by it.
            places: integers [B], the place of each row in the buffers, which may then be longer; None means in order.

        Returns:
            Arrays [B, ...] by name: uint8 [B, H, W, 3] pixels, float16 [B, N, C] tokens; with `raw`, uint8 [B, bytes]
            codes. Decoded tokens are NaN where a code stores only some patches of a row: see `stored_tokens`.

        Raises:
            errors.RowsNotOk: rows are missing or failed; `.rows` lists them.
            errors.MissingShard: a shard was removed since it was sealed.
            errors.Damaged: a checksum differs.
            errors.InvalidInput: a row is out of bounds or a buffer does not fit.
        """
        return self._reader.read(rows, names, out=out, verify=verify, raw=raw, places=places)

    def status(self, array: str) -> npt.NDArray[np.uint8]:
        """Return the sealed status of every row: 0 missing, 1 ok, 2 failed.

        Raises:
            errors.NotSealed: the message names the command.
        """
        self.array(array)
        return sealed_tables.read_status(self.storage, dataset=self.name, array=array, rows=self.rows)

    def status_of(self, array: str, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
        """Return the status of some rows, uint8 [B]: as sealed, or by the trailers of their shards; needs no seal."""
        return self._reader.status_of(array, rows)

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

    def distortion(self, teacher: str) -> Distortion:
        """Return what the code of a teacher does to its tokens, over all ok rows.

        Raises:
            errors.InvalidInput: the teacher has no code.
            errors.NotSealed: the message names the command.
        """
        info = self.teacher(teacher)
        if info.code is None:
            raise errors.InvalidInput(f"'{self.name}/{teacher}' is stored as float16 tokens: no code distorts them")
        return sealed_tables.read_distortion(self.storage, dataset=self.name, teacher=teacher, channels=info.channels)

    def stored_tokens(
        self, teacher: str, rows: Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.int64] | None:
        """Return which patch tokens of rows are stored, int64 [B, K], ascending; None where all are."""
        info = self.teacher(teacher)
        if info.code is None or info.code.subset is None:
            return None
        return info.code.subset.stored(np.asarray(rows, np.int64) + self.first_row, info.patch_grid)

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
        for known in (self._arrays, self._codes, self._encoders):
            known.pop(name, None)


def open_dataset(location: Location, name: str) -> Dataset:
    """Open one dataset of a cache; a pickled `Dataset` is restored by it.

    Raises:
        errors.MissingCache: there is no cache.
        errors.MissingName: it has no dataset of this name; the available ones are listed.
    """
    storage = open_storage(location)
    cache = read_root(storage)
    return Dataset(storage, name, node=read_dataset_node(storage, name), cache=cache)
