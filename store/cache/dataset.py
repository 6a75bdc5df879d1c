"""One dataset of a cache: its arrays, shards, rows and sealed tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from store import errors
from store.cache import sealed_tables
from store.cache.reader import Reader, Shard
from store.cache.writer import ShardPlan, ShardWriter
from store.format import schema
from store.format.schema import OK, PIXELS, TOKENS, ArrayNode, Node
from store.format.statistics import Statistics
from store.format.trailer import Trailer
from store.storage.base import Storage


@dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """A teacher as a dataset's tokens record it.

    Attributes:
        name: its name in this cache.
        identity: architecture, weights, preprocessing; enforced.
        identity_digest: sha256 of `identity`.
        groups: groups of datasets whose own teacher this is.
        patch_grid: (rows, cols) of patch tokens.
        prefix_tokens: tokens before the patches (CLS, registers).
        channels: of a token.
    """

    name: str
    identity: dict[str, Any]
    identity_digest: str
    groups: tuple[str, ...]
    patch_grid: tuple[int, int]
    prefix_tokens: int
    channels: int


class Dataset:
    """A list of images, several views of each, and what teachers see in them. Got from a `Cache`.

    An array is named `pixels` or by its teacher. All methods may be called from several threads.
    """

    def __init__(self, storage: Storage, name: str, *, node: Node, recipe: Mapping[str, Any]) -> None:
        keys = ("group", "split", "mode", "views", "first_view", "images", "rows", "image_list_sha256")
        attributes = node.require(keys)
        self.storage = storage
        self.name = name
        self.group: str = attributes["group"]
        self.split: str = attributes["split"]
        self.mode: str = attributes["mode"]
        self.views: int = attributes["views"]
        self.first_view: int = attributes["first_view"]
        self.images: int = attributes["images"]
        self.rows: int = attributes["rows"]
        self.image_list_sha256: str = attributes["image_list_sha256"]
        self.source: dict[str, Any] = attributes.get("source", {})
        self.image_size: int = recipe["image_size"]
        self.shard_rows: int = recipe["shard_rows"]
        self.shards = -(-self.rows // self.shard_rows)
        self._recipe = recipe
        self._arrays: dict[str, ArrayNode] = {}
        self._reader = Reader(self)

    def __repr__(self) -> str:
        return f"Dataset('{self.name}', {self.rows} rows, teachers {list(self.teachers)}, in '{self.storage.location}')"

    def __reduce__(self) -> tuple[Any, ...]:
        from store.cache.cache import open_dataset

        return open_dataset, (self.storage.location, self.name)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that have a tokens array, sorted; looked up every time."""
        below = f"{schema.HIERARCHY}/{self.name}"
        names = [name for name in self.storage.list_directories(below) if name not in schema.RESERVED_NAMES]
        return tuple(sorted(n for n in names if self.storage.exists(f"{below}/{n}/{TOKENS}/zarr.json")))

    def array(self, name: str) -> ArrayNode:
        """Return the array node of `pixels` or of a teacher's tokens.

        Raises:
            errors.MissingName: there is none; the available ones are listed.
        """
        if name not in self._arrays:
            path = schema.array_path(self.name, name)
            try:
                data = self.storage.read(f"{path}/zarr.json")
            except FileNotFoundError:
                available = ", ".join([PIXELS, *self.teachers])
                raise errors.MissingName(f"'{self.name}' has no array '{name}'; available: {available}") from None
            node = schema.parse_array(path, data)
            if node.shape[0] != self.rows:
                message = f"'{path}' has {node.shape[0]} rows, its dataset has {self.rows}"
                raise errors.UnsupportedFormat(message)
            self._arrays[name] = node
        return self._arrays[name]

    def teacher(self, name: str) -> TeacherInfo:
        """Return what is recorded of a teacher.

        Raises:
            errors.MissingName: it has no tokens here; the available ones are listed.
        """
        if name == PIXELS:
            raise errors.MissingName(f"'{PIXELS}' is no teacher; available: {', '.join(self.teachers)}")
        node = self.array(name)
        attributes = node.require(("identity", "groups", "patch_grid", "prefix_tokens"))
        grid_rows, grid_cols = attributes["patch_grid"]
        return TeacherInfo(
            name=name,
            identity=attributes["identity"],
            identity_digest=schema.digest(attributes["identity"]),
            groups=tuple(attributes["groups"]),
            patch_grid=(grid_rows, grid_cols),
            prefix_tokens=attributes["prefix_tokens"],
            channels=node.shape[-1],
        )

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
        """Create the tokens array of a teacher, float16 [row, prefix tokens then patches row by row, channel].

        Nothing happens if it exists and is the same.

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
            dimension_names=("row", "token", "channel"),
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

    def identity_digest(self, array: str) -> str:
        """Return the digest that every shard of an array carries: of what its values depend on."""
        return self._pixels_identity if array == PIXELS else self.teacher(array).identity_digest

    @cached_property
    def _pixels_identity(self) -> str:
        views = {"split": self.split, "mode": self.mode, "views": self.views, "first_view": self.first_view}
        return schema.digest({"recipe": self._recipe, "image_list_sha256": self.image_list_sha256, **views})

    def image_list(self) -> pa.Table:
        """Return image_index int64, path string, bytes int64, one row per image."""
        with self.storage.arrow_file(schema.images_key(self.name)) as source:
            return pq.read_table(source)

    def shard_rows_of(self, shard: int) -> range:
        """Return the rows of a shard.

        Raises:
            errors.InvalidInput: there is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise errors.InvalidInput(f"'{self.name}' has no shard {shard}, it has {self.shards}, counted from 0")
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def present(self, array: str) -> frozenset[int]:
        """Return the shards that exist, by one listing."""
        node = self.array(array)
        names = {schema.shard_name(shard, len(node.shape)): shard for shard in range(self.shards)}
        return frozenset(names[entry.name] for entry in self.storage.list_objects(node.path) if entry.name in names)

    def write_shard(
        self, array: str, shard: int, *, provenance: Mapping[str, Any], pixels_digest: str | None = None
    ) -> ShardWriter:
        """Begin a shard; use the writer as a context manager and `finish` it.

        Args:
            array: `pixels` or a teacher.
            shard: its number.
            provenance: plain JSON, shown and never enforced.
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

        Raises:
            errors.MissingShard: it does not exist; the message names the command that makes it.
            errors.Damaged: it is not what was written, or belongs elsewhere.
        """
        return self._reader.read_shard(array, shard, verify=verify)

    def read_trailer(self, array: str, shard: int) -> Trailer:
        """Return what a shard says of itself, checked to belong where it was found.

        Raises:
            errors.MissingShard: it does not exist; the message names the command that makes it.
            errors.Damaged: it is cut short, its checksum differs, or it belongs elsewhere.
        """
        return self._reader.read_trailer(array, shard)

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
            errors.MissingShard: a shard has gone since it was sealed.
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
        """Return the rows that are ok in pixels and in all `names`, ascending.

        Raises:
            errors.NotSealed: the message names the command.
        """
        valid = self.status(PIXELS) == OK
        for name in sorted(set(names) - {PIXELS}):
            valid &= self.status(name) == OK
        return np.flatnonzero(valid)

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
            columns: names of `store.manifest.SCHEMA`, None for all.
            filter: pyarrow expression over any column, or None.

        Raises:
            errors.NotSealed: the message names the command.
        """
        return sealed_tables.read_manifest(self.storage, dataset=self.name, columns=columns, filter=filter)

    def sweep(self) -> list[str]:
        """Remove what dead writers left in this dataset; return the keys removed."""
        return self.storage.sweep(f"{schema.HIERARCHY}/{self.name}")

    def delete_teacher(self, name: str) -> None:
        """Delete a teacher's tokens and sealed tables, so that they can be made anew.

        Raises:
            errors.MissingName: it has no tokens here; the available ones are listed.
        """
        self.array(name)
        self.storage.delete(schema.record_key(self.name, name))
        self.storage.delete_all(f"{schema.HIERARCHY}/{self.name}/{name}")
        del self._arrays[name]

    def describe(self, node: ArrayNode) -> str:
        """Return `dataset/array` of an array node, for messages."""
        return f"{self.name}/{self._array_name(node)}"

    def how_to_make(self, node: ArrayNode) -> str:
        """Return the command that makes the shards of an array."""
        array = self._array_name(node)
        teachers = "" if array == PIXELS else f" --teachers {array}"
        return f"codistill extract run CATALOGUE.toml --cache {self.storage.location} --datasets {self.name}{teachers}"

    def _array_name(self, node: ArrayNode) -> str:
        last = node.path.split("/")[-1]
        return node.path.split("/")[-2] if last == TOKENS else last
