"""What every source of images offers: a listing of its images and the bytes of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

UNKNOWN_BYTES = -1  # size of an image that cannot be found, or that is known only by reading it


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a dataset, in the order that their numbers follow.

    Attributes:
        paths: relative POSIX paths, unique, sorted by their UTF-8 bytes.
        sizes_bytes: size of each image, or UNKNOWN_BYTES.
        notes: what the user should know: hidden, unmatched or repeated files, folders that were not entered.
    """

    paths: Sequence[str]
    sizes_bytes: Sequence[int]
    notes: tuple[str, ...] = ()


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


def sorted_listing(sizes: dict[str, int], notes: Sequence[str] = ()) -> Listing:
    """A listing in canonical order. Comparing code points orders strings as comparing their UTF-8 bytes does."""
    paths = sorted(sizes)
    return Listing(paths=paths, sizes_bytes=[sizes[path] for path in paths], notes=tuple(notes))


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
