"""Metadata of a dataset: what the `zarr.json` documents of a cache, its image list and its listings record."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from store import errors
from store.cache import code_files
from store.format import layout, manifest, schema, tables
from store.format.attributes import RANDOM_SEED, CacheAttributes, DatasetAttributes, TeacherAttributes, check_array
from store.format.code import Code
from store.format.code_spec import CodeSpec
from store.format.parts import PART, whole_name
from store.format.schema import CODES, HIERARCHY, PIXELS, TOKENS, ArrayNode, Node
from store.storage.base import Storage

ROOT_KEY = f"{HIERARCHY}/zarr.json"
MAX_DOCUMENT_BYTES = 2**24
UNCHECKED_ROWS = 2**18  # rows for which memory may be asked for on the word of a zarr.json


@dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """A teacher as a dataset's tokens or codes record it.

    Attributes:
        name: name of the teacher in this cache.
        identity: architecture, weights, preprocessing; enforced.
        identity_digest: sha256 of `identity`.
        groups: groups of datasets that this teacher specialises in.
        patch_grid: (rows, cols) of patch tokens.
        prefix_tokens: tokens before the patches (CLS, registers).
        channels: values of a token.
        code: code that the tokens are stored in; None where they are stored as float16.
    """

    name: str
    identity: dict[str, Any]
    identity_digest: str
    groups: tuple[str, ...]
    patch_grid: tuple[int, int]
    prefix_tokens: int
    channels: int
    code: CodeSpec | None = None

    @property
    def patches(self) -> int:
        """Number of patch tokens."""
        return self.patch_grid[0] * self.patch_grid[1]

    @property
    def random_weights(self) -> bool:
        """Whether the network had random weights: its tokens serve trials of a pipeline and mean nothing."""
        return RANDOM_SEED in self.identity

    @property
    def random_note(self) -> str:
        """`random weights, seed 0` for people; empty for weights of a file."""
        return f"random weights, seed {self.identity[RANDOM_SEED]}" if self.random_weights else ""


class DatasetMetadata:
    """Recorded facts of one dataset: its rows, arrays, teachers, identities and shards.

    An array is named `pixels` or by its teacher. All methods may be called from several threads.

    Attributes:
        storage: storage of the cache.
        name: name of the dataset.
        group: name of the group of datasets that it belongs to; training takes equally many rows of each group.
        split: `train` or `val`.
        mode: `train` (random views) or `center` (the central view).
        views: views of each image.
        first_view: number of the first view.
        images: number of images.
        rows: number of rows, `images * views`.
        image_list_sha256: checksum of the stored image list.
        source: description of the source of the images, plain JSON.
        part: which part of which dataset this is; None for a dataset as it was first stored, or for a whole one.
        image_size: side of the pixels, px.
        shard_rows: rows of a full shard.
        shards: number of shards of each array.
    """

    def __init__(self, storage: Storage, name: str, *, node: Node, cache: CacheAttributes) -> None:
        attributes = DatasetAttributes.of(node)
        self.storage = storage
        self.name = name
        self.group = attributes.group
        self.split = attributes.split
        self.mode = attributes.mode
        self.views = attributes.views
        self.first_view = attributes.first_view
        self.images = attributes.images
        self.rows = attributes.rows
        self.image_list_sha256 = attributes.image_list_sha256
        self.source = attributes.source
        self.part = attributes.part
        self.image_size = cache.image_size
        self.shard_rows = cache.shard_rows
        self.shards = layout.shard_count(self.rows, self.shard_rows)
        self._cache = cache
        self._arrays: dict[str, ArrayNode] = {}
        self._codes: dict[str, Code] = {}
        if self.rows > UNCHECKED_ROWS:
            self._check_claimed_rows()

    @property
    def whole_name(self) -> str:
        """Name of the dataset that this is a part of, or its own."""
        return self.name if self.part is None else self.part.dataset

    @property
    def first_row(self) -> int:
        """Number of this part's row 0 in the whole dataset: codes depend on numbers in the whole."""
        return 0 if self.part is None else self.part.first_row

    @property
    def teachers(self) -> tuple[str, ...]:
        """Sorted names of the teachers that have tokens or codes; lists the storage on every access."""
        names = self.storage.list_directories(f"{HIERARCHY}/{self.name}")
        return tuple(sorted(name for name in names if schema.is_name(name) and any(self._forms(name))))

    def array(self, name: str) -> ArrayNode:
        """Return the array node of `pixels`, or of a teacher's tokens or codes.

        Raises:
            errors.MissingName: there is none; the available ones are listed.
            errors.Damaged: the document cannot be used, or a teacher has both tokens and codes.
        """
        if name not in self._arrays:
            try:
                if name != PIXELS and not schema.is_name(name):
                    raise FileNotFoundError(name)  # whatever lies there: it could be outside the dataset
                path = schema.array_path(self.name, name) if name == PIXELS else self._teacher_path(name)
                data = read_document(self.storage, path)
            except (FileNotFoundError, NotADirectoryError):
                available = ", ".join([PIXELS, *self.teachers])
                raise errors.MissingName(f"'{self.name}' has no array '{name}'; available: {available}") from None
            node = schema.parse_array(path, data)
            check_array(node, array=name, rows=self.rows, attributes=self._cache)
            if node.layout is None and self.storage.exists(schema.record_key(self.name, name)):
                message = f"'{path}/zarr.json' has no attribute 'layout', and codistill sealed this array"
                raise errors.Damaged(f"{message}. {schema.EXITS}")
            self._arrays[name] = node
        return self._arrays[name]

    def _forms(self, name: str) -> Iterator[str]:
        """Yield in which forms the tokens of a teacher are stored: one of `tokens` and `codes`, both if damaged."""
        for form in (TOKENS, CODES):
            if self.storage.exists(f"{schema.array_path(self.name, name, form)}/zarr.json"):
                yield form

    def _teacher_path(self, name: str) -> str:
        forms = list(self._forms(name))
        if len(forms) > 1:
            message = f"'{self.name}/{name}' has both {TOKENS} and {CODES}, one of them expected"
            raise errors.Damaged(f"{message}. Delete the folder that does not belong there")
        return schema.array_path(self.name, name, forms[0] if forms else TOKENS)

    def row_type(self, name: str, *, raw: bool = False) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and data type of a row as `read` gives it.

        Args:
            name: `pixels` or a teacher.
            raw: as in `read`: codes as they are stored, instead of decoded tokens.
        """
        node = self.array(name)
        if node.form != CODES or raw:
            return node.row_shape, node.dtype
        info = self.teacher(name)
        return (info.prefix_tokens + info.patches, info.channels), np.dtype(np.float16)

    def teacher(self, name: str) -> TeacherInfo:
        """Return what is recorded of a teacher.

        Raises:
            errors.MissingName: it has no tokens here; the available ones are listed.
        """
        if name == PIXELS:
            raise errors.MissingName(f"'{PIXELS}' is no teacher; available: {', '.join(self.teachers)}")
        node = self.array(name)
        attributes = TeacherAttributes.of(node)
        return TeacherInfo(
            name=name,
            identity=attributes.identity,
            identity_digest=schema.digest(attributes.identity),
            groups=attributes.groups,
            patch_grid=attributes.patch_grid,
            prefix_tokens=attributes.prefix_tokens,
            channels=attributes.channels,
            code=attributes.code,
        )

    def code(self, teacher: str) -> Code:
        """Return the code that a teacher's tokens are stored in; it is read once.

        Raises:
            errors.InvalidInput: they are stored as float16.
            errors.Damaged: an array of the code is absent or damaged, or together they are not the code recorded.
        """
        if teacher not in self._codes:
            self._codes[teacher] = self._stored_code(teacher)
        return self._codes[teacher]

    def check_code(self, teacher: str) -> None:
        """Check that the stored code is whole and the one recorded, without keeping it; raises as `code` does."""
        if teacher not in self._codes:
            self._stored_code(teacher)

    def _stored_code(self, teacher: str) -> Code:
        info = self.teacher(teacher)
        if info.code is None:
            raise errors.InvalidInput(f"'{self.name}/{teacher}' is stored as float16 tokens: it has no code")
        return code_files.read_code(
            self.storage,
            dataset=self.name,
            teacher=teacher,
            spec=info.code,
            prefix_tokens=info.prefix_tokens,
            patch_grid=info.patch_grid,
        )

    def identity_digest(self, array: str) -> str:
        """Return the digest of what an array's values depend on; every shard of the array carries it."""
        if array == PIXELS:
            return self._pixels_identity
        info = self.teacher(array)
        if info.code is None:
            return info.identity_digest
        return schema.digest({"teacher": info.identity, "code": info.code.digest})

    @cached_property
    def _pixels_identity(self) -> str:
        views = {"split": self.split, "mode": self.mode, "views": self.views, "first_view": self.first_view}
        return schema.digest({"recipe": self._cache.recipe, "image_list_sha256": self.image_list_sha256, **views})

    def image_list(self) -> pa.Table:
        """Return image_index int64, path string, bytes int64, one row per image.

        Raises:
            errors.Damaged: it is absent, or not the list that the dataset was made from.
        """
        key = schema.images_key(self.name)
        try:
            data = self.storage.read(key)
        except FileNotFoundError:
            raise errors.Damaged(f"'{key}' is absent. Restore the file from another copy") from None
        actual = hashlib.sha256(data).hexdigest()
        if actual != self.image_list_sha256:
            message = f"'{key}' is damaged: sha256 expected {self.image_list_sha256}, found {actual}"
            raise errors.Damaged(f"{message}. Restore the file from another copy")
        return manifest.parse_images(data, images=self.images, where=f"'{key}'")

    def _check_claimed_rows(self) -> None:
        """Compare the rows that are claimed with the image list, before memory for so many rows is asked for.

        A sealed status of that size shows as well that there are so many rows. It comes first: damage at the end of a
        Parquet file, which nothing has checked here, can end the process.
        """
        if self._status_has_all_rows():
            return
        key = schema.images_key(self.name)
        try:
            with self.storage.arrow_file(key) as source:
                images = tables.stated_rows(source, where=f"'{key}'")
        except (FileNotFoundError, errors.Damaged) as error:
            images, reason = -1, str(error)
        else:
            reason = f"'{key}' lists {images}"
        if images != self.images:
            where = f"'{HIERARCHY}/{self.name}/zarr.json'"
            raise errors.Damaged(f"{where} claims {self.images} images: {reason}, and no sealed status shows so many")

    def _status_has_all_rows(self) -> bool:
        status = f"{schema.status_path(self.name, PIXELS)}/c.0"
        try:
            return self.storage.size(status) == self.rows + layout.CHECKSUM_BYTES
        except (FileNotFoundError, NotADirectoryError):
            return False

    def shard_rows_of(self, shard: int) -> range:
        """Return the rows of a shard.

        Raises:
            errors.InvalidInput: there is no such shard.
        """
        return layout.rows_of_shard(shard, rows=self.rows, shard_rows=self.shard_rows, owner=f"'{self.name}'")

    def present(self, array: str) -> frozenset[int]:
        """Return the shards that exist, by one listing."""
        node = self.array(array)
        names = {schema.shard_name(shard, len(node.shape)): shard for shard in range(self.shards)}
        return frozenset(names[entry.name] for entry in self.storage.list_objects(node.path) if entry.name in names)

    def stored_row_bytes(self, array: str) -> int:
        """Return the bytes of a stored row with its checksum; a mean of all shards so far where rows differ in size."""
        node = self.array(array)
        if node.layout is None:
            return 0
        if isinstance(node.layout, layout.ShardLayout):
            return node.layout.stride
        names = {schema.shard_name(shard, len(node.shape)): shard for shard in range(self.shards)}
        sizes = {names[e.name]: e.size_bytes for e in self.storage.list_objects(node.path) if e.name in names}
        rows = sum(len(self.shard_rows_of(shard)) for shard in sizes)
        return sum(sizes.values()) // rows if rows else 0

    def describe(self, node: ArrayNode) -> str:
        """Return `dataset/array` of an array node, for messages."""
        return f"{self.name}/{_array_name(node)}"

    def how_to_make(self, node: ArrayNode) -> str:
        """Return the command that makes the shards of an array."""
        array = _array_name(node)
        teachers = "" if array == PIXELS else f" --teachers {array}"
        names = f"--datasets {self.whole_name}{teachers}"
        return f"codistill extract run CATALOGUE.toml --cache {self.storage.location} {names}"


