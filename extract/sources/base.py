"""What every source of images offers: a listing of its images and the bytes of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

PART_IMAGES = 2**16
UNKNOWN_BYTES = -1  # size of an image that cannot be found, or that is known only by reading it


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a dataset, in the order that their numbers follow.

    Attributes:
        table: `path` string (relative, POSIX, unique, sorted by UTF-8 bytes) and `bytes` int64 (UNKNOWN_BYTES if so).
        notes: what the user should know: hidden, unmatched or repeated files, folders that were not entered.
    """

    table: pa.Table
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def paths(self) -> list[str]:
        """All paths; an object each, so not for millions."""
        return list(self.table["path"].to_pylist())

    @property
    def sizes_bytes(self) -> list[int]:
        """All sizes."""
        return list(self.table["bytes"].to_pylist())


class ListingBuilder:
    """Collects images in any order; holds them as Arrow buffers, about 80 bytes an image rather than 300."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._sizes: list[int] = []
        self._parts: list[pa.Table] = []

    def add(self, path: str, size_bytes: int) -> None:
        """Take in one image; one that is added twice counts once."""
        self._paths.append(path)
        self._sizes.append(size_bytes)
        if len(self._paths) == PART_IMAGES:
            self._flush()

    def finish(self, notes: Sequence[str] = ()) -> Listing:
        """Sort what was taken in. Notes how many images were added more than once."""
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
    """A dataset's images, wherever they are kept. Safe to use from several threads."""

    def enumerate(self) -> Listing:
        """List all images. Raises errors.MissingFile if the place is not there."""

    def read(self, path: str, size_bytes: int) -> bytes:
        """The bytes of one image.

        Args:
            path: as in the listing.
            size_bytes: as in the listing; another size now means another file.

        Raises:
            DecodeError: this image cannot be read or has changed; its rows fail.
            errors.MissingFile: the whole source is not there; nothing may be concluded about its images.
        """

    def describe(self) -> dict[str, Any]:
        """What the listing follows from, as JSON, without the place: it is stored and compared."""


def storable(name: str) -> str:
    """A file's name as text that UTF-8 can hold; bytes that are not UTF-8 become escapes, which no file answers to."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode()
    return name


def relative_name(path: str) -> str | None:
    """A relative POSIX path in normal form; None for an absolute one, one with `..`, or nothing."""
    pure = PurePosixPath(path)
    return None if pure.is_absolute() or ".." in pure.parts or not pure.parts else str(pure)
