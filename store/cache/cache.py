"""Caches: creating and opening them, and creating and deleting their datasets."""

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from store import errors
from store.cache import deletion
from store.cache.dataset import Dataset
from store.cache.joined_dataset import JoinedDataset, join, open_part
from store.cache.metadata import ROOT_KEY, dataset_names, read_document, read_root, stored_names
from store.common.strict_json import Fields
from store.common.text import some
from store.format import manifest, pixels_schema, schema
from store.format.attributes import DatasetAttributes, pixel_sizes, stored_as_jpeg
from store.format.parts import LAST_PART, PartOf, refuse_part_name, whole_name
from store.format.schema import FORMAT, HIERARCHY, PIXELS, Node
from store.storage.base import Location, Storage
from store.storage.location import open_storage

CACHE_FOLDERS = frozenset({HIERARCHY, "images", "manifest", "seal", "quarantine"})
LOST_AND_FOUND = "lost+found"  # of an empty file system
LISTED_NAMES = 3


class Cache:
    """Datasets whose pixels were made by one recipe. Made by `store.open` or `store.create`.

    Attributes:
        storage: storage of the cache.
        location: path or URL, safe to print.
        uuid: identifier, made once by `store.create`.
        recipe: view recipe that the pixels were made by; plain JSON.
    """

    def __init__(self, storage: Storage) -> None:
        self._attributes = read_root(storage)
        self.storage = storage
        self.location = storage.location
        self.uuid = self._attributes.uuid
        self.recipe = self._attributes.recipe
        self._datasets: dict[str, Dataset] = {}
        self._parts: dict[str, Dataset] = {}

    def __repr__(self) -> str:
        return f"Cache('{self.location}', datasets {list(self.datasets)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.location,)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Sorted names of the datasets; lists the storage on every access."""
        return dataset_names(self.storage)

    @property
    def stored_names(self) -> tuple[str, ...]:
        """Sorted names under which datasets and parts of datasets are stored; lists the storage on every access."""
        return stored_names(self.storage)

    def parts(self, name: str | None = None) -> Iterator[Dataset]:
        """Yield the parts of a dataset in order, which are one in most; of all datasets if it is None.

        Raises:
            errors.MissingName: there is no dataset of this name.
        """
        if name is None:
            yield from (self.part(stored) for stored in self.stored_names)
            return
        whole = self[name]
        yield from whole.parts if isinstance(whole, JoinedDataset) else (whole,)

    def part(self, name: str) -> Dataset:
        """Return a dataset or part by the name under which it is stored: without what was added to it later.

        Raises:
            errors.MissingName: there is none; the available datasets are listed.
        """
        if name not in self._parts:
            self._parts[name] = open_part(self.storage, name, self._attributes)
        return self._parts[name]

    def as_of(self, name: str, *, rows: int) -> Dataset:
        """Return a dataset as it was when it had so many rows: with its first parts only.

        Raises:
            errors.MissingName: there is no dataset of this name.
        """
        whole = self[name]
        if not isinstance(whole, JoinedDataset):
            return whole
        ends = np.cumsum([part.rows for part in whole.parts]).tolist()
        return join(whole.parts[0], self._attributes, parts=ends.index(rows) + 1) if rows in ends else whole

    def __iter__(self) -> Iterator[Dataset]:
        return (self[name] for name in self.datasets)

    def __getitem__(self, name: str) -> Dataset:
        """Return a dataset with all of its parts; by the name of a part, that part.

        Raises:
            errors.MissingName: there is no dataset of this name; the available ones are listed.
            errors.Damaged: a part does not fit those before it.
        """
        if name not in self._datasets:
            self._datasets[name] = join(self.part(name), self._attributes)
        return self._datasets[name]

    def create_dataset(
        self,
        name: str,
        *,
        images: pa.Table,
        group: str,
        split: Literal["train", "val"],
        mode: Literal["train", "center"],
        views: int,
        first_view: int = 0,
        source: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Create a dataset and its pixels array; nothing happens if it exists and is the same.

        Row = image_index * views + (view - first_view).

        Args:
            name: dataset name, unique in the cache.
            images: image list: image_index int64 (0, 1, ...), path string (relative, POSIX), bytes int64.
            group: name of the group of datasets; training balances over groups.
            split: `train` if a student may be trained on these rows, else `val`.
            mode: `train` for random views, `center` for the central view.
            views: views of each image, at least 1.
            first_view: number of the first view.
            source: description of where the images come from, plain JSON.

        Raises:
            errors.Conflict: it exists and differs; both values are shown.
            errors.InvalidInput: the name is not allowed, or the image list is empty or not as described.
        """
        refuse_part_name(schema.check_name("dataset", name))
        table = _checked_images(images, name)
        attributes = {
            "group": group,
            "split": split,
            "mode": mode,
            "views": views,
            "first_view": first_view,
            "source": schema.plain_json(dict(source or {})),
        }
        return self._create(name, table, attributes)

    def create_part(
        self, name: str, *, images: pa.Table, source: Mapping[str, Any] | None = None, number: int | None = None
    ) -> Dataset:
        """Create a further part of a dataset for images that were added to it; nothing stored is changed.

        Args:
            name: name of the dataset, which exists.
            images: image list of the part alone, as for `create_dataset`.
            source: description of where the images come from, plain JSON.
            number: number of the part; nothing happens if it exists and is the same. None creates the next one.

        Returns:
            The part. Its array of pixels is there; teachers are created in it as in any dataset.

        Raises:
            errors.Conflict: the part exists with other images, perhaps created by another process.
            errors.MissingName: there is no dataset of this name.
            errors.InvalidInput: the image list is empty or not as described, or there are too many parts.
        """
        self._forget(name)
        *_, last = before = list(self.parts(name))[:number]
        number = len(before)
        if number > LAST_PART:
            raise errors.InvalidInput(f"'{name}' has {number} parts, and can have no more. Make another cache")
        table = _checked_images(images, name)
        part = PartOf(
            dataset=name,
            number=number,
            first_image=sum(part.images for part in before),
            first_row=sum(part.rows for part in before),
            after=last.image_list_sha256,
        )
        copied = {key: getattr(last, key) for key in ("group", "split", "mode", "views", "first_view")}
        attributes = {**copied, "source": schema.plain_json(dict(source or {})), **part.as_attributes()}
        created = self._create(part.stored_name, table, attributes)
        self._forget(name)
        return created

    def _create(self, name: str, table: pa.Table, attributes: dict[str, Any]) -> Dataset:
        """Create a dataset or part and its pixels array; nothing happens if it exists and is the same."""
        rows = table.num_rows * int(attributes["views"])
        attributes |= {"images": table.num_rows, "rows": rows, "image_list_sha256": "0" * 64}
        path = f"{HIERARCHY}/{name}"
        _refuse_unreadable(f"dataset '{name}'", attributes, path=path)
        attributes["image_list_sha256"] = self._put_images(name, table)
        pixels_shape, pixels_document = self._pixels(rows)
        stored = self._existing(path)
        if stored is not None:
            _refuse_differences(f"dataset '{name}'", stored.attributes, attributes)
        self.storage.put_if_absent(f"{path}/{PIXELS}/zarr.json", pixels_document)
        self.storage.put_if_absent(f"{path}/zarr.json", schema.group_document(attributes))
        dataset = self.part(name)
        node = schema.parse_group(path, read_document(self.storage, path))
        _refuse_differences(f"dataset '{name}'", node.attributes, attributes)
        if dataset.array(PIXELS).shape != pixels_shape:
            stored_shape = dataset.array(PIXELS).shape
            raise errors.Conflict(f"'{name}/pixels' exists with shape {stored_shape}, asked for {pixels_shape}")
        return dataset

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset: the tokens first, because they depend on the pixels, and its own node last.

        Raises:
            errors.MissingName: there is none of this name; the available ones are listed.
        """
        deletion.delete(self.storage, name)
        self._forget(name)

    def _forget(self, name: str) -> None:
        """Open a dataset again when it is next asked for: parts were added or deleted."""
        self._datasets.pop(name, None)
        for stored in [stored for stored in self._parts if name in (stored, whole_name(stored))]:
            del self._parts[stored]

    def _pixels(self, rows: int) -> tuple[tuple[int, ...], bytes]:
        """Return shape and zarr.json of a pixels array."""
        size = self._attributes.image_size
        shard_rows = self._attributes.shard_rows
        jpeg = self._attributes.jpeg
        document = pixels_schema.pixels_document(rows=rows, image_size=size, shard_rows=shard_rows, jpeg=jpeg)
        return (rows, size, size, 3), document

    def _existing(self, path: str) -> Node | None:
        try:
            return schema.parse_group(path, read_document(self.storage, path))
        except FileNotFoundError:
            return None

    def _put_images(self, name: str, table: pa.Table) -> str:
        """Store the image list unless there is one, which must be equal; return the sha256 of the stored file."""
        key = schema.images_key(name)
        self.storage.put_if_absent(key, manifest.parquet_bytes(table))
        data = self.storage.read(key)
        stored = manifest.parse_images(data, images=None, where=f"'{key}'")
        if not stored.equals(table):
            exits = "Give the dataset another name, or delete this one if its images changed"
            message = f"dataset '{name}' exists with another image list ('{key}'). {_first_difference(stored, table)}"
            raise errors.Conflict(f"{message}. {exits}")
        return hashlib.sha256(data).hexdigest()


def create(location: Location, recipe: Mapping[str, Any]) -> Cache:
    """Create a cache, or open it if it exists with the same recipe.

    Args:
        location: path or URL of the cache.
        recipe: plain JSON; the store itself needs `image_size` (px) and `shard_rows`.

    Raises:
        errors.Conflict: it exists with another recipe; both values are shown.
        errors.OutputExists: there is something else at the location.
        errors.InvalidInput: the recipe lacks a key or is not plain JSON.
    """
    asked = schema.plain_json(dict(recipe))
    pixel_sizes(Fields(asked, where="recipe", error=errors.InvalidInput))
    stored_as_jpeg(asked, where="recipe", error=errors.InvalidInput)
    storage = open_storage(location)
    _refuse_other_content(storage)
    attributes = {"format": FORMAT, "uuid": str(uuid.uuid4()), "recipe": asked}
    storage.put_if_absent(ROOT_KEY, schema.group_document(attributes))
    cache = Cache(storage)
    _refuse_differences(f"cache {cache.location}", {"recipe": cache.recipe}, {"recipe": asked})
    return cache


def open(location: Location) -> Cache:
    """Open a cache; reads one small document.

    Args:
        location: path or URL of the cache.

    Raises:
        errors.MissingCache: there is no cache.
        errors.UnsupportedFormat: a newer version wrote it, or codistill did not write it.
    """
    return Cache(open_storage(location))


def check_creatable(location: Location) -> None:
    """Check that there is nothing at a location that `create` would mix a cache with.

    Raises:
        errors.OutputExists: the location is not empty and holds no cache; what is there is named.
    """
    _refuse_other_content(open_storage(location))


def _refuse_other_content(storage: Storage) -> None:
    """Refuse a location with other content than a cache, also one whose creation or root document was lost."""
    if storage.exists(ROOT_KEY):
        return
    folders = set(storage.list_directories(""))
    names = folders | {entry.name for entry in storage.list_objects("")}
    other = sorted(name for name in names if not (name.startswith(".") or name == LOST_AND_FOUND))
    if HIERARCHY in folders:
        other = [name for name in other if name not in CACHE_FOLDERS]
    if other:
        raise errors.OutputExists(
            f"'{storage.location}' is not empty and holds no cache: {some(other, limit=LISTED_NAMES)}. Choose an empty "
            "or new folder, for example one of another name inside it"
        )


def _refuse_differences(subject: str, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = schema.differences(dict(stored), dict(asked))
    if differing:
        exits = "Use another name or another cache"
        raise errors.Conflict(f"{subject} exists and differs. {'; '.join(differing)}. {exits}")


def _refuse_unreadable(subject: str, attributes: Mapping[str, Any], *, path: str) -> None:
    """Refuse attributes that no reader would accept.

    Raises:
        errors.InvalidInput: expected and given value are shown.
    """
    document = {"attributes": {"codistill": dict(attributes)}}
    try:
        DatasetAttributes.of(Node(path=path, document=document))
    except errors.Damaged as error:
        raise errors.InvalidInput(f"{subject}: {str(error).partition('codistill.')[2]}") from None


def _checked_images(images: pa.Table, name: str) -> pa.Table:
    table = manifest.conform(images, manifest.IMAGES_SCHEMA, subject=f"image list of '{name}'").combine_chunks()
    if table.num_rows == 0:
        raise errors.InvalidInput(f"dataset '{name}' has no images. Check its root and pattern")
    if not np.array_equal(table["image_index"].to_numpy(), np.arange(table.num_rows)):
        raise errors.InvalidInput(f"image list of '{name}': column 'image_index' must be 0, 1, 2, ...")
    return table


def _first_difference(stored: pa.Table, asked: pa.Table) -> str:
    if stored.num_rows != asked.num_rows:
        return f"stored: {stored.num_rows} images, asked: {asked.num_rows}"
    for before, after in zip(stored.to_pylist(), asked.to_pylist(), strict=True):
        if before != after:
            return f"stored: {before}, asked: {after}"
    return "the columns differ"