def read_document(storage: Storage, path: str) -> bytes:
    """Return the zarr.json of a group or array.

    Raises:
        FileNotFoundError: there is none.
        errors.Damaged: it is too large for one.
    """
    return storage.read(f"{path}/zarr.json", limit=MAX_DOCUMENT_BYTES)


def read_root(storage: Storage) -> CacheAttributes:
    """Read the root document of a cache: its uuid and recipe.

    Raises:
        errors.MissingCache: there is none.
        errors.Damaged: it is not strict JSON, or a value is out of bounds.
        errors.UnsupportedFormat: a newer version wrote it, or codistill did not write it.
    """
    try:
        root = schema.parse_group(HIERARCHY, read_document(storage, HIERARCHY))
    except (FileNotFoundError, NotADirectoryError):
        makes = f"codistill extract run CATALOGUE.toml --cache {storage.location}"
        message = f"no cache at {storage.location}: '{ROOT_KEY}' does not exist. Check the path, or run: {makes}"
        raise errors.MissingCache(message) from None
    return CacheAttributes.of(root)


def dataset_names(storage: Storage) -> tuple[str, ...]:
    """Return the sorted names of the datasets of a cache, by listing the storage; parts are not named."""
    return tuple(name for name in stored_names(storage) if not _is_part(storage, name))


