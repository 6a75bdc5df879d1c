"""Interface of image sources: list all images, read the bytes of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

PART_IMAGES = 2**16
UNKNOWN_BYTES = -1  # size of an image that cannot be found, or whose size is known only by reading it


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All images of a dataset, in the order of their numbers.

    Attributes:
        table: `path` string (relative, POSIX, unique, sorted by UTF-8 bytes) and `bytes` int64 (or UNKNOWN_BYTES).
        notes: remarks for the user: unmatched or repeated files, folders that were not entered.
    """

    table: pa.Table
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def paths(self) -> list[str]:
        """All paths, as one Python object each: not for millions of images."""
        return list(self.table["path"].to_pylist())

    @property
    def sizes_bytes(self) -> list[int]:
        """All sizes, as one Python object each."""
        return list(self.table["bytes"].to_pylist())


class ListingBuilder:
    """Collects images in any order; holds them as Arrow buffers, about 80 bytes an image rather than 300."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._sizes: list[int] = []
        self._parts: list[pa.Table] = []

    def add(self, path: str, size_bytes: int) -> None:
        """Add one image; an image that is added twice counts once."""
        self._paths.append(path)
        self._sizes.append(size_bytes)
        if len(self._paths) == PART_IMAGES:
            self._flush()

    def finish(self, notes: Sequence[str] = ()) -> Listing:
        """Return the sorted listing, with a note of how many images were added more than once."""
        self._flush()
        table = pa.concat_tables(self._parts).combine_chunks()
        table = table.take(pc.sort_indices(table["path"]))  # strings compare by their UTF-8 bytes
        if table.num_rows > 1:
            paths = table["path"].combine_chunks()
            first = pc.not_equal(paths[1:], paths[:-1])
            repeated = table.num_rows - 1 - int(pc.sum(first).as_py() or 0)
            if repeated:
                table = table.filter(pa.concat_arrays([pa.array([True]), first]))
                notes = [*notes, f"{repeated} paths are listed more than once and taken once"]
        return Listing(table=table, notes=tuple(notes))

    def _flush(self) -> None:
        columns = {"path": pa.array(self._paths, pa.large_string()), "bytes": pa.array(self._sizes, pa.int64())}
        self._parts.append(pa.table(columns))
        self._paths, self._sizes = [], []


class Source(Protocol):
    """Images of a dataset, in whatever container. Safe to use from several threads."""

    def enumerate(self) -> Listing:
        """List all images. Raises errors.MissingFile if the source does not exist."""

    def read(self, path: str, size_bytes: int) -> bytes:
        """Return the bytes of one image.

        Args:
            path: path from the listing.
            size_bytes: size from the listing; another size now means another file.

        Raises:
            DecodeError: this image cannot be read or has changed; its rows fail.
            errors.MissingFile: the whole source does not exist, which tells nothing about its images.
        """

    def describe(self) -> dict[str, Any]:
        """Return what decides the listing, without the location, as JSON; the cache stores and compares it."""


def storable(name: str) -> str:
    """Return a file name as valid UTF-8; bytes that are not UTF-8 become escapes, under which no file can be opened."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return name


def relative_name(path: str) -> str | None:
    """Return a relative POSIX path in normal form; None for an absolute path, one with `..`, or an empty one."""
    pure = PurePosixPath(path)
    return None if pure.is_absolute() or ".." in pure.parts or not pure.parts else str(pure)
