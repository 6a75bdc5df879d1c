"""Stage index: list a dataset's images and create it in the cache, or take in images that were added to its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from extract.catalogue import DatasetEntry
from extract.sources import Listing, Source
from store import Cache, Dataset, errors
from store.format import manifest, schema
from store.format.parts import part_name
from store.format.schema import images_key


@dataclass(frozen=True, kw_only=True)
class ImageChanges:
    """Differences between the images of a dataset and those that a source lists now; tables of `path` and `bytes`.

    Attributes:
        gone: stored images that are not listed any more.
        new: listed images that are in no part.
        resized: listed images whose size is not the stored one.
        stored: number of stored images.
        listed: number of listed images.
    """

    gone: pa.Table
    new: pa.Table
    resized: pa.Table
    stored: int
    listed: int

    @property
    def sentence(self) -> str:
        """Numbers and first paths of each kind of change; empty without any."""
        return _sentence({"gone": self.gone, "new": self.new, "of another size": self.resized})

    @property
    def untouched(self) -> str:
        """What has changed with stored images, with which nothing is done; empty if nothing."""
        return _sentence({"gone": self.gone, "of another size": self.resized})


def index(
    cache: Cache, entry: DatasetEntry, source: Source, *, append: bool = False
) -> tuple[Dataset, tuple[str, ...]]:
    """List a dataset's images and create it in the cache; if it exists, check that nothing differs.

    Args:
        cache: cache of the job.
        entry: dataset of the catalogue.
        source: its images.
        append: take in images that are in no part of the dataset as a further part; images that are gone or changed
            are told and left as they are stored.

    Returns:
        The dataset with all of its parts, and notes on the listing for people.

    Raises:
        errors.Conflict: the dataset exists with other images or settings.
        errors.MissingFile: the source of the images does not exist.
        errors.InvalidInput: there are no images.
    """
    listing = source.enumerate()
    notes = list(listing.notes)
    if entry.expected_images not in (None, len(listing)):
        notes.append(f"{len(listing):,} images, expected {entry.expected_images:,}")
    if entry.name not in cache.datasets:
        dataset = cache.create_dataset(
            entry.name,
            images=_numbered(listing.table),
            group=entry.group,
            split=entry.split,
            mode=entry.mode,
            views=entry.views,
            first_view=entry.first_view,
            source=_described(entry, source, remark=entry.note),
        )
        return dataset, tuple(notes)
    stored = cache[entry.name]
    changes = image_changes(stored, listing)
    if append:
        notes += _append(cache, entry, source, changes, listing)
        return cache[entry.name], tuple(notes)
    _refuse_changes(stored, changes)
    *_, last = cache.parts(entry.name)
    remark = last.source.get("note", "")  # another remark makes no other dataset
    _refuse_other_settings(last, entry, _described(entry, source, remark=remark))
    return stored, tuple(notes)


def image_changes(dataset: Dataset, listing: Listing) -> ImageChanges:
    """Compare the images of a dataset, those of all parts, with what a source lists now."""
    listed = listing.table
    stored = dataset.image_list().select(["path", "bytes"]).cast(listed.schema)
    if stored.equals(listed):
        none = listed.slice(0, 0)
        return ImageChanges(gone=none, new=none, resized=none, stored=len(stored), listed=len(listed))
    stored = stored.take(pc.sort_indices(stored["path"]))  # in the order of a listing
    known, here = pc.is_in(listed["path"], stored["path"]), pc.is_in(stored["path"], listed["path"])
    both_stored, both_listed = stored.filter(here), listed.filter(known)
    return ImageChanges(
        gone=stored.filter(pc.invert(here)),
        new=listed.filter(pc.invert(known)),
        resized=both_stored.filter(pc.not_equal(both_stored["bytes"], both_listed["bytes"])),
        stored=len(stored),
        listed=len(listed),
    )


def would_append(cache: Cache | None, entry: DatasetEntry, source: Source) -> str:
    """Return what `index` with `append` would take in, for people; nothing is written."""
    if cache is None or entry.name not in cache.datasets:
        return f"'{entry.name}' is not in the cache yet: all of its images would be taken in"
    changes = image_changes(cache[entry.name], source.enumerate())
    told = f"{len(changes.new):,} new images of '{entry.name}' would be taken in"
    return told + (f"; stored images: {changes.untouched}; their rows would stay" if changes.untouched else "")


def _append(cache: Cache, entry: DatasetEntry, source: Source, changes: ImageChanges, listing: Listing) -> list[str]:
    """Take in new images as further parts; return what to tell of it."""
    notes = []
    if changes.untouched:
        notes.append(f"stored images: {changes.untouched}; their rows stay as they are")
    new, described = changes.new, _described(entry, source, remark=entry.note)
    begun = _begun(cache, entry.name, listing)
    for images in [table for table in (begun, _without(new, begun)) if table is not None and len(table)]:
        part = cache.create_part(entry.name, images=_numbered(images), source=described)
        notes.append(
            f"{part.images:,} new images are taken in as part '{part.name}': rows {part.first_row:,} to "
            f"{part.first_row + part.rows - 1:,}"
        )
    if not len(new):
        notes.append("nothing to append: every image is in the cache")
    return notes


def _begun(cache: Cache, name: str, listing: Listing) -> pa.Table | None:
    """Return the images of a part that an earlier job began and did not finish to create; None if there is none.

    Raises:
        errors.Conflict: its images are not all there any more.
    """
    stored_name = part_name(name, len(list(cache.parts(name))))
    key = images_key(stored_name)
    if not cache.storage.exists(key):
        return None
    images = manifest.parse_images(cache.storage.read(key), images=None, where=f"'{key}'").select(["path", "bytes"])
    images = images.cast(listing.table.schema)
    there = listing.table.filter(pc.is_in(listing.table["path"], images["path"]))
    if not there.equals(images):
        raise errors.Conflict(
            f"an append that did not end left '{key}', and its images are gone or changed. Restore them, or run: "
            f"codistill store delete {cache.location} {stored_name}"
        )
    return images


def _without(new: pa.Table, begun: pa.Table | None) -> pa.Table:
    return new if begun is None else new.filter(pc.invert(pc.is_in(new["path"], begun["path"])))


def _numbered(images: pa.Table) -> pa.Table:
    return images.add_column(0, "image_index", pa.array(np.arange(len(images)), pa.int64()))


def _described(entry: DatasetEntry, source: Source, *, remark: str) -> dict[str, Any]:
    return source.describe() | entry.decoding() | ({"note": remark} if remark else {})


def _refuse_other_settings(last: Dataset, entry: DatasetEntry, described: Mapping[str, Any]) -> None:
    """Refuse settings other than those of the part that was indexed last, whose source is today's."""
    names = ("group", "split", "mode", "views", "first_view")
    stored = {name: getattr(last, name) for name in names} | {"source": last.source}
    asked = {name: getattr(entry, name) for name in names} | {"source": schema.plain_json(dict(described))}
    differing = schema.differences(stored, asked)
    if differing:
        exits = "Use another name or another cache"
        raise errors.Conflict(f"dataset '{last.name}' exists and differs. {'; '.join(differing)}. {exits}")


def _refuse_changes(dataset: Dataset, changes: ImageChanges) -> None:
    """Raise errors.Conflict that names the images that differ; the store could only tell that the lists do."""
    if not changes.sentence:
        return
    new = "take the new ones in as a further part: --append; or " if len(changes.new) else ""
    raise errors.Conflict(
        f"dataset '{dataset.name}' was indexed with {changes.stored} images, now there are {changes.listed}: "
        f"{changes.sentence}. Restore them; or {new}go on with the list as it was, where images that are gone or "
        "changed fail: --stages views,features,seal; or start over: --overwrite; or use another name"
    )


def _sentence(kinds: Mapping[str, pa.Table]) -> str:
    told: Sequence[str] = [f"{len(t)} {kind} (first '{t['path'][0].as_py()}')" for kind, t in kinds.items() if len(t)]
    return ", ".join(told)