def stored_names(storage: Storage) -> tuple[str, ...]:
    """Return the sorted names under which datasets and their parts are stored, by listing the storage."""
    names = (name for name in storage.list_directories(HIERARCHY) if schema.is_name(name))
    return tuple(sorted(name for name in names if storage.exists(f"{HIERARCHY}/{name}/zarr.json")))


def _is_part(storage: Storage, name: str) -> bool:
    """Return whether a stored dataset is a part: caches of earlier versions may have datasets of such names."""
    if whole_name(name) is None:
        return False
    try:
        return PART in read_dataset_node(storage, name).attributes
    except errors.CodistillError:
        return True  # damaged or unfinished: named by `verify`


def part_names(storage: Storage, dataset: str) -> tuple[str, ...]:
    """Return the stored names of what was added to a dataset, in order, also of parts that lack a document."""
    listed = {entry.name.removesuffix(".parquet") for entry in storage.list_objects("images")}
    names = listed | set(storage.list_directories(HIERARCHY))
    return tuple(sorted(name for name in names if whole_name(name) == dataset and _is_part(storage, name)))


def read_dataset_node(storage: Storage, name: str) -> Node:
    """Read the document of a dataset.

    Raises:
        errors.Damaged, errors.UnsupportedFormat: the document cannot be used.
        errors.MissingName: there is no dataset of this name; the available ones are listed.
    """
    path = f"{HIERARCHY}/{name}"
    try:
        if not schema.is_name(name):
            raise FileNotFoundError(name)  # whatever lies there: it could be outside the cache
        return schema.parse_group(path, read_document(storage, path))
    except (FileNotFoundError, NotADirectoryError):
        available = ", ".join(dataset_names(storage)) or "none"
        raise errors.MissingName(f"no dataset '{name}' in {storage.location}; available: {available}") from None


def _array_name(node: ArrayNode) -> str:
    last = node.path.split("/")[-1]
    return node.path.split("/")[-2] if last in (TOKENS, CODES) else last
